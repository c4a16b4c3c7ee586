//! Build checks as the user meets them: what is printed where, and the exit code.

use serde_json::{Value, json};

use crate::support::{Project, Rbuild, User, assert_lines};

const ODD: &str = "FROM scratch AS Odd\nUSER $who\n";
const CASING: &str = "StageNameCasing: Stage name 'Odd' should be lowercase (line 1)";
const UNDEFINED: &str = "UndefinedVar: Usage of undefined variable '$who' (line 2)";

#[test]
fn a_check_prints_what_it_finds_and_builds_nothing() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(ODD);
    let context = project.path().to_str().unwrap();
    for arguments in [
        vec!["build", "--check", context],
        vec!["build", "--call=check", "-t", "odd", context],
        vec!["build", "--check=true", "--quiet", context],
    ] {
        let checked = rbuild.run(&arguments).fails();
        assert_eq!(
            checked.status.code(),
            Some(1),
            "{arguments:?}: {}",
            checked.stderr
        );
        let printed = checked.text();
        assert!(
            printed.starts_with("Check complete, 2 warnings have been found!\n"),
            "{printed}"
        );
        assert!(printed.contains("   2 | >>> USER $who\n"), "{printed}");
        assert!(!checked.stderr.contains("exporting"), "{}", checked.stderr);
    }
    let images = rbuild.run(["images", "-q"]).ok();
    assert_eq!(images.text(), "");
}

#[test]
fn a_check_without_findings_succeeds() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\n");
    let context = project.path().to_str().unwrap();
    let checked = rbuild.run(["build", "--check", context]).ok();
    assert_eq!(checked.text(), "Check complete, no warnings found.");
    let odd = Project::with(ODD);
    let odd = odd.path().to_str().unwrap();
    let call = "--call=check,format=json,ignorestatus=true";
    let checked = rbuild.run(["build", call, odd]).ok();
    let answer: Value = serde_json::from_str(&checked.text()).unwrap();
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 2);
    assert_eq!(answer["warnings"][1]["ruleName"], "UndefinedVar");
    assert_eq!(answer["sources"][0]["filename"], "Dockerfile");
}

#[test]
fn what_cannot_be_built_is_an_error_of_the_check() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch AS Odd\nUSER ${who?nobody}\n");
    let context = project.path().to_str().unwrap();
    let checked = rbuild.run(["build", "--check", context]).fails();
    assert_eq!(checked.status.code(), Some(1));
    let checked = checked.says(&["Dockerfile:2", "nobody"]);
    assert!(
        checked.text().contains("StageNameCasing"),
        "{}",
        checked.text()
    );
    let json = rbuild
        .run(["build", "--call=check,format=json", context])
        .fails();
    let answer: Value = serde_json::from_str(&json.text()).unwrap();
    let error = &answer["buildError"];
    assert!(
        error["message"].as_str().unwrap().contains("nobody"),
        "{error}"
    );
    assert_eq!(error["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(json.status.code(), Some(1));
}

#[test]
fn an_editor_gets_every_error_with_its_place() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nCOPPY a b\nCOPY --chwon=1 a b\nCOPY --from=7 a b\n");
    let context = project.path().to_str().unwrap();
    for arguments in [
        vec!["build", "--check", "--format", "json", context],
        vec!["build", "--call=check,format=json", context],
        vec!["build", "--call=lint", "--format=json", context],
    ] {
        let checked = rbuild.run(arguments).fails();
        assert_eq!(checked.status.code(), Some(1));
        let answer: Value = serde_json::from_str(&checked.text()).unwrap();
        let at = |line: usize, from: usize, to: usize| {
            let mut start = json!({"line": line});
            if from > 0 {
                start["character"] = from.into();
            }
            json!({"ranges": [{"start": start, "end": {"line": line, "character": to}}]})
        };
        let syntax =
            |line: usize, text: &str| format!("dockerfile parse error on line {line}: {text}");
        let first = syntax(2, "unknown instruction: COPPY");
        assert_eq!(
            answer["buildError"],
            json!({"message": first, "location": at(2, 0, 5)})
        );
        assert_eq!(
            answer["buildErrors"],
            json!([
                {"message": first, "location": at(2, 0, 5), "label": "did you mean `COPY`?"},
                {
                    "message": syntax(3, "unknown flag: --chwon"),
                    "location": at(3, 5, 12),
                    "label": "did you mean `--chown`?",
                },
                {
                    "message": "invalid stage index 7",
                    "location": at(4, 12, 13),
                    "help": "there is one stage, number 0",
                },
            ])
        );
        assert_eq!(answer["warnings"], Value::Null);
    }
}

