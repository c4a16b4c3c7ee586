//! Dockerfiles, contexts and images that attack the machine they are built on. Each case is a known
//! hole of some builder or runtime; `docs/security.md` says which, and what closes it here.

mod own_program;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Finished, Need, Project, Rbuild, Terminal, User, base_image_mirror, each_rung, needs, skip,
};

/// What stands in a file of the machine's and must never be seen by a step.
const CANARY: &str = "canary-of-the-machine";

/// A folder of the machine's that everybody may read and write: what keeps a step out of it is its
/// sandbox alone.
struct Victim(tempfile::TempDir);

impl Victim {
    fn new() -> Victim {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b/c")).unwrap();
        fs::write(folder.path().join("canary"), CANARY).unwrap();
        for name in ["", "b", "b/c", "canary"] {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(folder.path().join(name), mode).unwrap();
        }
        Victim(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fails unless everything is as it was, and nothing of it was printed.
    #[track_caller]
    fn is_untouched(&self, finished: &Finished) {
        let mut names: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["b", "canary"]);
        assert_eq!(fs::read_dir(self.path().join("b/c")).unwrap().count(), 0);
        let canary = self.path().join("canary");
        assert_eq!(fs::read_to_string(canary).unwrap(), CANARY);
        assert!(!finished.stderr.contains(CANARY), "{}", finished.stderr);
        assert!(!finished.text().contains(CANARY), "{}", finished.text());
    }
}

/// Builds that must not hang, panic or kill rbuild, whatever else comes of them.
#[track_caller]
fn build(rbuild: &Rbuild, dockerfile: &str) -> Finished {
    let begun = Instant::now();
    let finished = rbuild.build(&Project::with(dockerfile)).run();
    assert!(finished.status.code().is_some(), "{}", finished.status);
    assert!(
        !finished.stderr.contains("panicked at"),
        "{}",
        finished.stderr
    );
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{}",
        finished.stderr
    );
    finished
}

#[test]
fn working_directories_lead_through_no_descriptor() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let victim = Victim::new();
    let read = format!(
        "RUN cat ../../../../../../../..{}/canary",
        victim.path().display()
    );
    each_rung(|rung| {
        let rbuild = rung
            .rbuild()
            .env("RBUILD_REGISTRY_MIRROR", base_image_mirror().unwrap());
        for descriptor in 3..12 {
            let dockerfile = format!("FROM busybox\nWORKDIR /proc/self/fd/{descriptor}\n{read}\n");
            let finished = build(&rbuild, &dockerfile).fails();
            victim.is_untouched(&finished);
        }
        for path in [
            "/link/9",
            "/link/../cwd",
            "/proc/1/root",
            "/proc/self/task/1/cwd",
        ] {
            let dockerfile =
                format!("FROM busybox\nRUN ln -s /proc/self/fd /link\nWORKDIR {path}\n{read}\n");
            victim.is_untouched(&build(&rbuild, &dockerfile).fails());
        }
        build(&rbuild, "FROM busybox\nRUN ln -s /proc/self/fd /link\n").ok();
        rbuild
            .build(&Project::with(
                "FROM busybox\nRUN ln -s /proc/self/fd /link\n",
            ))
            .tag("app")
            .ok();
        for path in [
            "/proc/self/fd/7",
            "/proc/self/fd/9",
            "/link/8",
            "/proc/1/cwd",
        ] {
            let canary = format!("../../../../../../../..{}/canary", victim.path().display());
            let finished = rbuild.run(["run", "-w", path, "app", "cat", &canary]);
            victim.is_untouched(&finished.fails());
        }
    });
}

