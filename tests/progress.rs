//! How a build looks while it goes on and when it has ended: on terminals of all kinds, in logs,
//! to programs; and where the whole output of a step is kept.

mod rawjson;

use std::path::PathBuf;

use self::rawjson::json_logs;
use crate::support::{Need, Project, Rbuild, Terminal, User, assert_lines, each_user, needs};

/// A chain of steps, so that their order is always the same.
fn chain() -> Project {
    Project::with(
        "
        FROM busybox
        WORKDIR /src
        COPY input .
        RUN echo one && echo two > made
        RUN test -s made
        ",
    )
    .file("input", "input")
}

/// A build on a terminal, with the variables that a user's shell has.
fn on_terminal(
    rbuild: &Rbuild,
    project: &Project,
    width: u16,
    variables: &[(&str, &str)],
) -> Terminal {
    let mut build = rbuild.build(project).own_progress().tag("app");
    for (name, value) in variables {
        build = build.env(name, value);
    }
    Terminal::start(&build.command(), width, 40)
}

const XTERM: [(&str, &str); 1] = [("TERM", "xterm-256color")];

/// The text with times, sizes and digests made the same, each as wide as before.
fn masked(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        let mut rest = line.as_str();
        while let Some(at) = rest.find("sha256:") {
            text += &rest[..at];
            text += "sha256:";
            rest = &rest[at + 7..];
            let hex = rest.chars().take_while(char::is_ascii_hexdigit).count();
            text += &"x".repeat(hex);
            rest = &rest[hex..];
        }
        // The rest of a digest that has come to the end of a line.
        let is_rest = rest.len() > 20 && rest.chars().all(|c| c.is_ascii_hexdigit());
        text += &if is_rest {
            "x".repeat(rest.len())
        } else {
            rest.to_owned()
        };
        text.push('\n');
    }
    for unit in ["s", "B", "kB", "MB"] {
        text = mask_numbers(&text, unit);
    }
    text
}

/// Replaces the digits of numbers in front of a unit.
fn mask_numbers(text: &str, unit: &str) -> String {
    let words = text.split_inclusive([' ', '\n', ',']);
    let masked = words.map(|word| {
        let number = word.trim_end_matches([' ', '\n', ',']).strip_suffix(unit);
        match number {
            Some(number) if number.parse::<f64>().is_ok() => {
                word.replace(|c: char| c.is_ascii_digit(), "0")
            }
            _ => word.to_owned(),
        }
    });
    masked.collect()
}

#[test]
fn a_terminal_shows_every_step_and_what_came_of_it() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    let project = chain();
    let rbuild = Rbuild::new(&User::Caller);
    let mut terminal = on_terminal(&rbuild, &project, 80, &XTERM);
    assert!(terminal.wait().success());
    assert!(terminal.shows_cursor());
    assert_lines(
        &masked(&terminal.screen()),
        "
         => [internal] load build definition from Dockerfile                        0.0s
         => [internal] load metadata for docker.io/library/busybox:latest           0.0s
         => [1/5] FROM docker.io/library/busybox:latest@sha256:xxxxxxxxxxxxxxxxxxx… 0.0s
         => [internal] pull docker.io/library/busybox:latest                        0.0s
         => [2/5] WORKDIR /src                                                      0.0s
         => [3/5] COPY input .                                                      0.0s
         => [internal] unpack docker.io/library/busybox:latest                      0.0s
         => [4/5] RUN echo one && echo two > made                                   0.0s
         => [5/5] RUN test -s made                                                  0.0s
         => exporting to image                                                      0.0s
        [+] Building 0.0s (10/10) FINISHED

        built sha256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        in 0.0s
        size 0.00MB
        named app:latest
        next: `rbuild tag app:latest REGISTRY/app:latest` and `rbuild push REGISTRY/app:
        latest` publish it
        ",
    );
    // Again, on a narrow one: nothing runs.
    let mut terminal = on_terminal(&rbuild, &project, 40, &XTERM);
    assert!(terminal.wait().success());
    assert_lines(
        &masked(&terminal.screen()),
        "
         => [internal] load build definiti… 0.0s
         => [internal] load metadata for d… 0.0s
         => [1/5] FROM docker.io/library/b… 0.0s
         => CACHED 4 steps: [2-5/5]         0.0s
         => exporting to image              0.0s
        [+] Building 0.0s (8/8) FINISHED

        built sha256:xxxxxxxxxxxxxxxxxxxxxxxxxxx
        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        in 0.0s, every step cached
        size 0.00MB
        named app:latest
        next: `rbuild tag app:latest REGISTRY/ap
        p:latest` and `rbuild push REGISTRY/app:
        latest` publish it
        ",
    );
}

