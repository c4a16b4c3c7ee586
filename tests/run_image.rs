//! `rbuild run`: an image tried in the foreground, as `docker run` would run it.

mod ports;
mod streams;
mod terminals;

use std::ffi::OsString;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Finished, Need, Project, Rbuild, User, as_other_user, base_image_mirror, each_user, eventually,
    is_running, needs, skip,
};

/// An rbuild whose store has the image `app` of this Dockerfile. A base that no step has read is
/// fetched when the image is first run.
fn with_image(user: &User, dockerfile: &str) -> Rbuild {
    let mirror = base_image_mirror().unwrap_or_default();
    let rbuild = Rbuild::new(user).env("RBUILD_REGISTRY_MIRROR", mirror);
    rbuild.build(&Project::with(dockerfile)).tag("app").ok();
    rbuild
}

fn run(rbuild: &Rbuild, words: &[&str]) -> Finished {
    rbuild.run([&["run"], words].concat())
}

/// What `rbuild run WORDS` prints; it must succeed.
#[track_caller]
fn prints(rbuild: &Rbuild, words: &[&str], expected: &str) {
    assert_eq!(run(rbuild, words).ok().text(), expected, "{words:?}");
}

/// Work in progress that the store still holds.
fn left_behind(rbuild: &Rbuild) -> Vec<OsString> {
    let entries = std::fs::read_dir(rbuild.store().join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn the_config_and_the_command_line_join_as_docker_joins_them() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(
            user,
            r#"
            FROM busybox
            ENV FROM_IMAGE=image BOTH=image
            USER app
            WORKDIR /srv/work
            ENTRYPOINT ["echo", "entry"]
            CMD ["cmd"]
            "#,
        );
        prints(&rbuild, &["app"], "entry cmd");
        prints(&rbuild, &["app", "-e", "--rm"], "entry -e --rm");
        prints(&rbuild, &["--entrypoint", "id", "app", "-un"], "app");
        prints(&rbuild, &["--entrypoint=", "app", "pwd"], "/srv/work");
        let sh = |options: &[&str], script: &str, expected: &str| {
            let words = [&["--entrypoint", "sh"], options, &["app", "-c", script]].concat();
            prints(&rbuild, &words, expected);
        };
        sh(
            &[],
            "echo $HOME $FROM_IMAGE $BOTH $HOSTNAME $(hostname)",
            "/home/app image image rbuild rbuild",
        );
        sh(
            &[
                "-e",
                "BOTH=mine",
                "-e",
                "HOME",
                "-e",
                "FROM_IMAGE",
                "-h",
                "box",
            ],
            "echo $HOME $BOTH ${FROM_IMAGE-unset} $(hostname) $(cat /etc/hostname)",
            &format!("{} mine unset box box", rbuild.home().display()),
        );
        sh(
            &["-u", "0", "-w", "/made/now"],
            "id -u; pwd; touch x",
            "0\n/made/now",
        );
        sh(&["-u", "4321:1234"], "id -u; id -g", "4321\n1234");
        sh(&["-u", "nobody:staff"], "id -un; id -gn", "nobody\nstaff");
        let file = rbuild.out().join("variables");
        std::fs::write(&file, "# note\nA=from a file\nBOTH=file\n").unwrap();
        sh(
            &["--env-file", file.to_str().unwrap(), "-e", "BOTH=option"],
            "echo $A $BOTH",
            "from a file option",
        );
        sh(
            &[
                "--add-host",
                "db:10.0.0.1",
                "--ulimit",
                "nofile=123",
                "--shm-size",
                "1m",
            ],
            "grep db /etc/hosts; ulimit -n; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2",
            "10.0.0.1\tdb\n123\n1024",
        );
        let id = rbuild.run(["images", "-q", "app"]).ok().text();
        prints(&rbuild, &[&id, "by", "id"], "entry by id");
        let group = rbuild.run(["container", "run", "app"]).ok();
        assert_eq!(group.text(), "entry cmd");
        assert_eq!(left_behind(&rbuild).len(), 0);
    });
}