#[test]
fn sources_of_mounts_stay_inside_what_they_are_sources_of() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let victim = Victim::new();
    let out = victim.path().display();
    let cases = [
        format!(
            "RUN --mount=type=bind,from=evil,source=/root-link,target=/m,rw cat /m{out}/canary; touch /m/x"
        ),
        "RUN --mount=type=bind,from=evil,source=/out,target=/m,rw cat /m/canary; touch /m/x"
            .to_owned(),
        "RUN --mount=type=bind,from=evil,source=/climb,target=/m,rw cat /m/canary; touch /m/x"
            .into(),
        "RUN --mount=type=bind,from=evil,source=/proc-link,target=/m,rw cat /m/canary; touch /m/x"
            .into(),
        "RUN --mount=type=bind,from=evil,source=/proc/self/cwd,target=/m cat /m/canary".into(),
        "RUN --mount=type=cache,from=evil,source=/out,target=/m cat /m/canary; touch /m/x".into(),
        format!(
            "RUN --mount=type=cache,from=evil,source=/root-link,target=/m cat /m{out}/canary; touch /m/x"
        ),
        "RUN --mount=type=bind,source=context-link,target=/m,rw cat /m/canary; touch /m/x".into(),
        format!(
            "RUN --mount=type=bind,source=root-link,target=/m,rw cat /m{out}/canary; touch /m/x"
        ),
        format!(
            "RUN --mount=type=bind,source=../../../../../..{out},target=/m,rw cat /m/canary; touch /m/x"
        ),
        format!(
            "RUN --mount=type=cache,id=a,target=/c ln -s {out} /c/sub; ln -s / /c/root\n\
                 RUN --mount=type=cache,id=a,source=sub,target=/m cat /m/canary; touch /m/x\n\
                 RUN --mount=type=cache,id=a,source=root,target=/n cat /n{out}/canary; touch /n{out}/x"
        ),
        format!("COPY --from=evil /out/canary /root-link{out}/canary /\nRUN cat /canary"),
        "COPY context-link/canary /\nRUN cat /canary".into(),
    ];
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        for case in &cases {
            let project = Project::with(&format!(
                "FROM busybox AS evil\n\
                 RUN ln -s / /root-link; ln -s {out} /out; ln -s ../../../../..{out} /climb; \
                 ln -s /proc/self/cwd{out} /proc-link\n\
                 FROM busybox\n{case}\n"
            ))
            .symlink("context-link", victim.path())
            .symlink("root-link", "/");
            let finished = rbuild.build(&project).run();
            assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
            victim.is_untouched(&finished);
        }
    });
}

#[test]
fn mount_points_are_cleaned_up_through_no_link() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let victim = Victim::new();
    let out = victim.path().display();
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        let project = Project::with(&format!(
            "
            FROM busybox
            RUN --mount=type=tmpfs,target=/a/b/c mv /a/b /a/moved; ln -s {out}/b /a/b; ls -l /a
            RUN --mount=type=tmpfs,target=/e/b mv /e /moved; ln -s {out} /e; ls -l /
            RUN --mount=type=bind,source=file,target=/f/b/canary mv /f /moved2; ln -s {out} /f; ls -l /
            RUN --mount=type=cache,target=/g/b/c umount /g/b/c; rm -rf /g; ln -s {out} /g; ls -l /
            "
        ))
        .file("file", "");
        let finished = rbuild.build(&project).run();
        victim.is_untouched(&finished);
        // Nor is one that the step has put in a mount point's place.
        victim.is_untouched(&rbuild.build(&project).run());
    });
}

#[test]
fn privileges_are_the_callers_to_give() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        for line in [
            "RUN --security=insecure echo ran",
            "RUN --security='insecure' echo ran",
            "ARG how=insecure\nRUN --security=$how echo ran",
            "RUN --network=none --security=insecure echo ran",
        ] {
            let dockerfile =
                format!("# syntax=example.org/evil/frontend:1\nFROM busybox\n{line}\n");
            let finished = build(&rbuild, &dockerfile).fails();
            assert!(
                finished.output().is_empty(),
                "{line}: {:?}",
                finished.output()
            );
        }
        // Nor does an image ask for them in somebody else's name.
        let base = Project::with("FROM busybox\nONBUILD RUN --security=insecure echo ran\n");
        rbuild.build(&base).tag("base").ok();
        let finished = build(&rbuild, "FROM base\n").fails();
        assert!(finished.output().is_empty(), "{:?}", finished.output());
    });
}

