//! RUN: what a step sees, what it can do and how it ends.

mod mounts;

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Need, Project, Rbuild, User, assert_lines, each_user, is_running, needs, run_with_timeout,
};

/// Builds as each user and gives what the steps printed.
fn prints(dockerfile: &str, expected: &[&str]) {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(dockerfile);
    each_user(|user| {
        let log = Rbuild::new(user).build(&project).ok();
        assert_eq!(log.output(), expected, "as {user:?}\n{}", log.stderr);
    });
}

#[test]
fn shell_exec_and_heredoc_forms() {
    prints(
        r##"
        FROM busybox
        RUN echo shell "$0" $((1+1))
        RUN ["echo", "exec $0", "two words"]
        RUN <<EOF
        echo heredoc $0
        exit_code=0
        EOF
        RUN <<EOF cat > /file
        written by cat
        EOF
        RUN cat /file
        RUN <<EOF
        #!/bin/busybox ash
        echo shebang
        EOF
        RUN cat <<one && cat <<two
        first
        one
        second
        two
        SHELL ["/bin/busybox", "ash", "-e", "-c"]
        RUN echo other shell
        "##,
        &[
            "shell /bin/sh 2",
            "exec $0 two words",
            "heredoc /bin/sh",
            "written by cat",
            "shebang",
            "first",
            "second",
            "other shell",
        ],
    );
}

#[test]
fn environment_is_what_env_and_arg_say_and_no_more() {
    prints(
        r#"
        FROM busybox
        ARG argument="an argument"
        ARG unset
        ENV variable="a variable" HOME_OF=env
        RUN env | grep -v -E '^(PWD|SHLVL|OLDPWD|HOSTNAME|_)=' | sort
        USER app
        RUN echo $HOME
        "#,
        &[
            "HOME=/root",
            "HOME_OF=env",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "argument=an argument",
            "variable=a variable",
            "/home/app",
        ],
    );
}

#[test]
fn user_group_and_folder() {
    prints(
        "
        FROM busybox
        RUN id -u; id -g; pwd
        WORKDIR /srv/data
        USER app
        RUN id -un; id -gn; id -Gn; pwd
        USER 1000
        RUN id -G
        USER nobody:staff
        RUN id -un; id -gn
        USER 4321:1234
        RUN id -u; id -g
        USER root
        RUN id -u; touch /root/file && ls -ld /srv/data | cut -c1-10
        ",
        &[
            "0",
            "0",
            "/",
            "app",
            "app",
            "app adm staff",
            "/srv/data",
            "1000 4 50",
            "nobody",
            "staff",
            "4321",
            "1234",
            "0",
            "drwxr-xr-x",
        ],
    );
}

#[test]
fn the_sandbox_is_what_docker_gives() {
    prints(
        r#"
        FROM busybox
        RUN grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)|^NoNewPrivs|^Seccomp:' /proc/self/status | tr '\t' ' '
        RUN ls /dev | tr '\n' ' '; echo; ls -l /dev/fd | sed 's/.*-> //'
        RUN ls /proc | grep -c -E '^[0-9]+$' | grep -q -E '^[1-9]$' && echo alone
        RUN mount -t tmpfs none /mnt 2>/dev/null || echo no mount
        RUN 2>/dev/null echo x > /proc/sys/kernel/hostname || echo proc/sys is read-only
        RUN cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c
        RUN 2>/dev/null echo x > /sys/kernel/uevent_seqnum || echo sys is read-only
        RUN umask
        RUN ls /proc/self/fd | wc -l; test ! -e /proc/self/fd/4 && echo nothing inherited
        "#,
        &[
            "CapInh: 0000000000000000",
            "CapPrm: 00000000a80425fb",
            "CapEff: 00000000a80425fb",
            "CapBnd: 00000000a80425fb",
            "CapAmb: 0000000000000000",
            "NoNewPrivs: 0",
            "Seccomp: 2",
            "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
            "/proc/self/fd",
            "alone",
            "no mount",
            "proc/sys is read-only",
            "0",
            "sys is read-only",
            "0022",
            "4",
            "nothing inherited",
        ],
    );
}

#[test]
fn what_is_made_for_the_step_never_reaches_the_layer() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=bind,target=/context/deep --mount=type=cache,target=/cache \
            --mount=type=tmpfs,target=/scratch --mount=type=secret,id=s,target=/sec/ret \
            cat /etc/resolv.conf /etc/hosts > /dev/null; echo x > /cache/x; echo x > /scratch/x; \
            echo made > /made
        ",
    );
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        assert_lines(
            &image.own_layers()[0].lines(),
            "f 0644 0:0 made \"made\\n\"\n",
        );
    });
}