#[test]
fn the_exit_code_is_the_program_s_or_docker_s() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\nCMD [\"true\"]\n");
        for (words, code, says) in [
            (&["app"][..], 0, ""),
            (&["app", "sh", "-c", "exit 42"], 42, ""),
            (&["app", "sh", "-c", "kill -9 $$"], 137, ""),
            (&["app", "sh", "-c", "kill $$"], 143, ""),
            (
                &["app", "nothing"],
                127,
                "exec: \"nothing\": executable file not found in $PATH",
            ),
            (&["app", "/etc/passwd"], 126, "permission denied"),
            (&["app", "/etc"], 126, "is a directory"),
            (&["-u", "ghost", "app"], 125, "unable to find user ghost"),
            (&["-w", "here", "app"], 125, "the path must be absolute"),
            (&["-w", "/etc/passwd", "app"], 125, "is not a directory"),
            (&["--pull=never", "nothing"], 125, "No such image: nothing"),
            (&["--wat", "app"], 125, "unknown flag `--wat`"),
            (&["-d", "app"], 125, "does not support --detach"),
            (&["--name", "x", "app"], 125, "does not support --name"),
            (
                &["--network=bridge", "app"],
                125,
                "does not support --network=bridge",
            ),
            (
                &["-v", "data:/data", "app"],
                125,
                "rbuild keeps no named volumes",
            ),
            (
                &["-v", "/nonexistent:/data", "app"],
                125,
                "can't mount `/nonexistent` on `/data`: No such file or directory",
            ),
            (
                &["-p", "53:53/udp", "app"],
                125,
                "rbuild passes on TCP only",
            ),
            (&["-it", "app"], 125, "the input device is not a TTY"),
            (
                &["-v", "/:/a", "--tmpfs", "/a", "app"],
                125,
                "duplicate mount point: `/a`",
            ),
        ] {
            let finished = run(&rbuild, words);
            assert_eq!(finished.status.code(), Some(code), "{finished:?}");
            finished.says(&[says]);
        }
        let none = rbuild.run(["--isolation=none", "run", "app"]);
        assert_eq!(none.status.code(), Some(125));
        none.says(&["running an image needs a sandbox", "rbuild doctor"]);
        assert_eq!(left_behind(&rbuild).len(), 0);
    });
}

#[test]
fn an_image_that_is_not_here_is_pulled() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let mirror = base_image_mirror().unwrap();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let pull =
            |words: &[&str]| rbuild.run([&["--registry-mirror", mirror, "run"], words].concat());
        let first = pull(&["busybox", "echo", "hello"]).ok();
        assert_eq!(first.text(), "hello");
        first.says(&["pull docker.io/library/busybox:latest"]);
        // Now it is, and nothing is to be told.
        let second = pull(&["busybox", "echo", "hello"]).ok();
        assert_eq!(
            (second.text().as_str(), second.stderr.as_str()),
            ("hello", "")
        );
        pull(&["--pull=always", "busybox", "true"])
            .ok()
            .says(&["load metadata"]);
    });
}

#[test]
fn nothing_of_a_run_reaches_the_image_or_the_store() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\nVOLUME /data\n");
        let script = "rm /bin/ls && mkdir /new /data/x && echo x >>/etc/hosts && touch /etc/resolv.conf && chown app /new";
        run(&rbuild, &["app", "sh", "-c", script]).ok();
        prints(
            &rbuild,
            &[
                "app",
                "sh",
                "-c",
                "ls -d /new /data/* 2>/dev/null; grep -c . /etc/hosts; ls -d /data",
            ],
            "2\n/data",
        );
        let images = rbuild.run(["images", "-q"]).ok().text();
        assert_eq!(images.lines().count(), 1, "{images}");
        assert_eq!(left_behind(&rbuild).len(), 0);
    });
}

#[test]
fn folders_and_files_of_the_machine_are_shown() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let out = rbuild.out();
        std::fs::write(out.join("file"), "content\n").unwrap();
        user.own(&out.join("file"));
        let out = out.to_str().unwrap();
        // The working directory of rbuild is that folder.
        prints(
            &rbuild,
            &[
                "-v",
                ".:/here",
                "-w",
                "/here",
                "app",
                "sh",
                "-c",
                "cat file; echo new >made; ls",
            ],
            "content\nfile\nmade",
        );
        assert_eq!(
            std::fs::read_to_string(format!("{out}/made")).unwrap(),
            "new\n"
        );
        let read_only = format!("{out}:/here:ro");
        let refused = run(&rbuild, &["-v", &read_only, "app", "touch", "/here/x"]).fails();
        refused.says(&["Read-only file system"]);
        let file = format!("type=bind,source={out}/file,target=/etc/deep/name,readonly");
        prints(
            &rbuild,
            &["--mount", &file, "app", "cat", "/etc/deep/name"],
            "content",
        );
        // One inside of the other, written the other way round.
        let inner = format!("{out}/file:/a/b/file");
        let outer = format!("{out}:/a/b:ro");
        prints(
            &rbuild,
            &["-v", &inner, "-v", &outer, "app", "ls", "/a/b"],
            "file\nmade",
        );
    });
}

#[test]
fn a_read_only_image_has_writable_places() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(
            user,
            "
            FROM busybox
            RUN mkdir /data && echo kept >/data/file
            VOLUME /data
            ",
        );
        let options = [
            "--read-only",
            "--tmpfs",
            "/fast:size=64k,mode=700",
            "app",
            "sh",
            "-c",
        ];
        let script = |script: &str, expected: &str| {
            prints(&rbuild, &[&options[..], &[script]].concat(), expected);
        };
        script(
            "for f in /x /etc/x /bin/x; do touch $f 2>/dev/null && echo wrote $f; done; true",
            "",
        );
        script(
            "cat /data/file && echo more >>/data/file && cat /data/file",
            "kept\nkept\nmore",
        );
        script("cat /data/file", "kept");
        script(
            "stat -c %a /fast; touch /fast/x /dev/shm/x && dd if=/dev/zero of=/fast/big bs=1k count=100 2>/dev/null || echo full",
            "700\nfull",
        );
        script(
            "cp /bin/busybox /dev/shm/; cd /fast; echo '#!/bin/sh' >p; chmod +x p; ./p 2>/dev/null || echo no exec",
            "no exec",
        );
    });
}