#[test]
fn values_of_mounts_hold_no_options_of_the_kernel() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let victim = Victim::new();
    let out = victim.path().display();
    let refused = [
        "type=bind,target=/m,bind-propagation=shared".to_owned(),
        "type=bind,target=/m,z".into(),
        "type=bind,target=/m,relabel=shared".into(),
        "type=tmpfs,target=/m,size=1m:dev".into(),
        r#"type=tmpfs,target=/m,"size=1m,dev""#.into(),
        "type=tmpfs,target=/m,size=1m\\,suid".into(),
        "type=tmpfs,target=/m,options=dev".into(),
        r#"type=cache,target=/m,"mode=0755,dev""#.into(),
        "type=cache,target=/m,mode=0755:suid".into(),
        "type=cache,target=/m,sharing=shared:dev".into(),
        "type=overlay,target=/m".into(),
        format!("type=bind,target=/m,upperdir={out}"),
        "type=devpts,target=/m".into(),
    ];
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        for mount in &refused {
            let finished = build(
                &rbuild,
                &format!("FROM busybox\nRUN --mount={mount} echo ran\n"),
            );
            let finished = finished.fails();
            assert!(
                finished.output().is_empty(),
                "{mount}: {:?}",
                finished.output()
            );
        }
        // What looks like options of overlay in a name is a name.
        let project = Project::with(&format!(
            "
            FROM busybox
            RUN --mount=type=cache,\"target=/m:{out},upperdir=x\" true
            RUN --mount=type=cache,\"id=lowerdir=/:{out},userxattr\",target=/m ls /m; grep ' /m ' /proc/mounts
            RUN --mount=type=tmpfs,target=/m,size=1m grep ' /m ' /proc/mounts
            "
        ));
        let finished = rbuild.build(&project).run();
        victim.is_untouched(&finished);
        for line in finished.output() {
            assert!(line.contains("nodev"), "{line}");
        }
    });
}

#[test]
fn the_id_of_a_cache_is_no_path() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let victim = Victim::new();
    let out = victim.path().display();
    let ids = [
        format!("{out}"),
        format!("../../../../../../../../..{out}"),
        format!("a/../../../../../../../..{out}"),
        "..".to_owned(),
        ".".into(),
        "/".into(),
        "/etc".into(),
        "%2e%2e%2f".into(),
        "x".repeat(5000),
    ];
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        let mut dockerfile = "FROM busybox\n".to_owned();
        for id in &ids {
            dockerfile += &format!(
                "RUN --mount=type=cache,id={id},target=/m ls -A /m | wc -l; touch /m/mine\n"
            );
        }
        let finished = build(&rbuild, &dockerfile).ok();
        // Each is empty, and another one.
        assert_eq!(finished.output(), vec!["0"; ids.len()]);
        victim.is_untouched(&finished);
    });
}

#[test]
fn users_of_an_image_are_read_from_plain_files_inside() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let victim = Victim::new();
    let users = victim.path().join("b/passwd");
    fs::write(&users, "victim:x:0:0::/:/bin/sh\n").unwrap();
    let outside = users.display();
    let makers = [
        format!("ln -sf {outside} /etc/FILE"),
        format!("ln -sf ../../../../../..{outside} /etc/FILE"),
        format!("ln -sf /proc/self/root{outside} /etc/FILE"),
        "rm /etc/FILE; mkfifo /etc/FILE".to_owned(),
        "ln -sf /dev/zero /etc/FILE".into(),
        "ln -sf /proc/kmsg /etc/FILE".into(),
        "rm /etc/FILE; ln -s FILE /etc/FILE".into(),
        "rm /etc/FILE; mkdir /etc/FILE".into(),
        "rm /etc/FILE; truncate -s 20M /etc/FILE".into(),
        "rm /etc/FILE; mknod /etc/FILE c 1 5 || ln -s /dev/zero /etc/FILE".into(),
    ];
    each_rung(|rung| {
        let rbuild = rung
            .rbuild()
            .env("RBUILD_REGISTRY_MIRROR", base_image_mirror().unwrap());
        for maker in &makers {
            for (file, user) in [("passwd", "victim"), ("group", "0:victim")] {
                let maker = maker.replace("FILE", file);
                let dockerfile =
                    format!("FROM busybox\nRUN {maker}\nUSER {user}\nRUN echo ran as $(id -u)\n");
                let finished = build(&rbuild, &dockerfile).fails();
                assert!(
                    !finished.output().iter().any(|line| line.starts_with("ran")),
                    "{maker}"
                );
                if file == "group" {
                    continue;
                }
                let project = Project::with(&format!("FROM busybox\nRUN {maker}\n"));
                rbuild.build(&project).tag("app").ok();
                let begun = Instant::now();
                let finished = rbuild
                    .run(["run", "-u", user, "app", "echo", "ran"])
                    .fails();
                assert!(!finished.text().contains("ran"), "{maker}");
                assert!(begun.elapsed() < Duration::from_secs(60), "{maker}");
            }
        }
    });
}

