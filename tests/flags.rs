//! Flags, build arguments and variables that lines of CI systems carry.

use std::process::Command;

use crate::support::{Need, Project, Rbuild, User, each_user, needs, run_with_timeout, skip};

const NOTHING: [&str; 0] = [];

fn step(command: &str) -> Project {
    Project::with(&format!("FROM busybox\nRUN {command}\n"))
}

#[test]
fn hosts_are_found_by_name_and_only_their_names_are_in_the_key() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = step("grep -v localhost /etc/hosts || true");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let with = |hosts: &[&str]| {
            let flags = hosts.iter().map(|host| format!("--add-host={host}"));
            rbuild.build(&project).args(flags).ok()
        };
        assert_eq!(with(&[]).output(), NOTHING);
        let log = with(&["db:10.1.2.3", "v6=[fd00::1]", "me:host-gateway"]);
        assert_eq!(
            log.output(),
            ["10.1.2.3\tdb", "fd00::1\tv6", "127.0.0.1\tme"]
        );
        let moved = with(&["db:10.9.9.9", "v6=fd00::2", "me:127.0.0.1"]);
        assert_eq!(moved.ran(), NOTHING, "an address is the network's affair");
        assert_eq!(with(&["cache:10.1.2.3"]).output(), ["10.1.2.3\tcache"]);
        assert_eq!(with(&[]).ran(), NOTHING);
    });
}

#[test]
fn a_hosts_file_reaches_no_layer() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = step("touch /made");
    let build = rbuild.build(&project).args(["--add-host", "db:10.1.2.3"]);
    let image = build.image();
    assert!(image.tree().has("made"));
    assert!(!image.tree().has("etc/hosts") || !image.tree().text("etc/hosts").contains("10.1.2.3"));
    assert!(!image.history().contains("10.1.2.3"));
}

#[test]
fn limits_and_shared_memory() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = step("ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | awk 'END {print $2}'");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let flags = [
            "--ulimit",
            "nofile=77:88",
            "--ulimit=core=0",
            "--shm-size",
            "3m",
        ];
        let log = rbuild.build(&project).args(flags).ok();
        assert_eq!(log.output(), ["77", "88", "0", "3072"]);
        assert_eq!(rbuild.build(&project).args(flags).ok().ran(), NOTHING);
        // Another limit may give another result, so it is another step.
        for other in [["--ulimit", "nofile=77"], ["--shm-size", "4m"]] {
            let log = rbuild.build(&project).args(flags).args(other).ok();
            assert_eq!(log.ran().len(), 1, "{other:?}");
        }
        let plain = rbuild.build(&project).ok().output();
        assert_eq!(plain[3], "65536");
    });
}

#[test]
fn a_limit_above_the_users_own_is_an_error_that_says_so() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        if user.is_root() {
            return;
        }
        let rbuild = Rbuild::new(user);
        let log = rbuild
            .build(&step("true"))
            .args(["--ulimit", "nofile=1073741816"])
            .fails();
        log.says(&[
            "can't set the limit nofile to 1073741816:1073741816, as only root can go above",
        ]);
    });
}

/// Where version 2 is not at its usual place, a mount namespace with it stands in.
fn in_cgroup_version_2(command: &Command) -> Option<Command> {
    let script = "mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null || exit 99\nexec \"$@\"";
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--", "sh", "-c", script, "sh"]);
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--", "sh", "-c", script, "sh", "true"]);
    if !run_with_timeout(probe, None).status.success() {
        return None;
    }
    outer.arg(command.get_program()).args(command.get_args());
    outer.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer.current_dir(command.get_current_dir().unwrap());
    Some(outer)
}

