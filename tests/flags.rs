//! Flags, build arguments and variables that lines of CI systems carry.

use crate::support::{Need, Project, Rbuild, User, each_user, needs, run_with_timeout};

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