#[test]
fn a_failure_on_a_terminal_shows_output_place_and_log() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN echo before; echo no such thing >&2; exit 127
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    let mut terminal = on_terminal(
        &rbuild,
        &project,
        80,
        &[("TERM", "xterm"), ("NO_COLOR", "1")],
    );
    assert_eq!(terminal.wait().code(), Some(1));
    assert!(terminal.shows_cursor());
    let screen = terminal.screen();
    let shown = masked(&screen).replace(&project.path().display().to_string(), "CONTEXT");
    let end = shown.find(" => ERROR").unwrap();
    let shown: String = shown[end..]
        .lines()
        .filter(|line| {
            !line.starts_with("full log: ") && !line.contains(".log") && !line.contains("--> ")
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let shown = shown.replace("0.000 ", "");
    for part in [
        " => ERROR [2/2] RUN echo before; echo no such thing >&2; exit 127           0.0s\n",
        "FAILED\n",
        " > [2/2] RUN echo before; echo no such thing >&2; exit 127:\n",
        "2 | RUN echo before; echo no such thing >&2; exit 127\n  | ^^^^",
        "= help: 127 is ",
    ] {
        assert!(shown.contains(part), "{part:?} is missing:\n{shown}");
    }
    let log = full_log(&terminal.bytes()).unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["before", "no such thing"]);
}

/// The path that stands behind `full log: `.
fn full_log(text: &str) -> Option<PathBuf> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("full log: "))?;
    Some(PathBuf::from(line.trim_end()))
}

#[test]
fn running_steps_show_a_window_that_follows_the_terminals_size() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=cache,target=/c,id=go \\
            for i in 1 2 3 4 5 6 7 8 9; do echo this is line number $i of quite a few lines; done; \\
            printf 'typing'; until [ -e /c/go ]; do sleep 0.05; done
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    let mut terminal = on_terminal(&rbuild, &project, 80, &XTERM);
    terminal.wait_for("=> # typing");
    let window = |terminal: &Terminal| -> Vec<String> {
        let screen = terminal.screen();
        screen
            .into_iter()
            .filter(|line| line.contains(" => => # "))
            .collect()
    };
    let expected: Vec<String> = (5..10)
        .map(|n| format!(" => => # this is line number {n} of quite a few lines"))
        .chain([" => => # typing".to_owned()])
        .collect();
    assert_eq!(window(&terminal), expected);
    terminal.resize(40, 12);
    terminal.wait_for(" => => # this is line number 9 of quite…");
    assert_eq!(window(&terminal).len(), 6);
    terminal.resize(50, 8);
    terminal.wait_for(" => => # this is line number 9 of quite a few lin…");
    assert!(window(&terminal).len() < 6);
    terminal.resize(60, 24);
    // The step may go on.
    for entry in walk(&rbuild.store().join("mounts")) {
        std::fs::write(entry.join("go"), "go\n").unwrap();
    }
    assert!(terminal.wait().success());
    let screen = terminal.screen();
    let count = |text: &str| screen.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("[+] Building"), 1, "{screen:#?}");
    assert_eq!(count("=> #"), 0, "{screen:#?}");
}

/// The folders two levels below this one.
fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let below = |path: PathBuf| {
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    below(folder.to_owned()).flat_map(below).collect()
}