#[test]
fn a_step_gets_a_cgroup_below_the_parent() {
    if !needs(&[Need::BaseImages, Need::Root, Need::Program("unshare")]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let parent = format!("rbuild-test-{}", std::process::id());
    let project = step(
        "cat /proc/self/cgroup | grep ^0:; test -e /sys/fs/cgroup/cgroup.procs && echo mine; \
         grep -c . /sys/fs/cgroup/cgroup.procs",
    );
    let build = rbuild.build(&project).args(["--cgroup-parent", &parent]);
    let Some(command) = in_cgroup_version_2(&build.command()) else {
        skip("cgroup version 2 can't be mounted");
        return;
    };
    let log = run_with_timeout(command, None).ok();
    let output = log.output();
    // The step's own group is the root of what it sees, and it isn't alone there: its init.
    assert_eq!(output[..2], ["0::/", "mine"], "{}", log.stderr);
    assert!(output[2].parse::<u32>().unwrap() >= 1);

    // Nothing of a step's is left; the parent, made on the way, stays as Docker leaves it.
    let list = format!("ls -d /sys/fs/cgroup/{parent}/rbuild-* ; rmdir /sys/fs/cgroup/{parent}");
    let mut look = Command::new("sh");
    look.args(["-c", &list])
        .current_dir("/")
        .env("PATH", std::env::var_os("PATH").unwrap());
    let left = run_with_timeout(in_cgroup_version_2(&look).unwrap(), None);
    assert_eq!(left.text(), "", "{}", left.stderr);
    assert!(left.status.success(), "{}", left.stderr);
}

#[test]
fn a_step_is_limited_where_there_are_controllers() {
    if !needs(&[Need::BaseImages, Need::Root, Need::Program("unshare")]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = step("cd /sys/fs/cgroup; cat memory.max cpu.max");
    let limits = ["--memory", "64m", "--resource", "cpu-quota=150000"];
    let mut controllers = Command::new("cat");
    controllers
        .arg("/sys/fs/cgroup/cgroup.controllers")
        .current_dir("/")
        .env("PATH", std::env::var_os("PATH").unwrap());
    let Some(controllers) = in_cgroup_version_2(&controllers) else {
        skip("cgroup version 2 can't be mounted");
        return;
    };
    let controllers = run_with_timeout(controllers, None).ok().text();
    let has = |name: &str| controllers.split(' ').any(|one| one == name);
    let parent = format!("rbuild-limits-{}", std::process::id());
    for parent in [&["--cgroup-parent", &parent][..], &[]] {
        let build = rbuild.build(&project).args(limits).args(parent);
        let command = in_cgroup_version_2(&build.command()).unwrap();
        let log = run_with_timeout(command, None);
        if has("memory") && has("cpu") {
            assert_eq!(log.ok().output(), ["67108864", "150000 100000"]);
            continue;
        }
        let missing = if has("cpu") { "memory" } else { "cpu" };
        log.fails().says(&[
            &format!("`/sys/fs/cgroup` has no controller `{missing}`"),
            "Dockerfile:2",
        ]);
    }
    let mut remove = Command::new("sh");
    let script =
        format!("cd /sys/fs/cgroup; ls -d rbuild-[0-9]* */rbuild-[0-9]*; rmdir -p {parent}");
    remove
        .args(["-c", &script])
        .current_dir("/")
        .env("PATH", std::env::var_os("PATH").unwrap());
    let left = run_with_timeout(in_cgroup_version_2(&remove).unwrap(), None);
    assert_eq!(left.text(), "", "{}", left.stderr);
}

#[test]
fn a_cgroup_that_can_not_be_had_is_an_error() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let has_version_2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if has_version_2 && user.is_root() {
            return;
        }
        let log = rbuild
            .build(&step("true"))
            .args(["--cgroup-parent", "/rbuild-nobody-may"])
            .fails();
        log.says(&["`--cgroup-parent`: "]).says(&[if has_version_2 {
            "has to be writable for the user who builds"
        } else {
            "this machine has not just cgroup version 2"
        }]);
        if !has_version_2 {
            let limited = rbuild.build(&step("true")).args(["--memory", "1g"]).fails();
            let limited = limited.says(&[
                "can't limit what a step uses of the machine: this machine has not just cgroup",
            ]);
            assert_eq!(limited.stderr.matches("error:").count(), 1);
        }
    });
}