#[test]
fn a_format_without_a_question_is_refused() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\n");
    rbuild
        .build(&project)
        .args(["--format", "docker"])
        .fails()
        .says(&["`--format` says how `--check` and `--call` answer"]);
    rbuild
        .build(&project)
        .args(["--call=outlin"])
        .fails()
        .says(&["did you mean `outline`?"]);
}

const OUTLINED: &str = "\
# VERSION is what is packed
ARG VERSION=1
FROM scratch AS tools
ARG UNUSED
FROM scratch AS base
ARG VERSION
# app is what is shipped
FROM base AS app
# LEVEL is how much is said
ARG LEVEL=info
RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/root/.cache true
";

#[test]
fn an_outline_says_what_a_target_can_be_given() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(OUTLINED);
    let context = project.path().to_str().unwrap();
    let arguments = ["build", "--call=outline", "--build-arg=VERSION=2", context];
    let outlined = rbuild.run(arguments).ok();
    assert_lines(
        &format!("{}\n", outlined.text()),
        "
        TARGET:      app
        DESCRIPTION: is what is shipped

        BUILD ARG   VALUE   DESCRIPTION
        VERSION     2
        LEVEL       info    is how much is said

        SECRET   REQUIRED
        token    true

        SSH       REQUIRED
        default

        CACHE MOUNT
        /root/.cache
        ",
    );
    let arguments = [
        "build",
        "--call=outline,format=json",
        "--target=tools",
        context,
    ];
    let answer: Value = serde_json::from_str(&rbuild.run(arguments).ok().text()).unwrap();
    assert_eq!(answer["name"], "tools");
    assert_eq!(
        answer["args"],
        json!([{
            "name": "UNUSED",
            "location": {"ranges": [{"start": {"line": 4}, "end": {"line": 4}}]},
        }])
    );
    assert_eq!(answer.get("secrets"), None);
    let images = rbuild.run(["images", "-q"]).ok();
    assert_eq!(images.text(), "", "nothing is built");
}

#[test]
fn an_outline_of_what_cannot_be_built_is_its_errors() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nARG A=${B?no}\n");
    rbuild
        .build(&project)
        .args(["--call=outline"])
        .fails()
        .says(&["Dockerfile:2:7", "B: no"]);
}

#[test]
fn a_check_reads_the_ignore_file_and_standard_input() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nCOPY out/app /\n").file(".dockerignore", "out\n");
    let checked = rbuild.build(&project).args(["--check"]).fails();
    let stdout = checked.text();
    assert!(stdout.contains("CopyIgnoredFile"), "{stdout}");
    let checked = rbuild.build_at("-").args(["--check"]).stdin(ODD).fails();
    assert!(
        checked.text().contains("StageNameCasing"),
        "{}",
        checked.text()
    );
}

#[test]
fn a_build_tells_its_warnings() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(ODD);
    let built = rbuild.build(&project).ok();
    let summary =
        format!(" 2 warnings found (use --debug to expand):\n - {CASING}\n - {UNDEFINED}\n");
    assert!(built.stderr.contains(&summary), "{}", built.stderr);
    assert!(
        built.stderr.contains(&format!("WARN: {CASING}\n")),
        "{}",
        built.stderr
    );
    let built = rbuild.build(&project).args(["--debug"]).ok();
    let page = "More info: https://docs.docker.com/go/dockerfile/rule/undefined-var/\n";
    assert!(built.stderr.contains(page), "{}", built.stderr);
    assert!(
        built.stderr.contains("   2 | >>> USER $who\n"),
        "{}",
        built.stderr
    );
    let skipped = rbuild
        .build(&project)
        .build_arg("BUILDKIT_DOCKERFILE_CHECK=skip=all")
        .ok();
    assert!(!skipped.stderr.contains("warning"), "{}", skipped.stderr);
}

#[test]
fn warnings_end_a_build_where_they_are_errors() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(&format!("# check=error=true\n{ODD}"));
    let violation = "lint violation found for rules: StageNameCasing, UndefinedVar";
    rbuild
        .build(&project)
        .fails()
        .says(&[violation, "2 warnings found"]);
    let checked = rbuild.build(&project).args(["--check"]).fails();
    assert!(checked.stderr.contains(violation), "{}", checked.stderr);
    let project = Project::with("# check=warn=all\nFROM scratch\n");
    rbuild
        .build(&project)
        .fails()
        .says(&["check option", "warn"]);
}

#[test]
fn targets_are_listed_with_their_descriptions() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("# base is what all need\nFROM scratch AS base\nFROM base\n");
    let context = project.path().to_str().unwrap();
    let listed = rbuild.run(["build", "--call=targets", context]).ok();
    let expected = "TARGET    DESCRIPTION\nbase      is what all need\n(default)";
    assert_eq!(listed.text(), expected);
}
