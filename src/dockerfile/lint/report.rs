//! What `--check` gives: the warnings as text for people and as JSON for programs, in the forms
//! that buildx prints.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Warning;
use crate::dockerfile::diagnostic::{Diagnostic, clean};

/// What was found in one Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The Dockerfile's name, without its folder.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The warnings, as they were found.
    pub warnings: Vec<Warning>,
    /// What keeps it from being built, in the order of the text.
    pub errors: Vec<Diagnostic>,
}

impl Report {
    /// Whether there is nothing to say.
    pub fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.errors.is_empty()
    }

    /// For people: how many, then each with its lines, in the order of the text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = match self.warnings.len() {
            0 if !self.errors.is_empty() => Ok(()),
            0 => writeln!(out, "Check complete, no warnings found."),
            1 => writeln!(out, "Check complete, 1 warning has been found!"),
            many => writeln!(out, "Check complete, {many} warnings have been found!"),
        };
        let lines = lines(&self.text);
        let mut warnings: Vec<&Warning> = self.warnings.iter().collect();
        warnings.sort_by_key(|warning| warning.first_line);
        for warning in warnings {
            let _ = write!(out, "\nWARNING: {}", warning.rule.name());
            if let Some(url) = warning.rule.url() {
                let _ = write!(out, " - {url}");
            }
            let _ = writeln!(out, "\n{}", clean(&warning.detail));
            out += &excerpt(&self.file, &lines, warning.first_line, warning.last_line);
        }
        out
    }

    /// For programs: one object, as BuildKit's `frontend.lint` answers. That has a `buildError` at
    /// the most; `buildErrors` has all of them, each with what else is said of it.
    pub fn to_json(&self) -> String {
        let warnings = self.warnings.iter().map(|warning| {
            let mut object = serde_json::Map::new();
            let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
            set("ruleName", warning.rule.name().into());
            set("description", warning.rule.description().into());
            if let Some(url) = warning.rule.url() {
                set("url", url.into());
            }
            set("detail", warning.detail.as_str().into());
            set("location", location(warning.first_line, warning.last_line));
            Value::Object(object)
        });
        // BuildKit has no empty list here
        let warnings: Option<Vec<Value>> = (!self.warnings.is_empty()).then(|| warnings.collect());
        let mut report = json!({
            "warnings": warnings,
            "sources": [{
                "filename": self.file,
                "language": "Dockerfile",
                "data": BASE64.encode(&self.text),
            }],
        });
        if let (Some(first), Some(object)) = (self.errors.first(), report.as_object_mut()) {
            let location = self.range(first);
            let error = json!({"message": first.to_string(), "location": location});
            object.insert("buildError".to_owned(), error);
            let all = self.errors.iter().map(|error| self.error(error));
            object.insert("buildErrors".to_owned(), all.collect());
        }
        format!("{report:#}\n")
    }

    fn error(&self, error: &Diagnostic) -> Value {
        let mut object = serde_json::Map::new();
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        set("message", error.to_string().into());
        set("location", self.range(error));
        if !error.label.is_empty() {
            set("label", error.label.as_str().into());
        }
        if !error.notes.is_empty() {
            set("notes", error.notes.clone().into());
        }
        if let Some(help) = &error.help {
            set("help", help.as_str().into());
        }
        Value::Object(object)
    }

    /// The place of an error, to the character, in the form that BuildKit's answers have.
    fn range(&self, error: &Diagnostic) -> Value {
        let Some(range) = error.range(&self.text) else {
            return json!({});
        };
        let position = |(line, character): (usize, usize)| match character {
            // as BuildKit leaves it out
            0 => json!({"line": line}),
            _ => json!({"line": line, "character": character}),
        };
        json!({"ranges": [{"start": position(range.start), "end": position(range.end)}]})
    }
}

/// Lines in the form that BuildKit's answers have them; none for the Dockerfile as a whole.
pub(in crate::dockerfile) fn location(first: usize, last: usize) -> Value {
    if first == 0 {
        return json!({});
    }
    json!({"ranges": [{"start": {"line": first}, "end": {"line": last}}]})
}

/// The lines of a Dockerfile's text, for [`excerpt`].
pub fn lines(text: &str) -> Vec<&str> {
    text.split('\n').collect()
}

/// Lines of a Dockerfile with those around them, the lines meant marked; empty where there are no
/// such lines.
pub fn excerpt(file: &str, lines: &[&str], first: usize, last: usize) -> String {
    if first < 1 || first > lines.len() {
        return String::new();
    }
    let last = last.clamp(first, lines.len());
    let (mut from, mut to) = (first, last);
    let wanted = if first == last { 4 } else { 2 };
    let mut around = 0;
    while around < wanted {
        if from > 1 {
            from -= 1;
            around += 1;
        }
        if to != lines.len() {
            to += 1;
            around += 1;
        }
        around += 1;
    }
    let mut out = format!("{}:{first}\n--------------------\n", clean(file));
    for (number, line) in (1..).zip(lines).skip(from - 1).take(to + 1 - from) {
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        let _ = writeln!(out, " {number:>3} | {mark} {}", clean(line.trim_end()));
    }
    out + "--------------------\n"
}
