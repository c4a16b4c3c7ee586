//! What a RUN step that fails leaves: a shell in its sandbox, a file system to enter later, a log.

use std::process::Command;

use crate::support::{
    Need, Project, Rbuild, Terminal, User, base_image_mirror, each_user, eventually, is_running,
    needs, run_with_timeout,
};

const NEEDS: &[Need] = &[Need::BaseImages, Need::Program("setsid")];

fn rbuild(user: &User) -> Rbuild {
    let mirror = base_image_mirror().unwrap_or_default();
    Rbuild::new(user).env("RBUILD_REGISTRY_MIRROR", mirror)
}

/// `rbuild build ARGS` on a terminal, with the display that it has there.
fn on_a_terminal(rbuild: &Rbuild, project: &Project, args: &[&str]) -> Terminal {
    let mut command: Command = rbuild.build(project).args(args).own_progress().command();
    command.env("TERM", "xterm-256color");
    Terminal::start(&command, 110, 60)
}

/// A step that leaves something in every kind of place and fails.
fn failing() -> Project {
    Project::with(
        r#"
        FROM busybox
        ENV GREETING=hello PS1=prompt>
        WORKDIR /srv/work
        RUN echo before > before && chown app /srv/work
        USER app
        RUN --mount=type=secret,id=token,uid=1000,target=/run/token \
            --mount=type=cache,id=on-error,target=/cache,mode=0777 \
            --mount=type=bind,source=given,target=/given,rw \
            echo half done > result; echo kept > /cache/file; echo mine >> /given/file; exit 3
        "#,
    )
    .file("given/file", "theirs\n")
    .mode("given/file", 0o666)
}