#[test]
fn a_step_that_kills_everything_ends_and_rbuild_says_so() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        build(&rbuild, "FROM busybox\nRUN sh -c 'kill -9 -1'; echo on\n")
            .fails()
            .says(&["Dockerfile:2", "137"]);
        // Whoever kills all others goes on, and so does whoever answers for the kernel.
        let finished = build(
            &rbuild,
            "FROM busybox\nRUN kill -9 -1 2>/dev/null; kill -STOP 1; touch /f; chown 7:8 /f; stat -c %u:%g /f\n",
        );
        assert_eq!(finished.ok().output(), ["7:8"]);
    });
}

#[test]
fn nothing_that_a_step_forks_survives_it() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_rung(|rung| {
        let mark = format!("7{}{:06}", rung.name.len(), std::process::id());
        let script = format!(
            "for i in $(seq 60); do setsid sh -c \"trap : HUP TERM INT; sleep {mark} & sleep {mark}\" & done; \
             while [ $(ps | grep -c 'sleep {mark}') -lt 100 ]; do :; done; echo many"
        );
        let finished = build(&rung.rbuild(), &format!("FROM busybox\nRUN {script}\n")).ok();
        assert_eq!(finished.output(), ["many"]);
        assert!(!crate::support::is_running(&mark));
    });
}

#[test]
fn owners_are_noted_by_no_step_itself() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    // By Perl, tar and cp: what stands in the image is a file of root's.
    let project = Project::new().dockerfile(
        r#"
        FROM debian
        RUN <<EOF
        touch /forged /kept /copied-from
        chown 7:8 /kept /copied-from
        cat > /forge.pl <<'PERL'
        my $name = "user.containers.override_stat";
        my $value = "4242:4242:04755:char-1-1";
        # setxattr, lsetxattr; removexattr, lremovexattr of x86-64 or others
        my @set = (`uname -m` =~ /x86_64/) ? (188, 189) : (5, 6);
        my @remove = (`uname -m` =~ /x86_64/) ? (197, 198) : (14, 15);
        my ($forged, $kept) = ("/forged", "/kept");
        for (@set) { syscall($_, $forged, $name, $value, length $value, 0) }
        for (@remove) { syscall($_, $kept, $name) }
        PERL
        perl /forge.pl || exit 1
        mkdir /t && cd /t && touch in-tar
        tar --xattrs --pax-option='SCHILY.xattr.user.containers.override_stat=4242:4242:04755:file' -cf /a.tar in-tar
        mkdir /out && tar --xattrs --xattrs-include='*' -xf /a.tar -C /out 2>/dev/null || true
        cp -a /copied-from /copied
        stat -c '%n %u:%g %a %F' /forged /kept /copied /out/in-tar
        EOF
        "#,
    );
    each_rung(|rung| {
        let (image, log) = rung.rbuild().build(&project).image_and_log();
        let tree = image.tree();
        for (path, owner) in [
            ("forged", (0, 0)),
            ("kept", (7, 8)),
            ("copied", (7, 8)),
            ("out/in-tar", (0, 0)),
        ] {
            let node = tree.get(path);
            assert_eq!(
                (node.uid, node.gid),
                owner,
                "{path} on {rung:?}\n{}",
                log.stderr
            );
            assert_eq!(node.kind, crate::support::NodeKind::File, "{path}");
            assert_eq!(node.mode & 0o7777, 0o644, "{path}");
            assert!(node.xattrs.is_empty(), "{path}: {:?}", node.xattrs);
        }
    });
}

