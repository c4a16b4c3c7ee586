//! Errors word by word: `testdata/diagnostics` has wrong Dockerfiles, each with all that rbuild
//! says of it.
//!
//! A case is a line `=== what it shows`, arguments on a line `$ …` if there are any, the
//! Dockerfile, a line `---`, and the error. The context is that of [`context`].
//! `RBUILD_TEST_UPDATE=1` writes what was said into the files; read the difference.

use std::fmt::Write as _;

use crate::support::{Need, Project, Rbuild, Terminal, User, needs, repository};

struct Case {
    heading: String,
    arguments: Vec<String>,
    dockerfile: String,
    expected: String,
}

/// The files that all cases see beside their Dockerfile.
fn context() -> Project {
    Project::new()
        .file("app.py", "app")
        .file("README.md", "read me")
        .file("src/main.c", "main")
        .file("src/deep/util.c", "util")
        .symlink("src/deep/dangling", "../nowhere.c")
        .file("server.log", "log")
        .file("out/app", "app")
        .file(
            ".dockerignore",
            "# what is made\n*.log\nout\n!out/README.md\n",
        )
}

fn read(text: &str) -> Vec<Case> {
    let cases = text.split("=== ").skip(1).map(|text| {
        let (heading, rest) = text.split_once('\n').unwrap();
        let (mut dockerfile, expected) = rest.split_once("---\n").expect(heading);
        let mut arguments = Vec::new();
        if let Some(rest) = dockerfile.strip_prefix("$ ") {
            let (line, behind) = rest.split_once('\n').unwrap();
            arguments = line.split(' ').map(str::to_owned).collect();
            dockerfile = behind;
        }
        Case {
            heading: heading.to_owned(),
            arguments,
            dockerfile: dockerfile.to_owned(),
            expected: expected.trim_end().to_owned() + "\n",
        }
    });
    cases.collect()
}

/// What rbuild says of a case; of the progress and of what a step has printed nothing.
fn said(rbuild: &Rbuild, case: &Case) -> String {
    let project = context().file("Dockerfile", &case.dockerfile);
    let finished = rbuild
        .build(&project)
        .own_progress()
        .args(["--quiet"])
        .args(&case.arguments)
        .fails();
    let at = finished.stderr.find("error: ").unwrap();
    let folder = format!("{}/", project.path().display());
    finished.stderr[at..].replace(&folder, "")
}

