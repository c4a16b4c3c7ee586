//! `--call=targets`: the stages that can be built, with what the comments above them say, in the
//! forms that buildx prints.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Dockerfile;
use super::diagnostic::clean;
use super::instruction::Stage;
use super::lint::location;

/// What the comments above a definition say of it: the rest of the line that begins with its name.
pub fn description<'a>(comments: &'a [String], name: &str) -> Option<&'a str> {
    comments
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

fn name(stage: &Stage) -> &str {
    let name = stage.from.value.name.as_ref();
    name.map_or("", |name| name.value.as_str())
}

fn described(stage: &Stage) -> &str {
    match name(stage) {
        "" => "",
        name => description(&stage.comments, name).unwrap_or_default(),
    }
}

/// For people: a table.
pub fn to_text(dockerfile: &Dockerfile) -> String {
    let last = dockerfile.stages.len().saturating_sub(1);
    let rows = dockerfile.stages.iter().enumerate();
    let rows: Vec<(String, &str)> = rows
        .map(|(index, stage)| {
            let name = match (name(stage), index == last) {
                ("", true) => "(default)".to_owned(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            };
            (clean(&name), described(stage))
        })
        .collect();
    let widths = rows.iter().map(|(name, _)| name.chars().count());
    let width = widths.max().unwrap_or_default().max("TARGET".len());
    let mut out = format!("{:width$} DESCRIPTION\n", "TARGET");
    for (name, description) in rows {
        let line = format!("{name:width$} {}", clean(description));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// For programs: one object, as BuildKit's `frontend.targets` answers.
pub fn to_json(dockerfile: &Dockerfile, text: &str) -> String {
    let last = dockerfile.stages.len().saturating_sub(1);
    let stages = dockerfile.stages.iter().enumerate();
    let targets: Vec<Value> = stages
        .map(|(index, stage)| {
            let from = &stage.from.value;
            let mut object = serde_json::Map::new();
            let mut set = |key: &str, value: &str| {
                if !value.is_empty() {
                    object.insert(key.to_owned(), value.into());
                }
            };
            set("name", name(stage));
            set("description", described(stage));
            set("base", &from.image.value);
            set(
                "platform",
                from.platform
                    .as_ref()
                    .map_or("", |platform| platform.value.as_str()),
            );
            if index == last {
                object.insert("default".to_owned(), true.into());
            }
            let span = stage.from.span;
            let place = location(span.first_line, span.last_line);
            object.insert("location".to_owned(), place);
            Value::Object(object)
        })
        .collect();
    let list = json!({"targets": targets, "sources": [BASE64.encode(text)]});
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const TEXT: &str = "# base is what all need\nFROM a AS base\nFROM base\n\
        # tests runs them\n# a remark\nFROM --platform=$BUILDPLATFORM base AS tests\n";

    #[test]
    fn stages_with_what_is_said_of_them() {
        let dockerfile = parse(TEXT).unwrap();
        assert_eq!(
            to_text(&dockerfile),
            "TARGET          DESCRIPTION\n\
             base            is what all need\n\
             \n\
             tests (default) runs them\n"
        );
        let json: Value = serde_json::from_str(&to_json(&dockerfile, TEXT)).unwrap();
        let at =
            |line: usize| json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
        assert_eq!(
            json["targets"],
            json!([
                {"name": "base", "description": "is what all need", "base": "a", "location": at(2)},
                {"base": "base", "location": at(3)},
                {
                    "name": "tests",
                    "description": "runs them",
                    "base": "base",
                    "platform": "$BUILDPLATFORM",
                    "default": true,
                    "location": at(6),
                },
            ])
        );
        assert_eq!(json["sources"], json!([BASE64.encode(TEXT)]));
    }
}
