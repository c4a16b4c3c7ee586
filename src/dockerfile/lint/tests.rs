use super::*;
use crate::dockerfile::diagnostic::Diagnostic;

fn found(dockerfile: &str) -> Vec<String> {
    let checks = Checks::of_dockerfile(dockerfile).unwrap();
    let warnings = text(dockerfile, &checks);
    warnings.iter().map(Warning::short).collect()
}

#[test]
fn what_cannot_be_parsed_is_told_up_to_there() {
    let before = "FROM scratch AS Base\nMAINTAINER me\n";
    let expected = [
        "StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
        "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
    ];
    assert_eq!(found(before), expected);
    assert_eq!(
        found(&format!("{before}NONSENSE\nMAINTAINER me\n")),
        expected
    );
    assert_eq!(found(&format!("{before}COPY <<E /\n")), [""; 0]);
}

#[test]
fn a_comment_skips_for_its_instruction_only() {
    let text = "FROM a AS x\n# check=skip=MaintainerDeprecated\nMAINTAINER me\nMAINTAINER me\n";
    assert_eq!(found(text).len(), 1);
    assert!(found(text)[0].ends_with("(line 4)"));
}

#[test]
fn the_nearest_name_is_suggested() {
    for (name, candidates, expected) in [
        ("PAHT", vec!["HOME", "PATH"], " (did you mean $PATH?)"),
        ("foo", vec!["far", "boo", "fool"], " (did you mean $boo?)"),
        ("foo", vec!["foo", "boo"], ""),
        ("foo", vec!["FOO"], ""),
        ("foo", vec![], ""),
    ] {
        assert_eq!(suggestion(name, "$", candidates), expected, "{name}");
    }
}

#[test]
fn warnings_end_a_build_where_they_are_errors() {
    let text_with = |head: &str| format!("{head}FROM a AS B\nMAINTAINER me\nMAINTAINER me\n");
    let violation = |head: &str| {
        let dockerfile = text_with(head);
        let checks = Checks::of_dockerfile(&dockerfile).unwrap();
        super::violation(&checks, &text(&dockerfile, &checks))
    };
    assert_eq!(violation(""), None);
    assert_eq!(violation("# check=skip=all;error=true\n"), None);
    assert_eq!(
        violation("# check=error=true\n").as_deref(),
        Some("lint violation found for rules: MaintainerDeprecated, StageNameCasing")
    );
}

fn report(dockerfile: &str) -> Report {
    Report {
        file: "Dockerfile".to_owned(),
        text: dockerfile.to_owned(),
        warnings: text(dockerfile, &Checks::default()),
        errors: Vec::new(),
    }
}

#[test]
fn the_text_shows_the_lines_meant() {
    assert_eq!(
        report("FROM a\n").to_text(),
        "Check complete, no warnings found.\n"
    );
    assert_eq!(
        report("FROM a\n\nMAINTAINER me\nUSER x\nUSER y\nUSER z\n").to_text(),
        "Check complete, 1 warning has been found!\n\
         \n\
         WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/\n\
         Maintainer instruction is deprecated in favor of using label\n\
         Dockerfile:3\n\
         --------------------\n   \
         1 |     FROM a\n   \
         2 |     \n   \
         3 | >>> MAINTAINER me\n   \
         4 |     USER x\n   \
         5 |     USER y\n\
         --------------------\n"
    );
}

#[test]
fn the_json_is_buildkits() {
    let mut report = report("FROM a AS B\n");
    let place = Span {
        start: 5,
        end: 6,
        first_line: 1,
        last_line: 1,
    };
    report.errors = vec![
        Diagnostic::error(place, "no such thing").with_label("that"),
        Diagnostic::error(Span::default(), "nor this")
            .with_note("so")
            .with_help("do"),
    ];
    let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    let at = serde_json::json!({
        "ranges": [{"start": {"line": 1, "character": 5}, "end": {"line": 1, "character": 6}}],
    });
    assert_eq!(
        value,
        serde_json::json!({
            "warnings": [{
                "ruleName": "StageNameCasing",
                "description": "Stage names should be lowercase",
                "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
                "detail": "Stage name 'B' should be lowercase",
                "location": {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]},
            }],
            "sources": [{
                "filename": "Dockerfile",
                "language": "Dockerfile",
                "data": "RlJPTSBhIEFTIEIK",
            }],
            "buildError": {"message": "no such thing", "location": at.clone()},
            "buildErrors": [
                {"message": "no such thing", "location": at, "label": "that"},
                {"message": "nor this", "location": {}, "notes": ["so"], "help": "do"},
            ],
        })
    );
}

#[test]
fn the_page_lists_every_rule() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lint.md");
    let page = std::fs::read_to_string(file).unwrap();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let names: Vec<(String, bool)> = rows
        .map(|row| {
            (
                row.split('`').nth(1).unwrap().to_owned(),
                row.contains("experimental"),
            )
        })
        .collect();
    let rules = Rule::ALL.map(|rule| (rule.name().to_owned(), rule.is_experimental()));
    assert_eq!(names, rules);
    for url in Rule::ALL.iter().filter_map(|rule| rule.url()) {
        assert!(page.contains(&format!("({url})")), "{url}");
    }
}
