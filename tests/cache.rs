//! What runs again and what doesn't.

use crate::support::{Need, Project, Rbuild, User, each_user, needs, skip};

const NOTHING: [&str; 0] = [];

fn three_stages() -> Project {
    Project::with(
        "
        FROM busybox AS compile
        WORKDIR /src
        COPY main.c .
        RUN cat main.c > /program
        FROM busybox AS assets
        COPY style.css /style.css
        RUN cat /style.css > /bundle
        FROM busybox
        COPY --from=compile /program /program
        COPY --from=assets /bundle /bundle
        RUN cat /program /bundle > /all
        ",
    )
    .file("main.c", "main")
    .file("style.css", "style")
    .file("unused", "1")
}

#[test]
fn a_second_build_runs_nothing() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = three_stages();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let (first, log) = rbuild.build(&project).image_and_log();
        assert_eq!(log.cached(), NOTHING);
        assert_eq!(log.ran().len(), 8, "{:?}", log.ran());
        let (second, log) = rbuild.build(&project).image_and_log();
        assert_eq!(log.ran(), NOTHING);
        assert!(
            log.steps()
                .iter()
                .filter(|(name, _)| !name.contains("FROM"))
                .count()
                >= 3
        );
        assert_eq!(first.digest, second.digest, "even `created` stays");
        assert_eq!(first.tree().text("all"), "mainstyle");
    });
}

#[test]
fn a_changed_file_takes_just_what_depends_on_it() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = three_stages();
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).ok();
    let project = project.file("unused", "2");
    assert_eq!(rbuild.build(&project).ok().ran(), NOTHING);
    let project = project.file("style.css", "new style");
    let (image, log) = rbuild.build(&project).image_and_log();
    assert_eq!(
        log.ran(),
        [
            "COPY style.css /style.css",
            "RUN cat /style.css > /bundle",
            "COPY --from=assets /bundle /bundle",
            "RUN cat /program /bundle > /all",
        ]
    );
    assert_eq!(image.tree().text("all"), "mainnew style");
    let project = project.file("style.css", "style");
    assert_eq!(
        rbuild.build(&project).ok().ran(),
        NOTHING,
        "both results are kept"
    );
}

#[test]
fn times_do_not_matter_but_modes_and_names_do() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM busybox\nCOPY dir /dir\nRUN ls /dir\n")
        .file("dir/a", "a")
        .file("dir/sub/b", "b");
    rbuild.build(&project).ok();
    let project = project
        .mtime("dir/a", 1_000_000_000)
        .mtime("dir", 1_000_000_000);
    assert_eq!(rbuild.build(&project).ok().ran(), NOTHING);
    let project = project.mode("dir/a", 0o755);
    assert_eq!(rbuild.build(&project).ok().ran().len(), 2);
    let project = project.symlink("dir/link", "a");
    assert_eq!(rbuild.build(&project).ok().ran().len(), 2);
    let project = project.folder("dir/empty");
    assert_eq!(rbuild.build(&project).ok().ran().len(), 2);
    let project = project.remove("dir/sub/b");
    assert_eq!(rbuild.build(&project).ok().ran().len(), 2);
}

/// Same size, same time of modification, same name: only the content differs.
#[test]
fn content_counts_even_where_metadata_is_equal() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nCOPY a /a\n")
        .file("a", "one")
        .mtime("a", 1_000_000_000);
    assert_eq!(rbuild.build(&project).image().tree().text("a"), "one");
    let path = project.path().join("a");
    std::fs::write(&path, "two").unwrap();
    let project = project.mtime("a", 1_000_000_000);
    assert_eq!(rbuild.build(&project).image().tree().text("a"), "two");
}

#[test]
fn arguments_and_environment_take_what_uses_them() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN echo before
        ARG version=1
        RUN echo version $version
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).ok();
    let log = rbuild.build(&project).build_arg("version=2").ok();
    assert_eq!(log.ran().len(), 1);
    assert_eq!(log.output(), ["version 2"]);
    // Proxy settings are no part of the key, and they don't stay in the image.
    let (image, log) = rbuild
        .build(&project)
        .build_arg("http_proxy=http://proxy.invalid:3128")
        .image_and_log();
    assert_eq!(log.ran(), NOTHING);
    assert!(!image.config.to_string().contains("proxy.invalid"));
    // One that is declared is an argument like any other.
    let project = Project::with("FROM busybox\nARG http_proxy\nRUN echo $http_proxy\n");
    for proxy in ["http://one.invalid", "http://two.invalid"] {
        let build = rbuild.build(&project);
        let (image, log) = build
            .build_arg(&format!("http_proxy={proxy}"))
            .image_and_log();
        assert_eq!(log.output(), [proxy]);
        assert!(image.history().contains(&format!("ARG http_proxy={proxy}")));
        assert!(!image.config["config"].to_string().contains(proxy));
    }
}

#[test]
fn the_same_content_from_another_stage_is_a_hit() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = |comment: &str| {
        Project::with(&format!(
            "
            FROM busybox AS builder
            RUN echo {comment} > /log; echo same > /result
            FROM busybox
            COPY --from=builder /result /result
            RUN cat /result
            "
        ))
    };
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project("one")).ok();
    let log = rbuild.build(&project("two")).ok();
    assert_eq!(log.ran(), ["RUN echo two > /log; echo same > /result"]);
}

