//! What `--check` gives: the warnings as text for people and as JSON for programs, in the forms
//! that buildx prints.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Warning;
use crate::dockerfile::diagnostic::clean;

/// What was found in one Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The Dockerfile's name, without its folder.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The warnings, as they were found.
    pub warnings: Vec<Warning>,
    /// What keeps it from being built, and the lines that it stands on.
    pub error: Option<(String, usize, usize)>,
}

impl Report {
    /// Whether there is nothing to say.
    pub fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.error.is_none()
    }

    /// For people: how many, then each with its lines, in the order of the text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = match self.warnings.len() {
            0 if self.error.is_some() => Ok(()),
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

    /// For programs: one object, as BuildKit's `frontend.lint` answers.
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
        if let (Some((message, first, last)), Some(object)) = (&self.error, report.as_object_mut())
        {
            let error = json!({"message": message, "location": location(*first, *last)});
            object.insert("buildError".to_owned(), error);
        }
        format!("{report:#}\n")
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