#[test]
fn a_named_stage_is_built_anew_and_others_are_not() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox AS install
        RUN cat /proc/sys/kernel/random/uuid > /id
        FROM busybox AS other
        RUN cat /proc/sys/kernel/random/uuid > /other
        FROM install AS final
        RUN cp /id /copy
        COPY --from=other /other /other
        COPY --from=install /id /from
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    let (first, _) = rbuild.build(&project).image_and_log();
    let (second, log) = rbuild
        .build(&project)
        .args(["--no-cache-filter", "INSTALL"])
        .image_and_log();
    assert_eq!(
        log.cached(),
        ["RUN cat /proc/sys/kernel/random/uuid > /other"]
    );
    assert_ne!(first.tree().text("id"), second.tree().text("id"));
    for copy in ["copy", "from"] {
        assert_eq!(second.tree().text("id"), second.tree().text(copy));
    }
    assert_eq!(first.tree().text("other"), second.tree().text("other"));
    assert_eq!(rbuild.build(&project).ok().ran(), NOTHING);

    let several = ["--no-cache-filter=other,final"];
    let log = rbuild.build(&project).args(several).ok();
    assert_eq!(log.cached(), ["RUN cat /proc/sys/kernel/random/uuid > /id"]);
    let log = rbuild
        .build(&project)
        .args(["--no-cache-filter", "instal"])
        .ok();
    assert_eq!(log.ran(), NOTHING);
    log.says(&["no stage is called `instal`"]);
}

#[test]
fn proxies_of_dockers_configuration_reach_steps_and_nothing_else() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    const CONFIG: &str = r#"{"proxies": {"default": {
        "httpProxy": "http://user:s3cr3t@127.0.0.1:9", "noProxy": "localhost,127.0.0.1"}}}"#;
    let project = step("env | grep -i _proxy | sort");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let folder = rbuild.out().join("config");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), CONFIG).unwrap();
        for path in [&folder, &folder.join("config.json")] {
            user.own(path);
        }
        let rbuild = rbuild.env("DOCKER_CONFIG", &folder);
        let proxy = "http://user:s3cr3t@127.0.0.1:9";
        let (image, log) = rbuild.build(&project).image_and_log();
        assert_eq!(
            log.output(),
            [
                &format!("HTTP_PROXY={proxy}"),
                "NO_PROXY=localhost,127.0.0.1",
                &format!("http_proxy={proxy}"),
                "no_proxy=localhost,127.0.0.1",
            ]
        );
        assert!(!image.history().contains("s3cr3t"));

        // An argument goes before, and neither is in the key.
        let log = rbuild.build(&project).build_arg("http_proxy=mine").ok();
        assert_eq!(log.ran(), NOTHING);
        let log = rbuild
            .build(&project)
            .build_arg("http_proxy=mine")
            .args(["--no-cache"])
            .ok();
        assert_eq!(log.output()[0], "HTTP_PROXY=mine");

        std::fs::write(folder.join("config.json"), "{ s3cr3t").unwrap();
        let log = rbuild.build(&project).ok();
        assert!(!log.stderr.contains("s3cr3t"), "{}", log.stderr);
        log.says(&["proxies are not looked up", "no JSON at line 1 column 3"]);
    });
}