#[test]
fn a_shell_sees_the_step_as_it_ended() {
    if !needs(NEEDS) {
        return;
    }
    each_user(|user| {
        let rbuild = rbuild(user).env("TOKEN", "quite secret");
        let project = failing();
        let args = ["--on-error=shell", "--secret", "id=token,env=TOKEN"];
        let mut terminal = on_a_terminal(&rbuild, &project, &args);
        terminal.wait_for("prompt>");
        // Why it failed stands above, with its place; the progress is over.
        let shown = terminal.bytes();
        for text in ["exit code: 3", "Dockerfile:6", "leave it with `exit`"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        terminal
            .type_in("echo $(id -un) $(pwd) $GREETING $(tty) :; cat before result /cache/file\r");
        terminal.wait_for("app /srv/work hello /dev/pts/0 :");
        terminal.wait_for("before");
        terminal.wait_for("half done");
        terminal.wait_for("kept");
        terminal.type_in("cat /run/token | tr a-z A-Z; cat /given/file\r");
        terminal.wait_for("QUITE SECRET");
        terminal.wait_for("mine");
        terminal.type_in("exit 7\r");
        assert_eq!(terminal.wait().code(), Some(1));
        let lines = terminal.screen();
        let last = "error: failed to build: [4/4] RUN --mount=type=secret,id=token,…: exit code: 3";
        assert_eq!(lines.last().unwrap(), last);
        // Nothing stays, neither of the step nor of its processes.
        let left = std::fs::read_dir(rbuild.store().join("tmp")).unwrap();
        assert_eq!(left.count(), 0);
        assert_eq!(rbuild.run(["debug", "-q"]).ok().text(), "");
    });
}

#[test]
fn other_steps_have_ended_before_the_shell_is_there() {
    if !needs(NEEDS) {
        return;
    }
    let rbuild = rbuild(&User::Caller);
    let project = Project::with(
        r#"
        FROM busybox AS slow
        RUN while :; do date > /dev/null; echo still-there; sleep 0.1; done

        FROM busybox
        ENV PS1=prompt>
        RUN sleep 1; exit 9
        COPY --from=slow /x /x
        "#,
    );
    let mut terminal = on_a_terminal(&rbuild, &project, &["--on-error=shell"]);
    terminal.wait_for("prompt>");
    let shown = terminal.bytes();
    terminal.type_in("sleep 1; echo don''e\r");
    terminal.wait_for("done");
    let since = terminal.bytes().split_off(shown.len());
    assert!(!since.contains("still-there"), "{since}");
    // Ctrl-C is the shell's, and the build fails as it has.
    terminal.type_in("\x03");
    terminal.type_in("exit\r");
    assert_eq!(terminal.wait().code(), Some(1));
}

#[test]
fn the_shell_is_that_of_the_dockerfile_or_is_missed() {
    if !needs(NEEDS) {
        return;
    }
    let rbuild = rbuild(&User::Caller);
    let project = Project::with(
        r#"
        FROM busybox
        RUN cp /bin/busybox /bin/ash2 && ln -s /bin/busybox /bin/hush
        SHELL ["/bin/hush", "-c"]
        RUN exit 1
        "#,
    );
    let mut terminal = on_a_terminal(&rbuild, &project, &["--on-error=shell"]);
    terminal.wait_for("this is `/bin/hush` in the failed step");
    terminal.type_in("exit\r");
    assert_eq!(terminal.wait().code(), Some(1));

    let project = Project::with("FROM scratch\nRUN [\"/missing\"]\n");
    let mut terminal = on_a_terminal(&rbuild, &project, &["--on-error=shell"]);
    assert_eq!(terminal.wait().code(), Some(1));
    let shown = terminal.screen().join("\n");
    assert!(
        shown.contains("there is no shell to look around with"),
        "{shown}"
    );
    assert!(shown.contains("/bin/sh"), "{shown}");
}

/// Killed without a word, or its terminal closed: no process of the sandbox outlives rbuild, and what
/// the step wrote goes when the store is next opened.
#[test]
fn nothing_outlives_a_build_that_is_killed_in_its_shell() {
    if !needs(NEEDS) {
        return;
    }
    each_user(|user| {
        for is_killed in [true, false] {
            let rbuild = rbuild(user);
            let text = "FROM busybox\nENV PS1=prompt>\nRUN touch /left; exit 1\n";
            let project = Project::with(text);
            let mut terminal = on_a_terminal(&rbuild, &project, &["--on-error=shell"]);
            terminal.wait_for("prompt>");
            let mark = format!("{}{}", std::process::id(), u8::from(is_killed));
            terminal.type_in(&format!("echo b''egun; sleep 4{mark}\r"));
            terminal.wait_for("begun");
            let sleeping = format!("4{mark}");
            eventually("it sleeps", || is_running(&sleeping));
            match is_killed {
                true => drop(terminal),
                false => terminal.hang_up(),
            }
            eventually("all processes end", || !is_running(&sleeping));
            let tmp = rbuild.store().join("tmp");
            eventually("what it wrote is gone", || {
                assert_eq!(rbuild.run(["debug", "-q"]).ok().text(), "");
                std::fs::read_dir(&tmp).unwrap().count() == 0
            });
        }
    });
}

#[test]
fn without_a_terminal_nothing_is_begun() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nRUN [\"/x\"]\n");
    let finished = rbuild.build(&project).args(["--on-error=shell"]).fails();
    assert_eq!(finished.status.code(), Some(2));
    assert_eq!(
        finished.stderr,
        "error: `--on-error=shell` needs a terminal on standard input and standard output\n\
         hint: `--on-error=keep` needs none: it keeps the step, to be entered with `rbuild debug`\n"
    );
    let wrong = rbuild.build(&project).args(["--on-error=stop"]).fails();
    wrong.says(&["invalid value `stop` for `--on-error`", "fail, shell, keep"]);
}