#[test]
fn terminals_that_cannot_be_drawn_on_get_lines() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    let project = chain();
    let rbuild = Rbuild::new(&User::Caller);
    for (width, variables) in [
        (80, &[("TERM", "dumb")][..]),
        (80, &[]),
        (29, &XTERM),
        (
            80,
            &[
                ("TERM", "xterm"),
                ("BUILDKIT_PROGRESS", "plain"),
                ("NO_COLOR", "1"),
            ],
        ),
    ] {
        let mut terminal = on_terminal(&rbuild, &project, width, variables);
        assert!(terminal.wait().success());
        let bytes = terminal.bytes();
        assert!(
            bytes.contains("#1 [internal] load build definition"),
            "{bytes}"
        );
        assert!(bytes.contains(" CACHED\r\n") || bytes.contains("echo two > made\r\n"));
        let coloured = variables == XTERM;
        assert_eq!(bytes.contains('\x1b'), coloured, "{variables:?}: {bytes:?}");
    }
    // `NO_COLOR` takes the colours and nothing else.
    let mut terminal = on_terminal(
        &rbuild,
        &project,
        80,
        &[("TERM", "xterm"), ("NO_COLOR", "1")],
    );
    assert!(terminal.wait().success());
    let bytes = terminal.bytes();
    assert!(
        bytes.contains("\x1b[2K") && !has_colours(&bytes),
        "{bytes:?}"
    );
    let mut terminal = on_terminal(&rbuild, &project, 80, &XTERM);
    assert!(terminal.wait().success());
    assert!(has_colours(&terminal.bytes()));
}

/// Whether there is any SGR sequence.
fn has_colours(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|rest| {
        rest.find(|c: char| !c.is_ascii_digit() && c != ';')
            .is_some_and(|at| rest[at..].starts_with('m'))
    })
}

#[test]
fn what_a_step_prints_cannot_drive_the_terminal() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    let project = Project::with(
        r"
        FROM busybox
        RUN printf '\033]0;owned\007\033[2J\033[31mred\033[0m \033[?1049h\033[Hup\n\033[5A\n'; exit 3
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    for progress in ["tty", "plain"] {
        let build = rbuild
            .build(&project)
            .own_progress()
            .args(["--progress", progress])
            .env("TERM", "xterm");
        let mut terminal = Terminal::start(&build.command(), 100, 40);
        assert_eq!(terminal.wait().code(), Some(1));
        let bytes = terminal.bytes();
        for sequence in ["\x1b]", "\x1b[2J", "\x1b[?1049h", "\x1b[H", "\x1b[5A"] {
            assert!(
                !bytes.contains(sequence),
                "{progress}: {sequence:?} in {bytes:?}"
            );
        }
        assert!(
            bytes.contains("\x1b[31mred\x1b[0m up"),
            "{progress}: {bytes:?}"
        );
    }
    // In a log there are no colours either; the step's own log has every byte.
    let finished = rbuild.build(&project).fails();
    assert!(!finished.stderr.contains('\x1b'), "{:?}", finished.stderr);
    assert_eq!(
        finished.output().first().map(String::as_str),
        Some("red up")
    );
    let log = std::fs::read_to_string(full_log(&finished.stderr).unwrap()).unwrap();
    assert!(
        log.starts_with("\x1b]0;owned\x07\x1b[2J\x1b[31mred"),
        "{log:?}"
    );
}

#[test]
fn the_whole_output_of_a_failed_step_is_kept() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo line $i; done; false
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let finished = rbuild.build(&project).fails().says(&["line 5000"]);
        let log = full_log(&finished.stderr).unwrap();
        assert!(log.starts_with(rbuild.store().join("logs")), "{log:?}");
        let expected: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
        // A step that says nothing has no log.
        let silent = Project::with("FROM busybox\nRUN exit 5\n");
        assert_eq!(full_log(&rbuild.build(&silent).fails().stderr), None);
    });
}