#[test]
fn build_arguments_of_buildkit() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = step("hostname; tail -n 2 /etc/hosts");
    let named = |name: &str| {
        let argument = format!("BUILDKIT_SANDBOX_HOSTNAME={name}");
        rbuild.build(&project).build_arg(&argument).ok().output()
    };
    assert_eq!(
        named("builder-7")[..2],
        ["builder-7", "127.0.0.1\tlocalhost builder-7"]
    );
    assert_eq!(named("")[0], "rbuild");

    let cached = step("--mount=type=cache,target=/c cat /c/f; echo $T > /c/f").dockerfile(
        "FROM busybox\nARG T\nRUN --mount=type=cache,target=/c cat /c/f; echo $T > /c/f\n",
    );
    let count = |namespace: &str, text: &str| {
        let namespace = format!("BUILDKIT_CACHE_MOUNT_NS={namespace}");
        let build = rbuild.build(&cached).build_arg(&namespace);
        build.build_arg(&format!("T={text}")).ok().output().pop()
    };
    count("a", "of a");
    count("b", "of b");
    assert_eq!(count("a", "more"), Some("of a".to_owned()));
    assert_eq!(count("b", "more"), Some("of b".to_owned()));

    rbuild
        .build(&project)
        .build_arg("BUILDKIT_INLINE_CACHE=1")
        .fails()
        .says(&["rbuild does not support `--build-arg BUILDKIT_INLINE_CACHE=1` yet"]);
}

#[test]
fn a_line_of_a_ci_system_works_as_it_stands() {
    let project = Project::with("FROM scratch\nCOPY a /a\n").file("a", "a");
    let rbuild = Rbuild::new(&User::Caller)
        .env("DOCKER_BUILDKIT", "1")
        .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
        .env("BUILDX_BUILDER", "default");
    let flags = [
        "--rm",
        "--force-rm=true",
        "--compress",
        "--pull=false",
        "--no-cache=false",
        "--provenance=false",
        "--sbom=false",
        "--attest=type=provenance,disabled=true",
        "--builder",
        "default",
        "--network=host",
        "--platform",
        "local",
        "--memory=0",
        "--quiet",
        "-t",
        "app:1",
    ];
    for spelling in [
        &["build"][..],
        &["buildx", "build"],
        &["builder", "build"],
        &["image", "build"],
    ] {
        let words = spelling.iter().chain(&flags);
        let mut command = rbuild.command();
        command.args(words).arg(project.path());
        let finished = run_with_timeout(command, None).ok();
        assert!(finished.text().starts_with("sha256:"), "{finished:?}");
        assert_eq!(finished.stderr, "");
    }
}

#[test]
fn what_is_absent_is_refused_in_one_line_without_secrets() {
    let project = Project::with("FROM scratch\nCOPY a /a\n").file("a", "a");
    let rbuild = Rbuild::new(&User::Caller);
    for (flags, says) in [
        (
            &["--memory", "much"][..],
            "invalid value `much` for `--memory`: it is no size",
        ),
        (
            &["--resource", "disk=2g"],
            "`--resource`: there is no key `disk`",
        ),
        (
            &["--security-opt", "seccomp=x"],
            "rbuild does not support --security-opt yet",
        ),
        (
            &["--provenance=mode=max"],
            "rbuild does not support --provenance=mode=max yet",
        ),
        (
            &["--builder", "mine"],
            "rbuild does not support --builder=mine yet",
        ),
        (
            &["--secret", "hunter2"],
            "`--secret` is no list of key=value",
        ),
        (&["--build-arg", "=hunter2"], "`--build-arg` has no name"),
        (
            &["--add-host", "db"],
            "invalid value `db` for `--add-host`: it has no address",
        ),
        (
            &["--ulimit", "nofile"],
            "invalid value `nofile` for `--ulimit`: it has no value",
        ),
        (
            &["--shm-size", "big"],
            "invalid value `big` for `--shm-size`",
        ),
    ] {
        let log = rbuild.build(&project).args(flags).fails();
        assert_eq!(log.status.code(), Some(2), "{flags:?}");
        assert!(!log.stderr.contains("hunter2"), "{}", log.stderr);
        let errors = log.stderr.lines().filter(|line| line.starts_with("error:"));
        assert_eq!(errors.count(), 1, "{}", log.stderr);
        log.says(&[says, "hint:"]);
    }
    let other = Rbuild::new(&User::Caller).env("BUILDX_BUILDER", "mine");
    other
        .build(&project)
        .ok()
        .says(&["note: BUILDX_BUILDER=`mine` has no effect"]);
}