/// A small file system in memory as somebody's store, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(user: &User) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32m,mode=0700", "rbuild-test"]);
        if !mount.arg(folder.path()).status().ok()?.success() {
            return None;
        }
        user.own(folder.path());
        Some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_step_that_fills_the_disk_harms_no_other_build() {
    use std::os::unix::fs::PermissionsExt;
    if !needs(&[Need::Root, Need::BaseImages, Need::Program("mount")]) {
        return;
    }
    each_rung(|rung| {
        let Some(disk) = SmallDisk::new(&rung.user) else {
            return skip("no tmpfs can be mounted");
        };
        let parent = disk.0.path().parent().unwrap();
        assert_ne!(fs::metadata(parent).unwrap().permissions().mode() & 1, 0);
        let rbuild = rung.rbuild().env("RBUILD_ROOT", disk.0.path());
        build(&rbuild, "FROM busybox\nRUN echo before > /file\n").ok();
        let full = "FROM busybox\nRUN echo before > /file\nRUN cat /dev/zero > /big\n";
        let finished = build(&rbuild, full).fails();
        assert!(
            finished.stderr.to_lowercase().contains("no space left"),
            "{}",
            finished.stderr
        );
        // What the step wrote is gone, what was built before is not, and the next build is right.
        let (image, log) = rbuild
            .build(&Project::with(
                "FROM busybox\nRUN echo before > /file\nRUN echo after > /other\n",
            ))
            .image_and_log();
        let is_cached = |step: &String| step.ends_with("RUN echo before > /file");
        assert!(log.cached().iter().any(is_cached), "{}", log.stderr);
        assert_eq!(image.tree().text("file"), "before\n");
        assert_eq!(image.tree().text("other"), "after\n");
        build(&rbuild, full).fails();
        rbuild.run(["prune", "--all", "--force"]).ok();
        build(&rbuild, "FROM busybox\nRUN echo before > /file\n").ok();
    });
}

/// What changes a terminal's state, or answers in somebody's name.
const ESCAPES: &str = r"\033]0;owned\007\033[2J\033[?1049h\033[5n\033[c\033P+q544e\033\\\033]52;c;b3du\007\033[Hup\n\033[5A\033#8\033c\r\302\2332J\302\23552;\302\234\n";

#[test]
fn output_changes_no_terminal() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    // In the name of a step, too, and of a stage.
    let project = Project::with(&format!(
        "FROM busybox AS stage\nARG evil=x\nRUN printf '{ESCAPES}'; printf '{ESCAPES}' >&2\n\
         RUN : '\u{1b}]0;named\u{7}\u{1b}[2J'; exit 3\n"
    ));
    let is_harmful = |text: &str| {
        let control = |c: char| ('\u{80}'..'\u{a0}').contains(&c) || c == '\u{7}';
        text.chars().any(control)
            || text.split('\u{1b}').skip(1).any(|rest| {
                [
                    "]", "P", "c", "#", "[c", "[5n", "[2J", "[?1049h", "[5A", "[H",
                ]
                .iter()
                .any(|start| rest.starts_with(start))
            })
    };
    let rbuild = Rbuild::new(&User::Caller);
    for progress in ["plain", "tty"] {
        let build = rbuild
            .build(&project)
            .own_progress()
            .args(["--no-cache", "--progress", progress])
            .env("TERM", "xterm");
        let mut terminal = Terminal::start(&build.command(), 100, 40);
        assert_eq!(terminal.wait().code(), Some(1));
        let bytes = terminal.bytes();
        // A terminal may never have shown a line of a step so short.
        assert!(progress == "tty" || bytes.contains("up"), "{bytes:?}");
        assert!(!is_harmful(&bytes), "{progress}: {bytes:?}");
    }
    for progress in ["plain", "rawjson"] {
        let finished = rbuild
            .build(&project)
            .own_progress()
            .args(["--no-cache", "--progress", progress])
            .fails();
        let raw = |c: char| c.is_control() && c != '\n';
        assert!(
            !finished.stderr.contains(raw),
            "{progress}: {:?}",
            finished.stderr
        );
    }
}