#[test]
fn a_kept_step_is_entered_later() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = rbuild(user).env("TOKEN", "quite secret");
        let project = failing();
        let keep = || {
            let build = rbuild.build(&project);
            build.args(["--on-error=keep", "--secret", "id=token,env=TOKEN"])
        };
        let finished = keep().fails();
        assert_eq!(finished.status.code(), Some(1));
        finished.says(&["the step is kept as it ended: `rbuild debug 1` opens a shell in it"]);
        // It is no result of anything: the step runs and fails again, and stands beside the first.
        let again = keep().fails().says(&["`rbuild debug 2`"]);
        assert!(again.ran().iter().any(|step| step.contains("half done")));

        let listed = rbuild.run(["debug"]).ok().text();
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 3, "{listed}");
        assert!(lines[0].starts_with("ID"), "{listed}");
        assert!(lines[1].starts_with("1 "), "{listed}");
        assert!(lines[1].contains("exit code: 3"), "{listed}");
        assert!(lines[1].contains("[4/4] RUN"), "{listed}");

        let enter = |words: &[&str]| rbuild.run([&["debug", "2"], words].concat());
        let script = "id -un; pwd; echo $GREETING; cat before result; ls -A /run /given /cache 2>/dev/null || true";
        assert_eq!(
            enter(&["--", "sh", "-c", script]).ok().text(),
            "app\n/srv/work\nhello\nbefore\nhalf done\n/run:"
        );
        // What is written there goes again; the program's code is the command's.
        enter(&["sh", "-c", "echo more > result"]).ok();
        let cat = enter(&["--", "sh", "-c", "cat result; exit 5"]).fails();
        assert_eq!(cat.status.code(), Some(5));
        assert_eq!(cat.text(), "half done");
        // Without a command it is the step's shell.
        let mut command = rbuild.command();
        command.args(["debug", "2"]);
        let shell = run_with_timeout(command, Some(b"echo in $0\n".to_vec())).ok();
        assert_eq!(shell.text(), "in /bin/sh");

        // Nothing of it is anywhere in the store but in the step's own memory.
        assert!(!holds(&rbuild, "quite secret"));

        // Images go, the step stays.
        rbuild.run(["prune", "--force", "--images"]).ok();
        assert_eq!(enter(&["cat", "result"]).ok().text(), "half done");
        assert_eq!(rbuild.run(["debug", "--rm", "2"]).ok().text(), "2");
        let gone = enter(&["true"]).fails();
        assert_eq!(gone.status.code(), Some(125));
        gone.says(&["no failed step is kept as `2`", "`rbuild debug` lists all"]);
        let pruned = rbuild.run(["prune", "--force"]).ok().text();
        assert!(pruned.contains("Deleted failed steps: 1\n"), "{pruned}");
        assert_eq!(rbuild.run(["debug", "-q"]).ok().text(), "");
    });
}

/// Whether a file of the store has these bytes.
fn holds(rbuild: &Rbuild, text: &str) -> bool {
    let grep = Command::new("grep")
        .args(["-rqa", "--", text])
        .arg(rbuild.store())
        .status();
    grep.unwrap().success()
}

#[test]
fn only_a_program_that_fails_leaves_something() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = rbuild(&User::Caller);
    let project = Project::with("FROM busybox\nCOPY nothing /\n");
    let finished = rbuild.build(&project).args(["--on-error=keep"]).fails();
    finished.says(&["nothing is left of the step that failed"]);
    assert_eq!(rbuild.run(["debug", "-q"]).ok().text(), "");
}

#[test]
fn the_whole_log_of_a_failed_step_is_in_a_file() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = rbuild(user);
        let project = Project::with(
            "FROM busybox\nRUN seq 200000; head -c 300000 /dev/zero | tr '\\0' x; echo; exit 4\n",
        );
        let finished = rbuild.build(&project).fails();
        let line = finished
            .stderr
            .lines()
            .find(|line| line.starts_with("full log: "));
        let path = line.expect("a path").trim_start_matches("full log: ");
        let log = std::fs::read_to_string(path).unwrap();
        let numbers: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        assert_eq!(log, numbers + &"x".repeat(300_000) + "\n");
        // Logs of long ago go with the rest of that age, others stay.
        let prune = |filter: &str| rbuild.run(["prune", "--force", "--filter", filter]).ok();
        prune("until=24h");
        assert!(std::path::Path::new(path).exists());
        std::thread::sleep(std::time::Duration::from_secs(2));
        prune("until=1s");
        assert!(!std::path::Path::new(path).exists());
    });
}