/// A program that goes on until it is killed with this value.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Started {
    fn new(mut command: Command) -> Started {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Started(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let process = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(process, signal).unwrap();
    }

    /// Reads standard output up to this text.
    fn wait_for(&mut self, text: &str) {
        let stdout = self.0.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{text:?} never came");
            seen.push(byte[0]);
        }
    }

    fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn signals_are_the_program_s() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let start = |options: &[&str], script: &str| {
            let mut command = rbuild.command();
            let script = format!("{script}; echo ready; while :; do sleep 0.05; done");
            command
                .arg("run")
                .args(options)
                .args(["app", "sh", "-c", &script]);
            let mut started = Started::new(command);
            started.wait_for("ready\n");
            started
        };
        let trap = "trap 'exit 3' INT TERM; trap 'echo one' USR1";
        for signal in [Signal::INT, Signal::TERM] {
            let mut program = start(&[], trap);
            program.signal(signal);
            assert_eq!(program.code(), Some(3), "{signal:?}");
        }
        let mut program = start(&[], trap);
        program.signal(Signal::USR1);
        program.wait_for("one\n");
        program.signal(Signal::TERM);
        assert_eq!(program.code(), Some(3));
        // Whoever has no use for it ends by it.
        let mut program = start(&[], "true");
        program.signal(Signal::TERM);
        assert_eq!(program.code(), Some(143));
        // A second one, or time, ends those who won't.
        let mut deaf = start(&[], "trap '' INT TERM");
        deaf.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
        deaf.signal(Signal::TERM);
        assert_eq!(deaf.code(), Some(137));
        let mut deaf = start(&["--stop-timeout", "1"], "trap '' INT TERM");
        let begun = Instant::now();
        deaf.signal(Signal::TERM);
        assert_eq!(deaf.code(), Some(137));
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(left_behind(&rbuild).len(), 0);
    });
}

#[test]
fn what_a_killed_rbuild_leaves_goes_with_the_next_one() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let mark = format!("1{}", std::process::id());
        let mut command = rbuild.command();
        let script = format!("touch /file && chown app /file; sleep {mark} & echo ready; wait");
        command.args(["run", "app", "sh", "-c", &script]);
        let mut program = Started::new(command);
        program.wait_for("ready\n");
        program.signal(Signal::KILL);
        assert_eq!(program.code(), None);
        eventually("the program outlives rbuild", || !is_running(&mark));
        assert!(!left_behind(&rbuild).is_empty());
        run(&rbuild, &["app", "true"]).ok();
        assert_eq!(left_behind(&rbuild).len(), 0);
    });
}

#[test]
fn a_terminal_needs_none_outside_where_nobody_types() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let words = ["-qt", "app", "sh", "-c", "tty; echo err >&2"];
        let finished = run(&rbuild, &words).ok();
        assert_eq!(
            String::from_utf8_lossy(&finished.stdout),
            "/dev/pts/0\r\nerr\r\n"
        );
        assert_eq!(finished.stderr, "");
    });
}

#[test]
fn one_id_is_enough_for_an_image_of_root_s() {
    as_other_user(|user| {
        let rbuild = Rbuild::new(user).env("RBUILD_ISOLATION", "userns-single");
        let hello = crate::support::repository().join("examples/hello");
        if !rbuild.run(["doctor"]).status.success() {
            return skip("a user namespace with one id doesn't work here");
        }
        rbuild.build_at(hello).tag("hello").ok();
        run(&rbuild, &["hello"]).ok();
        run(&rbuild, &["-u", "33", "hello"]).ok();
    });
}

#[test]
fn what_one_isolation_has_made_serves_another() {
    as_other_user(|user| {
        let single = Rbuild::new(user).env("RBUILD_ISOLATION", "userns-single");
        let hello = crate::support::repository().join("examples/hello");
        if !single.run(["doctor"]).status.success() {
            return skip("a user namespace with one id doesn't work here");
        }
        single.build_at(hello).tag("hello").ok();
        // The layer of a RUN step is there as a tree only.
        let step = "RUN [\"/bin/hello\", \"--greet\", \"/greeting\"]";
        let project = Project::with(&format!("FROM hello\n{step}\n"));
        single.build(&project).tag("app").ok();
        let wide = single.env("RBUILD_ISOLATION", "userns");
        if !wide.run(["doctor"]).status.success() {
            return skip("a user namespace with a range of ids doesn't work here");
        }
        run(&wide, &["app"]).ok();
        wide.run(["save", "-o", "app.tar", "app"]).ok();
        let project = Project::with(&format!("FROM app\n{step}\n"));
        wide.build(&project).ok();
    });
}