#[test]
fn a_step_that_fails_ends_the_build_with_its_code() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN echo before the end; exit 37
        RUN echo never
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let log = rbuild.build(&project).tag("never-made").fails().says(&[
            "before the end",
            "exit code: 37",
            "Dockerfile:2",
        ]);
        assert!(!log.output().contains(&"never".to_owned()));
        let images = rbuild.run(["images"]).ok();
        assert!(!images.text().contains("never-made"));
        // What failed is not in the cache: it runs again.
        rbuild.build(&project).fails().says(&["before the end"]);
    });
}

#[test]
fn a_program_that_is_not_there_is_said() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        r#"
        FROM busybox
        RUN ["/no/such/program"]
        "#,
    );
    each_user(|user| {
        Rbuild::new(user)
            .build(&project)
            .fails()
            .says(&["/no/such/program", "Dockerfile:2"]);
    });
}

#[test]
fn network_none_has_loopback_only() {
    prints(
        "
        FROM busybox
        RUN --network=none ip -o route | wc -l; ip link show lo | grep -c 'LOOPBACK,UP'
        RUN --network=host test -s /etc/resolv.conf && echo resolver
        ",
        &["0", "1", "resolver"],
    );
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with("FROM busybox\nRUN ip -o route | wc -l\n");
    each_user(|user| {
        let log = Rbuild::new(user)
            .build(&project)
            .args(["--network", "none"])
            .ok();
        assert_eq!(log.output(), ["0"]);
    });
}

#[test]
fn a_dockerfile_leaves_the_builds_network_with_leave_only() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --network=host ip -o link | wc -l
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let build = || rbuild.build(&project).args(["--network", "none"]);
        build().fails().says(&[
            "network.host is not allowed",
            "`--allow network.host` allows it",
            "Dockerfile:2",
        ]);
        let log = build().args(["--allow", "network.host"]).ok();
        assert_ne!(log.output(), ["1"], "{}", log.stderr);
    });
}

#[test]
fn an_insecure_step_has_every_privilege_if_the_caller_allows_it() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        r#"
        FROM busybox
        RUN grep -E '^(CapEff|Seccomp):' /proc/self/status | tr '\t' ' '
        RUN --security=insecure grep -E '^(CapEff|Seccomp):' /proc/self/status | tr '\t' ' '
        RUN --security=insecure mount -t tmpfs none /mnt && touch /mnt/x && echo mounted
        RUN --security=insecure test -w /proc/sys/kernel/hostname && hostname other && hostname
        RUN --security=insecure for name in kmsg fuse net/tun loop0;             do test -e /dev/$name && echo $name; done
        USER app
        RUN --security=insecure grep -E '^(CapEff|CapAmb):' /proc/self/status | tr '\t' ' '
        RUN mount -t tmpfs none /mnt 2>/dev/null || echo no longer
        "#,
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let refused = rbuild.build(&project).fails();
        let refused = refused.says(&[
            "security.insecure is not allowed",
            "`--allow security.insecure` allows it, if you trust this Dockerfile",
            "Dockerfile:3",
        ]);
        assert_eq!(refused.output(), [""; 0], "something ran before");
        let build = || {
            let build = rbuild.build(&project);
            build.args(["--allow", "security.insecure"])
        };
        let log = build().ok();
        let own = |name: &str| {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.replace('\t', " ")
        };
        // In a user namespace these are all there are.
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        let all = match user.is_root() {
            true => own("CapBnd").replace("CapBnd: ", ""),
            false => format!("{:016x}", (2u64 << last.trim().parse::<u32>().unwrap()) - 1),
        };
        let mut expected = vec![
            "CapEff: 00000000a80425fb".to_owned(),
            "Seccomp: 2".to_owned(),
            format!("CapEff: {all}"),
            own("Seccomp:"),
            "mounted".to_owned(),
            "other".to_owned(),
        ];
        let devices = ["kmsg", "fuse", "net/tun", "loop0"].into_iter();
        let devices = devices.filter(|name| std::path::Path::new("/dev").join(name).exists());
        expected.extend(devices.map(str::to_owned));
        expected.push(format!("CapEff: {all}"));
        expected.push(format!("CapAmb: {all}"));
        expected.push("no longer".to_owned());
        assert_eq!(
            log.output(),
            expected,
            "as {user:?}
{}",
            log.stderr
        );
        assert_eq!(build().ok().ran(), [""; 0]);
        // Its privileges are in its key.
        let other = Project::with(
            "FROM busybox
RUN echo a
",
        );
        let more = Project::with(
            "FROM busybox
RUN --security=insecure echo a
",
        );
        rbuild.build(&other).ok();
        let log = rbuild
            .build(&more)
            .args(["--allow", "security.insecure"])
            .ok();
        assert_eq!(log.ran().len(), 1);
    });
}