#[test]
fn a_linked_layer_does_not_hang_on_what_is_below_it() {
    let project = |below: &str| {
        Project::with(&format!(
            "
            FROM scratch
            COPY {below} /
            COPY --link tool /srv/bin/tool
            "
        ))
        .file("one", "1")
        .file("two", "2")
        .file("tool", "t")
        .mode("tool", 0o755)
    };
    let rbuild = Rbuild::new(&User::Caller);
    let first = rbuild.build(&project("one")).image();
    let (second, log) = rbuild.build(&project("two")).image_and_log();
    assert_eq!(log.ran(), ["COPY two /"]);
    assert_eq!(first.layers[1].diff_id, second.layers[1].diff_id);
    assert_eq!(second.tree().text("two"), "2");
    assert_eq!(second.tree().get("srv/bin/tool").mode, 0o755);
}

#[test]
fn no_cache_runs_everything_and_pull_just_asks() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = three_stages();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.build(&project).ok();
        let log = rbuild.build(&project).args(["--no-cache"]).ok();
        assert_eq!(log.ran().len(), 8, "{:?}", log.steps());
        assert_eq!(rbuild.build(&project).args(["--pull"]).ok().ran(), NOTHING);
        assert_eq!(rbuild.build(&project).ok().ran(), NOTHING);
    });
}

#[test]
fn the_store_serves_when_the_registry_is_gone() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with("FROM busybox\nRUN echo x > /x\n");
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).ok();
    let offline = ["--registry-mirror", "http://127.0.0.1:1"];
    let run_offline = |words: &[&str]| {
        let mut command = rbuild.command();
        command.args(words).args(offline);
        if words[0] == "build" {
            command.args(["--progress", "plain"]).arg(project.path());
        }
        command
            .env("http_proxy", "http://127.0.0.1:1")
            .env("https_proxy", "http://127.0.0.1:1");
        crate::support::run_with_timeout(command, None)
    };
    let log = run_offline(&["build"]).ok();
    assert_eq!(log.ran(), NOTHING);
    assert!(
        log.stderr.contains("warning"),
        "it says so:\n{}",
        log.stderr
    );
    // To ask for what is newest is to want an answer, and the mirror's is told with the registry's.
    for words in [&["build", "--pull"][..], &["pull", "busybox"]] {
        run_offline(words).fails().says(&[
            "`busybox:latest` at registry `docker.io`: ",
            "; before that, the mirror `127.0.0.1:1`: connection refused",
        ]);
    }
}

#[test]
fn builds_at_once_share_a_store_and_their_steps() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=cache,target=/count echo run >> /count/runs; sleep 1; echo made > /made
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        std::thread::scope(|scope| {
            let builds: Vec<_> = (0..4)
                .map(|_| {
                    let command = rbuild.build(&project).command();
                    scope.spawn(move || crate::support::run_with_timeout(command, None))
                })
                .collect();
            for build in builds {
                build.join().unwrap().ok();
            }
        });
        let count = Project::with(
            "FROM busybox\nRUN --mount=type=cache,target=/count wc -l < /count/runs\n",
        );
        assert_eq!(rbuild.build(&count).ok().output(), ["1"]);
    });
}

#[test]
fn a_store_of_another_user_is_refused_with_the_fix() {
    if !needs(&[Need::Root, Need::BaseImages]) {
        return;
    }
    let project = Project::with("FROM busybox\nRUN true\n");
    each_user(|user| {
        if user.is_root() {
            return;
        }
        let rbuild = Rbuild::new(user);
        rbuild.build(&project).ok();
        let root = Rbuild::new(&User::Caller).env("RBUILD_ROOT", rbuild.store());
        root.build(&project).fails().says(&["RBUILD_ROOT"]);
    });
}

#[test]
fn what_followed_one_run_of_a_command_never_follows_another() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    // The first step counts its runs; the second one fails when it is told to.
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=cache,target=/c echo x >> /c/runs; wc -l < /c/runs > /number; \\
            if [ $(cat /number) = 2 ]; then touch /c/fail; fi
        RUN --mount=type=cache,target=/c if [ -e /c/fail ]; then rm /c/fail; exit 1; fi; cp /number /copy
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    let copy_and_run = |image: &crate::support::Image| {
        let tree = image.tree();
        (tree.text("number"), tree.text("copy"))
    };
    let first = rbuild.build(&project).image();
    assert_eq!(copy_and_run(&first), ("1\n".into(), "1\n".into()));
    rbuild.build(&project).args(["--no-cache"]).fails();
    let third = rbuild.build(&project).image();
    assert_eq!(copy_and_run(&third), ("2\n".into(), "2\n".into()));
}

#[test]
fn an_attribute_that_a_file_gets_later_is_noticed() {
    let project = Project::with("FROM scratch\nCOPY file /file\n").file("file", "x");
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).ok();
    // A file that changed just now isn't remembered; one that is two seconds old is.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    rbuild.build(&project).ok();
    assert_eq!(rbuild.build(&project).ok().ran(), NOTHING);
    let path = project.path().join("file");
    let set = rustix::fs::setxattr(&path, "user.mark", b"1", rustix::fs::XattrFlags::empty());
    if set.is_err() {
        skip("the file system of temporary files keeps no attributes of users");
        return;
    }
    let (image, log) = rbuild.build(&project).image_and_log();
    assert_eq!(log.ran(), ["COPY file /file"]);
    assert_eq!(image.tree().get("file").xattrs["user.mark"], b"1");
}