/// Runs the cases of a file.
fn holds(name: &str) {
    let path = repository().join("testdata/diagnostics").join(name);
    let rbuild = Rbuild::new(&User::Caller);
    let (mut wrong, mut written) = (String::new(), String::new());
    for case in read(&std::fs::read_to_string(&path).unwrap()) {
        let said = said(&rbuild, &case);
        let arguments = match case.arguments.join(" ") {
            none if none.is_empty() => none,
            some => format!("$ {some}\n"),
        };
        let (heading, dockerfile) = (&case.heading, &case.dockerfile);
        let head = format!("=== {heading}\n{arguments}{dockerfile}---\n");
        let _ = writeln!(written, "{head}{said}");
        if said != case.expected {
            let _ = writeln!(wrong, "{head}{said}instead of\n{}", case.expected);
        }
    }
    if std::env::var_os("RBUILD_TEST_UPDATE").is_some() {
        std::fs::write(&path, written.trim_end().to_owned() + "\n").unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn of_the_text() {
    holds("text.txt");
}

#[test]
fn of_flags_and_mounts() {
    holds("flags.txt");
}

#[test]
fn of_stages_and_variables() {
    holds("stages.txt");
}

#[test]
fn of_files_that_are_not_there() {
    holds("files.txt");
}

#[test]
fn of_steps_on_a_base_image() {
    if needs(&[Need::BaseImages, Need::Sandbox]) {
        holds("steps.txt");
    }
}

/// The images are nobody's; how a registry says so is its own affair.
#[test]
fn of_an_image_that_may_have_been_meant_as_a_stage() {
    let rbuild = Rbuild::new(&User::Caller);
    for (text, place, help) in [
        (
            "FROM scratch AS builder\nFROM scratch\nCOPY --from=biulder /a /b\n",
            "3 | COPY --from=biulder /a /b\n  |             ^^^^^^^\n",
            "  = help: did you mean the stage `builder`?\n",
        ),
        (
            "FROM 0123456789ab\n",
            "1 | FROM 0123456789ab\n  |      ^^^^^^^^^^^^\n",
            "  = help: an id names no image in FROM: give the image a name with `rbuild tag ID NAME`",
        ),
        (
            "FROM scratch AS builder\nFROM bulider\n",
            "2 | FROM bulider\n  |      ^^^^^^^\n",
            "  = help: did you mean the stage `builder`?\n",
        ),
        (
            "FROM scratch AS tools\nFROM scratch\nRUN --mount=type=bind,from=tolos,target=/x true\n",
            "3 | RUN --mount=type=bind,from=tolos,target=/x true\n  |                            ^^^^^\n",
            "  = help: did you mean the stage `tools`?\n",
        ),
        (
            "FROM no-such-image-below\nFROM scratch AS no-such-image-below\nCOPY --from=0 / /\n",
            "1 | FROM no-such-image-below\n  |      ^^^^^^^^^^^^^^^^^^^\n",
            "  = note: the stage `no-such-image-below` does not stand above this FROM\n",
        ),
    ] {
        let finished = rbuild.build(&Project::with(text)).fails();
        finished.says(&[place, help]);
    }
    let finished = rbuild
        .build(&Project::with("FROM soruces\n"))
        .args(["--build-context", "sources=."])
        .fails();
    finished.says(&["  = help: did you mean the build context `sources`?\n"]);
}

#[test]
fn all_images_that_are_missing_are_told_at_once() {
    let text =
        "FROM localhost:1/one\nFROM scratch\nCOPY --from=localhost:1/two / /\nCOPY --from=0 / /\n";
    let finished = Rbuild::new(&User::Caller)
        .build(&Project::with(text))
        .fails();
    finished.says(&[
        "localhost:1/one",
        "Dockerfile:1:6",
        "localhost:1/two",
        "Dockerfile:3:13",
    ]);
}

#[test]
fn a_trigger_names_the_image_that_it_comes_from() {
    let rbuild = Rbuild::new(&User::Caller);
    let base = "FROM scratch\nONBUILD COPY package.json /\nONBUILD COPY --from=tolos /x /\n";
    rbuild.build(&Project::with(base)).tag("node-base").ok();
    let project = Project::with("FROM scratch AS tools\nFROM node-base\n");
    let finished = rbuild.build(&project).fails();
    finished.says(&[
        "Dockerfile:2:1\n",
        "  = note: this is the ONBUILD trigger `COPY --from=tolos /x /` of the image `node-base`\n",
        "  = help: did you mean the stage `tools`?\n",
    ]);
    let project = Project::with("FROM scratch AS tolos\nFROM node-base\n");
    let finished = rbuild.build(&project).fails();
    finished.says(&[
        "error: `/package.json`: not found in the build context\n",
        "  = note: this is the ONBUILD trigger `COPY package.json /` of the image `node-base`\n",
    ]);
}

#[test]
fn colours_are_for_terminals() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FORM scratch\n");
    assert!(!rbuild.build(&project).fails().stderr.contains('\x1b'));
    let on_a_terminal = |environment: &[(&str, &str)]| {
        let mut command = rbuild.build(&project).own_progress().command();
        command.env("TERM", "xterm-256color");
        command.envs(environment.iter().copied());
        let mut terminal = Terminal::start(&command, 100, 30);
        assert!(!terminal.wait().success());
        terminal.bytes()
    };
    let coloured = on_a_terminal(&[]);
    assert!(
        coloured.contains("\x1b[1;31m^^^^ did you mean `FROM`?\x1b[0m"),
        "{coloured}"
    );
    let plain = on_a_terminal(&[("NO_COLOR", "1")]);
    assert!(plain.contains("^^^^ did you mean `FROM`?"), "{plain}");
    assert!(!plain.contains("\x1b[1;31m"), "{plain}");
}

#[test]
fn names_that_no_check_has_are_warned_of() {
    let text = "# check=skip=JSONArgRecommended\nFROM scratch\n";
    Rbuild::new(&User::Caller)
        .build(&Project::with(text))
        .ok()
        .says(&[
            "no build check is called `JSONArgRecommended`",
            "did you mean `JSONArgsRecommended`?",
        ]);
}

#[test]
fn arguments_that_nothing_takes_are_compared_with_those_declared() {
    Rbuild::new(&User::Caller)
        .build(&Project::with("ARG VERSION\nFROM scratch\n"))
        .build_arg("VERSOIN=1")
        .ok()
        .says(&["VERSOIN (did you mean VERSION?)"]);
}

#[test]
fn an_argument_that_a_trigger_takes_is_taken() {
    let rbuild = Rbuild::new(&User::Caller);
    let base = "FROM scratch\nONBUILD ARG VERSION\nONBUILD LABEL version=$VERSION\n";
    rbuild.build(&Project::with(base)).tag("versioned").ok();
    let project = Project::with("FROM versioned\n");
    let build = || rbuild.build(&project).build_arg("VERSION=1");
    let finished = build().ok();
    assert!(
        !finished.stderr.contains("not consumed"),
        "{}",
        finished.stderr
    );
    let finished = build().build_arg("OTHER=1").ok();
    finished.says(&["one or more build-args were not consumed: OTHER"]);
}

#[test]
fn what_goes_through_and_was_hardly_meant_is_told() {
    let text = "FROM scratch\nWORKDIR /a # here\nCMD ['a']\nENTRYPOINT [\"b\"]\n";
    let finished = Rbuild::new(&User::Caller).build(&Project::with(text)).ok();
    let finished = finished.says(&[
        "line 2, `WORKDIR /a # here`: `#` and what follows belong to it",
        "line 3, `CMD ['a']`: it is given to the shell",
    ]);
    assert!(!finished.stderr.contains("line 4"), "{}", finished.stderr);
}