#[test]
fn a_steps_end_is_explained() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    for (command, parts) in [
        (
            "exit 137",
            &["exit code: 137", "killed by SIGKILL, perhaps out of memory"][..],
        ),
        ("kill -9 $$", &["exit code: 137: killed by SIGKILL"]),
        (
            "sh -c 'kill -SEGV $$'; exit $?",
            &["exit code: 139", "killed by SIGSEGV"],
        ),
        ("touch /x && /x", &["exit code: 126", "executable"]),
        ("no-such-program", &["exit code: 127", "PATH"]),
        ("exit 3", &["exit code: 3"]),
    ] {
        let project = Project::with(&format!("FROM busybox\nRUN {command}\n"));
        let finished = rbuild.build(&project).fails().says(parts);
        assert_eq!(finished.status.code(), Some(1));
        assert_eq!(
            finished.stderr.contains("= help:"),
            parts.len() == 2,
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn secrets_that_a_step_prints_are_masked() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let key = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\nshort\n-----END KEY-----\n";
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=secret,id=token --mount=type=secret,id=key --mount=type=secret,id=word,env=WORD \\
            t=$(cat /run/secrets/token); printf 'is hunt'; sleep 0.2; echo \"${t#hunt}!\"; \\
            cat /run/secrets/key; echo $WORD; exit 9
        ",
    )
    .file("secret-token", "hunter2-hunter2\n")
    .file("secret-key", key)
    .file(".dockerignore", "secret-*");
    let secret = |name: &str| {
        format!(
            "id={name},src={}",
            project.path().join(format!("secret-{name}")).display()
        )
    };
    let rbuild = Rbuild::new(&User::Caller).env("WORD_IN", "open sesame");
    let build = |progress: &str| {
        rbuild
            .build(&project)
            .own_progress()
            .args([
                "--progress",
                progress,
                "--secret",
                &secret("token"),
                "--secret",
                &secret("key"),
            ])
            .args(["--secret", "id=word,env=WORD_IN"])
            .fails()
    };
    let finished = build("plain");
    assert_eq!(
        finished.output(),
        ["is ***!", "***", "***", "short", "***", "***"]
    );
    let log = full_log(&finished.stderr).unwrap();
    assert_eq!(
        std::fs::read_to_string(log).unwrap(),
        "is ***!\n***\n***\nshort\n***\n***\n"
    );
    let printed: Vec<u8> = json_logs(&build("rawjson"))
        .into_values()
        .flatten()
        .collect();
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        "is ***!\n***\n***\nshort\n***\n***\n"
    );
}

#[test]
fn nothing_is_shown_where_nothing_was_asked_for() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = chain();
    for (progress, prints_id) in [("quiet", true), ("none", false)] {
        let finished = rbuild
            .build(&project)
            .own_progress()
            .args(["--progress", progress])
            .ok();
        assert_eq!(finished.stderr, "");
        assert_eq!(finished.text().starts_with("sha256:"), prints_id);
    }
}

/// Stages that run at once and stand on one image wait for one pull, and begin after it.
#[test]
fn a_base_image_is_pulled_once_and_before_the_steps_on_it() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox AS one
        RUN echo 1 > /1
        FROM busybox AS two
        RUN echo 2 > /2
        FROM busybox AS three
        COPY --from=one /1 /
        COPY --from=two /2 /
        ",
    );
    let finished = Rbuild::new(&User::Caller).build(&project).ok();
    let heading = |text: &str| {
        let lines = finished.stderr.lines().enumerate();
        let found = lines.filter(|(_, line)| line.starts_with('#') && line.contains(text));
        found.map(|(place, _)| place).collect::<Vec<_>>()
    };
    let pulls = heading("[internal] pull ");
    assert_eq!(pulls.len(), 1, "{}", finished.stderr);
    for step in ["] RUN echo 1", "] RUN echo 2"] {
        assert!(heading(step)[0] > pulls[0], "{}", finished.stderr);
    }
}
