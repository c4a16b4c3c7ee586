//! Errors as the user sees them: the line, a caret, what to do.

use crate::support::{Finished, Need, Project, Rbuild, User, needs};

fn failing(project: &Project) -> Finished {
    Rbuild::new(&User::Caller).build(project).fails()
}

#[test]
fn a_wrong_instruction_suggests_the_nearest() {
    let cases = [
        ("COPPY a b", "COPY"),
        ("COPY..", "COPY . ."),
        ("ADD. $GOPATH/src/myapp", "ADD . "),
        ("EXPOSR 80", "EXPOSE"),
        ("FORM debian", "FROM"),
        ("WROKDIR /x", "WORKDIR"),
    ];
    for (line, suggestion) in cases {
        let project = Project::with(&format!("FROM scratch\n{line}\n"));
        let finished = failing(&project).says(&["Dockerfile:2", line, "^", suggestion]);
        assert!(finished.stderr.lines().count() < 20, "{}", finished.stderr);
    }
}

#[test]
fn mistakes_name_their_place_and_what_to_do() {
    let cases: &[(&str, &[&str])] = &[
        ("", &["Dockerfile"]),
        ("RUN true\n", &["FROM"]),
        ("FROM scratch\nFROM\n", &["Dockerfile:2"]),
        (
            "FROM scratch\nCOPY missing /\n",
            &["Dockerfile:2", "missing", "^"],
        ),
        ("FROM scratch\nCOPY a\n", &["Dockerfile:2", "COPY"]),
        (
            "FROM scratch\nCOPY --from=nowhere.invalid/x a b\n",
            &["Dockerfile:2", "nowhere.invalid"],
        ),
        ("FROM scratch\nCOPY --chmod=9 a b\n", &["Dockerfile:2", "9"]),
        (
            "FROM scratch\nCOPY --chown=ghost a b\n",
            &["Dockerfile:2", "ghost"],
        ),
        (
            "FROM scratch\nCOPY --no-such-flag a b\n",
            &["Dockerfile:2", "--no-such-flag"],
        ),
        (
            "FROM scratch\nRUN --mount=type=ssh,source=x true\n",
            &["Dockerfile:2", "ssh"],
        ),
        ("FROM scratch\nENV a\n", &["Dockerfile:2", "ENV"]),
        ("FROM scratch\nEXPOSE x\n", &["Dockerfile:2", "x"]),
        (
            "FROM scratch\nSTOPSIGNAL NOSUCH\n",
            &["Dockerfile:2", "NOSUCH"],
        ),
        (
            "FROM scratch\nLABEL a=${b:?needed}\n",
            &["Dockerfile:2", "needed"],
        ),
        ("FROM scratch AS 1bad\n", &["Dockerfile:1", "1bad"]),
        (
            "FROM a AS b\nFROM b AS a\nCOPY --from=c / /\n",
            &["Dockerfile"],
        ),
        (
            "FROM scratch\nCOPY <<EOF /x\nnever ends\n",
            &["Dockerfile:2", "EOF"],
        ),
        ("# escape=x\nFROM scratch\n", &["escape"]),
    ];
    let mut wrong = String::new();
    for (text, parts) in cases {
        let project = Project::new().file("Dockerfile", text).file("a", "a");
        let finished = Rbuild::new(&User::Caller).build(&project).run();
        let missing: Vec<&&str> = parts
            .iter()
            .filter(|part| !finished.stderr.contains(**part))
            .collect();
        if finished.status.success() || finished.stderr.contains("panicked") || !missing.is_empty()
        {
            wrong += &format!(
                "{text:?} ended with {} and did not say {missing:?}:\n{}\n",
                finished.status, finished.stderr
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_is_missing_on_the_command_line_is_said() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::new();
    rbuild.build(&project).fails().says(&["Dockerfile"]);
    rbuild
        .build_at("/no/such/folder")
        .fails()
        .says(&["/no/such/folder"]);
    let project = project.dockerfile("FROM scratch AS only\n");
    rbuild
        .build(&project)
        .target("olny")
        .fails()
        .says(&["olny", "only"]);
    rbuild
        .build(&project)
        .args(["-f", "/no/such/file"])
        .fails()
        .says(&["/no/such/file"]);
    rbuild.build(&project).tag("UPPER").fails().says(&["UPPER"]);
    rbuild
        .build(&project)
        .args(["--push"])
        .fails()
        .says(&["-t"]);
    rbuild
        .build(&project)
        .args(["-o", "type=nonsense"])
        .fails()
        .says(&["nonsense"]);
    rbuild
        .build(&project)
        .args(["--secret", "id=x,src=/no/such"])
        .fails()
        .says(&["/no/such"]);
    rbuild
        .build(&project)
        .args(["--progress", "loud"])
        .fails()
        .says(&["loud"]);
    rbuild.run(["bulid", "."]).fails();
}

#[test]
fn an_argument_that_no_stage_takes_is_warned_of() {
    let project = Project::with("FROM scratch\nARG used\nLABEL a=$used\n");
    Rbuild::new(&User::Caller)
        .build(&project)
        .build_arg("used=1")
        .build_arg("never=1")
        .ok()
        .says(&["never"]);
}

#[test]
fn a_base_image_that_cannot_be_had_is_said() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild
        .build(&Project::with("FROM localhost:1/none:1\n"))
        .fails()
        .says(&["localhost:1/none:1", "Dockerfile:1", "^"]);
    if needs(&[Need::BaseImages]) {
        rbuild
            .build(&Project::with("FROM busybox:no-such-tag\n"))
            .fails()
            .says(&["busybox:no-such-tag", "Dockerfile:1"]);
    }
}

/// The whole text, once: the rest is checked by its parts.
#[test]
fn a_failed_step_shows_its_output_and_its_line() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        # comment
        RUN echo to stdout && \\
            echo to stderr >&2 && \\
            exit 7
        ",
    );
    let finished =
        failing(&project).says(&["to stdout", "to stderr", "Dockerfile:3", "exit code: 7"]);
    let last = finished
        .stderr
        .trim_end()
        .lines()
        .last()
        .unwrap()
        .to_owned();
    assert!(!last.is_empty());
}

#[test]
fn folders_too_deep_for_a_layer_are_an_error() {
    let mut project = Project::new();
    let deep = project.path().join("d").join("a/".repeat(1100));
    std::fs::create_dir_all(deep).unwrap();
    for line in ["COPY d /", "COPY --parents d /", "COPY --exclude=x d /"] {
        project = project.dockerfile(&format!("FROM scratch\n{line}\n"));
        failing(&project).says(&["more than 1024 folders inside each other", "Dockerfile:2"]);
    }
}