#[test]
fn files_that_a_step_makes_keep_everything() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir /d && cd /d && echo a > a && ln a hard && ln -s a soft && mkfifo -m 640 fifo \
            && mkdir -m 1777 sticky && mkdir -m 2755 setgid && cp a suid && chmod 4755 suid \
            && chown 12:34 suid && chown 1000:1000 setgid && touch -d @1234567890 old
        ",
    );
    each_user(|user| {
        let tree = Rbuild::new(user).build(&project).image().tree();
        // A change of owner takes the set-uid bit off, as everywhere.
        assert_lines(
            &tree.lines(&["d/**"]),
            r#"
            d 0755 0:0 d
            f 0644 0:0 d/a "a\n" (2 links)
            p 0640 0:0 d/fifo
            f 0644 0:0 d/hard "a\n" (2 links)
            f 0644 0:0 d/old ""
            d 2755 1000:1000 d/setgid
            l 0:0 d/soft -> a
            d 1777 0:0 d/sticky
            f 0755 12:34 d/suid "a\n"
            "#,
        );
        assert_eq!(tree.get("d/old").mtime, 1_234_567_890);
    });
}

#[test]
fn background_processes_end_with_their_step() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let mark = format!("4{:06}", std::process::id());
    let project = Project::with(&format!(
        "
        FROM busybox
        RUN sleep {mark} & echo started
        RUN ps | grep -c '[s]leep {mark}' || true
        "
    ));
    each_user(|user| {
        let begun = Instant::now();
        let log = Rbuild::new(user).build(&project).ok();
        assert_eq!(log.output(), ["started", "0"]);
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(!is_running(&mark));
    });
}

#[test]
fn foreign_paths_in_an_image_never_reach_the_machine() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    let project = Project::with(&format!(
        "
        FROM busybox
        RUN ln -s {0} /evil && ln -s /../../../../../../{0} /climb && rm -rf /mnt && ln -s {0} /mnt
        COPY payload /evil/victim
        COPY payload /climb/victim
        WORKDIR /mnt/made
        RUN --mount=type=tmpfs,target=/evil/tmp true
        RUN --mount=type=bind,source=payload,target=/climb/bound true
        ",
        outside.path().display()
    ))
    .file("payload", "payload");
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        let inside = outside.path().strip_prefix("/").unwrap().display();
        assert_eq!(image.tree().text(&format!("{inside}/victim")), "payload");
        let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        let victim = std::fs::read_to_string(outside.path().join("victim")).unwrap();
        assert_eq!(victim, "untouched");
    });
}

#[test]
fn an_image_runs_the_same_under_another_runtime() {
    if !needs(&[
        Need::Root,
        Need::BaseImages,
        Need::Program("umoci"),
        Need::Program("runc"),
    ]) {
        return;
    }
    let project = Project::with(
        r#"
        FROM busybox
        WORKDIR /srv
        ENV GREETING=hello
        RUN echo "echo $GREETING \$GREETING from \$(pwd) as \$(id -un)" > say.sh
        USER app
        ENTRYPOINT ["sh", "say.sh"]
        "#,
    );
    let rbuild = Rbuild::new(&User::Caller);
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    rbuild
        .build(&project)
        .tag("example.org/app:v1")
        .args([
            "-o",
            &format!("type=oci,tar=false,dest={}", layout.display()),
        ])
        .ok();
    let bundle = folder.path().join("bundle");
    let image = crate::support::Image::read(&layout);
    let annotations = &image.index["manifests"][0]["annotations"];
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "v1");
    assert_eq!(
        annotations["io.containerd.image.name"],
        "example.org/app:v1"
    );
    let mut unpack = Command::new("umoci");
    unpack
        .args(["unpack", "--image", &format!("{}:v1", layout.display())])
        .arg(&bundle);
    run_with_timeout(unpack, None).ok();
    // runc wants a terminal where the bundle asks for one.
    let settings = bundle.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    std::fs::write(&settings, config.to_string()).unwrap();
    let mut run = Command::new("runc");
    run.arg("--root")
        .arg(folder.path().join("runc"))
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(format!("rbuild-test-{}", std::process::id()));
    assert_eq!(
        run_with_timeout(run, None).ok().text(),
        "hello hello from /srv as app"
    );
}

#[test]
fn a_step_learns_nothing_from_rbuilds_command_line() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with("FROM busybox\nRUN cat /proc/*/cmdline > /seen\n");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let build = rbuild.build(&project).build_arg("TOKEN=hidden-value");
        let seen = build.image().tree().text("seen");
        assert!(!seen.contains("hidden-value"), "{seen}");
    });
}
