//! An image or a step that reaches for the program that rbuild is.

use std::fs;
use std::process::Command;

use crate::support::{
    Finished, Need, Project, Rung, base_image_mirror, each_rung, needs, repository,
    run_with_timeout, skip,
};

#[test]
fn rbuilds_own_program_is_out_of_a_steps_reach() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        r#"
        FROM debian
        RUN <<EOF
        ln -s /proc/self/exe /l; ln -s /proc/1/exe /m; ln -s /proc/1 /n
        cat > /x.pl <<'PERL'
        my $acl = pack "VvvVvvVvvV", 2, 1, 7, 0xffffffff, 4, 7, 0xffffffff, 0x20, 7, 0xffffffff;
        my $set = (`uname -m` =~ /x86_64/) ? 188 : 5;
        my @paths = ("/proc/1/exe", "/m", "/n/exe");
        # Processes are listed, threads of others are not, and are there.
        opendir my $list, "/proc"; my %own = map {; $_ => 1 } grep { $_ ne "1" } readdir $list;
        for my $id (1 .. 9) { push @paths, "/proc/1/task/$id/exe"; push @paths, "/proc/$id/exe" if !$own{$id} }
        # It is the step's own program that this one may lead to.
        my ($name, $value, $link) = ("user.attack", "x", "/l");
        syscall($set, $link, $name, $value, 1, 0);
        for my $path (@paths) {
            $name = "user.attack";
            print "attribute of $path\n" if syscall($set, $path, $name, $value, 1, 0) == 0;
            $name = "system.posix_acl_access";
            print "list of $path\n" if syscall($set, $path, $name, $acl, length $acl, 0) == 0;
            print "owner of $path\n" if chown 5, 5, $path;
        }
        PERL
        perl /x.pl && echo tried
        EOF
        "#,
    );
    each_rung(|rung| {
        let finished = build_with_own_program(rung, &project).ok();
        assert_eq!(finished.output(), ["tried"], "on {rung:?}");
    });
}

/// Builds with a program that belongs to the user, as in a home folder, and is not changed by it.
fn build_with_own_program(rung: &Rung, project: &Project) -> Finished {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let rbuild = rung.rbuild();
    let program = rbuild.out().join("rbuild");
    fs::copy(rung.user.binary(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    rung.user.own(&program);
    let before = fs::metadata(&program).unwrap();
    let mut command = rung.user.command(&program);
    command
        .env("HOME", rbuild.home())
        .env("RBUILD_ROOT", rbuild.store())
        .env("RBUILD_ISOLATION", rung.name)
        .args(["build", "--progress", "plain", "--registry-mirror"])
        .arg(base_image_mirror().unwrap())
        .arg(project.path());
    let finished = run_with_timeout(command, None);
    let after = fs::metadata(&program).unwrap();
    let facts = |metadata: &fs::Metadata| {
        (
            metadata.mode(),
            metadata.uid(),
            metadata.size(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        )
    };
    assert_eq!(
        facts(&after),
        facts(&before),
        "on {rung:?}\n{}",
        finished.stderr
    );
    finished
}

#[test]
fn an_image_that_runs_rbuilds_own_program_gets_a_copy() {
    if !needs(&[Need::BaseImages, Need::Program("cc")]) {
        return;
    }
    if !cfg!(target_arch = "x86_64") {
        return skip("the attack is written for x86-64");
    }
    // A dynamic loader that attacks the program which it is to load.
    let folder = tempfile::tempdir().unwrap();
    let loader = folder.path().join("loader");
    let compiled = Command::new("cc")
        .args([
            "-static-pie",
            "-nostdlib",
            "-fPIE",
            "-fno-stack-protector",
            "-O1",
            "-o",
        ])
        .arg(&loader)
        .arg(repository().join("tests/support/loader.c"))
        .status()
        .unwrap();
    assert!(compiled.success());
    let loader = fs::read(&loader).unwrap();
    for program in [
        "/proc/self/exe",
        "/link",
        "/script",
        "/proc/thread-self/exe",
    ] {
        let project = Project::with(&format!(
            "
            FROM busybox
            COPY --chmod=755 loader /lib64/ld-linux-x86-64.so.2
            COPY --chmod=755 script /script
            RUN ln -s /proc/self/exe /link
            RUN [\"{program}\"]
            "
        ))
        .file("loader", &loader)
        .file("script", "#!/proc/self/exe\n");
        each_rung(|rung| {
            let finished = build_with_own_program(rung, &project);
            // Linked statically, it loads nothing.
            let ran = finished.output().iter().any(|line| line == "attacked");
            assert!(ran || !is_dynamic(), "{program}: {}", finished.stderr);
        });
    }
}

/// Whether rbuild has a dynamic loader.
fn is_dynamic() -> bool {
    let program = fs::read(env!("CARGO_BIN_EXE_rbuild")).unwrap();
    program[..4096]
        .windows(9)
        .any(|window| window == b"/ld-linux")
}
