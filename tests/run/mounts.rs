//! `RUN --mount`: caches, files of other places, memory, secrets.

use std::process::Command;

use super::prints;
use crate::support::{Need, Project, Rbuild, assert_lines, each_user, needs};

#[test]
fn cache_mounts_outlive_the_build_and_stay_out_of_the_image() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        ARG round
        RUN --mount=type=cache,target=/cache cat /cache/rounds 2>/dev/null; echo $round >> /cache/rounds
        RUN --mount=type=cache,id=own,target=/var/own,uid=1000,gid=50,mode=0711 stat -c '%a %u:%g' /var/own
        RUN --mount=type=cache,target=/cache,ro echo x 2>/dev/null > /cache/y || echo read-only
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let first = rbuild.build(&project).build_arg("round=one").ok();
        assert_eq!(first.output(), ["711 1000:50", "read-only"]);
        let (image, second) = rbuild
            .build(&project)
            .build_arg("round=two")
            .image_and_log();
        assert_eq!(second.output().first().map(String::as_str), Some("one"));
        assert!(!image.tree().has("cache/rounds"));
    });
}

#[test]
fn cache_mounts_can_begin_with_content() {
    prints(
        "
        FROM busybox AS source
        RUN mkdir -p /seed/sub && echo seeded > /seed/sub/file
        FROM busybox
        RUN --mount=type=cache,from=source,source=/seed/sub,target=/cache cat /cache/file
        ",
        &["seeded"],
    );
}

#[test]
fn bind_mounts_show_context_stages_and_images() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox AS other
        RUN echo from the stage > /stage.txt
        FROM busybox
        WORKDIR /work
        RUN --mount=target=/context cat /context/file.txt
        RUN --mount=type=bind,source=sub/inner.txt,target=here.txt cat here.txt; cat /work/here.txt
        RUN --mount=from=other,source=stage.txt,target=/s cat /s
        RUN --mount=from=alpine,source=/etc,target=/image-etc grep -c app /image-etc/passwd
        RUN --mount=target=/context echo x 2>/dev/null > /context/new || echo read-only
        RUN --mount=target=/context,rw echo x > /context/new && cat /context/new
        RUN --mount=target=/context test ! -e /context/new && echo writes are gone
        ",
    )
    .file("file.txt", "from the context\n")
    .file("sub/inner.txt", "from a file\n");
    each_user(|user| {
        let (image, log) = Rbuild::new(user).build(&project).image_and_log();
        assert_eq!(
            log.output(),
            [
                "from the context",
                "from a file",
                "from a file",
                "from the stage",
                "1",
                "read-only",
                "x",
                "writes are gone",
            ]
        );
        assert!(!project.path().join("new").exists());
        assert!(!image.tree().has("context/new"));
    });
}

#[test]
fn tmpfs_mounts_are_empty_and_gone() {
    prints(
        "
        FROM busybox
        RUN --mount=type=tmpfs,target=/t,size=1m grep -o ' /t tmpfs' /proc/mounts; \
            dd if=/dev/zero of=/t/big bs=1k count=2048 2>/dev/null || echo full
        RUN --mount=type=tmpfs,target=/t ls /t | wc -l
        ",
        &[" /t tmpfs", "full", "0"],
    );
}

#[test]
fn secrets_are_seen_by_their_step_alone() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=secret,id=key wc -c < /run/secrets/key && stat -c '%a %u:%g' /run/secrets/key
        RUN --mount=type=secret,id=key,target=/etc/key,mode=0440,uid=1000,gid=50 stat -c '%a %u:%g' /etc/key
        RUN --mount=type=secret,id=token,env=TOKEN echo ${#TOKEN}
        RUN test ! -e /run/secrets/key && echo gone ${TOKEN:-unset}
        RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing && echo optional
        ",
    );
    let required = Project::with(
        "
        FROM busybox
        RUN --mount=type=secret,id=missing,required=true true
        ",
    );
    let secret = Project::new().file("key", "s3cr3t-in-a-file");
    each_user(|user| {
        let rbuild = Rbuild::new(user).env("MY_TOKEN", "t0k3n-in-a-variable");
        let with_secrets = || {
            rbuild.build(&project).args([
                "--secret",
                &format!("id=key,src={}", secret.path().join("key").display()),
                "--secret",
                "id=token,env=MY_TOKEN",
            ])
        };
        let (image, log) = with_secrets().image_and_log();
        assert_eq!(
            log.output(),
            [
                "16",
                "400 0:0",
                "440 1000:50",
                "19",
                "gone unset",
                "optional"
            ]
        );
        assert!(!image.config.to_string().contains("t0k3n"));
        let store = Command::new("grep")
            .args([
                "-r",
                "-l",
                "-a",
                "-E",
                "s3cr3t-in-a-file|t0k3n-in-a-variable",
            ])
            .arg(rbuild.store())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&store.stdout),
            "",
            "a secret is in the store"
        );
        // A secret's value is no part of the cache key.
        assert_eq!(with_secrets().ok().ran(), [""; 0]);
        rbuild
            .build(&required)
            .fails()
            .says(&["missing", "Dockerfile:2"]);
    });
}

#[test]
fn what_is_written_to_a_bind_mount_is_thrown_away() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=bind,source=dir,target=/d,rw echo new > /d/new && rm /d/old && ls /d
        RUN --mount=type=bind,source=dir,target=/d,rw ls /d && rm -r /d/* && echo emptied
        RUN --mount=type=bind,source=dir,target=/d touch /d/new 2>/dev/null || echo read-only
        ",
    );
    let project = project.file("dir/old", "old");
    each_user(|user| {
        let (image, log) = Rbuild::new(user).build(&project).image_and_log();
        let expected = ["new", "old", "emptied", "read-only"];
        assert_eq!(log.output(), expected, "as {user:?}\n{}", log.stderr);
        for layer in image.own_layers() {
            assert_lines(&layer.lines(), "");
        }
        assert!(project.path().join("dir/old").is_file());
        assert!(!project.path().join("dir/new").exists());
    });
}

#[test]
fn steps_that_run_at_once_share_a_cache_as_it_says() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    // Each waits for the other, in a folder that both see.
    let meet = "touch /c/$me; for i in $(seq 100); do test -e /c/$other && break; sleep 0.1; done; \
                test -e /c/$other && echo met";
    // Nobody else is in the folder meanwhile.
    let alone = "mkdir /c/held && sleep 1 && rmdir /c/held && echo alone; ls /c >> /c/$me; \
                 test -e /c/$other && echo after the other";
    for (sharing, script, expected) in [
        ("shared", meet, &["met", "met"][..]),
        ("locked", alone, &["after the other", "alone", "alone"]),
        ("private", alone, &["alone", "alone"]),
    ] {
        let step = |me: &str, other: &str| {
            format!(
                "FROM busybox AS {me}\nRUN --mount=type=cache,id=one,target=/c,sharing={sharing} \
                 me={me}; other={other}; {script}; touch /{me}\n"
            )
        };
        let last = "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
        let project = Project::with(&format!("{}{}{last}", step("a", "b"), step("b", "a")));
        each_user(|user| {
            let log = Rbuild::new(user).build(&project).ok();
            let mut output = log.output();
            output.sort();
            assert_eq!(output, expected, "{sharing} as {user:?}\n{}", log.stderr);
        });
    }
}
