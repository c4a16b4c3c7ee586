//! `--name=value` flags of instructions: which there are, and their values.

use super::diagnostic::Diagnostic;
use super::instruction::Word;
use super::nearest::nearest;
use super::span::{Span, Spanned};
use super::syntax::Node;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Boolean,
    Value,
    Values,
}

/// The flags of every instruction that has any.
const FLAGS: [(&str, &[(&str, Kind)]); 5] = [
    (
        "ADD",
        &[
            ("chown", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Boolean),
            ("keep-git-dir", Kind::Boolean),
            ("checksum", Kind::Value),
            ("unpack", Kind::Boolean),
            ("exclude", Kind::Values),
        ],
    ),
    (
        "COPY",
        &[
            ("chown", Kind::Value),
            ("from", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Boolean),
            ("exclude", Kind::Values),
            ("parents", Kind::Boolean),
        ],
    ),
    ("FROM", &[("platform", Kind::Value)]),
    (
        "HEALTHCHECK",
        &[
            ("interval", Kind::Value),
            ("timeout", Kind::Value),
            ("start-period", Kind::Value),
            ("start-interval", Kind::Value),
            ("retries", Kind::Value),
        ],
    ),
    (
        "RUN",
        &[
            ("mount", Kind::Values),
            ("network", Kind::Value),
            ("security", Kind::Value),
            ("device", Kind::Values),
        ],
    ),
];

/// The names of the flags of an instruction, which is written in capitals.
pub fn of_instruction(name: &str) -> Vec<&'static str> {
    known(name).iter().map(|(flag, _)| *flag).collect()
}

fn known(command: &str) -> &'static [(&'static str, Kind)] {
    let found = FLAGS.iter().find(|(name, _)| *name == command);
    found.map_or(&[], |(_, flags)| flags)
}

/// The flags of one instruction, read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// Reads the flags that a node has.
    pub(super) fn read(node: &Node) -> Result<Self, Diagnostic> {
        let command = node.command();
        let known = known(&command);
        let mut read = Self::default();
        for word in &node.flags {
            let (name, value) = match word.value.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.value.as_str(), None),
            };
            let bare = name.strip_prefix("--").unwrap_or(name);
            let name_span = word.part(0..name.len());
            let Some((flag, kind)) = known.iter().find(|(flag, _)| *flag == bare) else {
                return Err(unknown(&command, known, name, bare, name_span));
            };
            if *kind != Kind::Values && read.0.iter().any(|(seen, _)| seen == flag) {
                let message = format!("duplicate flag specified: {name}");
                return Err(Diagnostic::syntax(name_span, message).with_help("keep one of them"));
            }
            let value_span = match value {
                Some("") | None => word.span,
                Some(_) => word.part(name.len() + 1..word.value.len()),
            };
            let value = match (kind, value) {
                (Kind::Boolean, value) => boolean(name, value, value_span)?.to_string(),
                (_, Some(value)) => value.to_owned(),
                (_, None) => return Err(no_value(name, word.span)),
            };
            read.0.push((flag, Spanned::new(value, value_span)));
        }
        Ok(read)
    }

    /// A flag's value, `None` where it isn't written or empty.
    pub(super) fn value(&self, name: &str) -> Option<Word> {
        let found = self.0.iter().find(|(flag, _)| *flag == name);
        found
            .map(|(_, word)| word.clone())
            .filter(|word| !word.value.is_empty())
    }

    /// The values of a flag that may be repeated.
    pub(super) fn values(&self, name: &str) -> Vec<Word> {
        let found = self.0.iter().filter(|(flag, _)| *flag == name);
        found.map(|(_, word)| word.clone()).collect()
    }

    /// Whether a boolean flag is on; `None` where it isn't written.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.value(name).map(|word| word.value == "true")
    }
}

fn boolean(name: &str, value: Option<&str>, span: Span) -> Result<bool, Diagnostic> {
    match value.map(str::to_lowercase).as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some("") => Err(no_value(name, span)),
        Some(_) => {
            let value = value.unwrap_or_default();
            let message = format!("expecting boolean value for flag {name}, not: {value}");
            Err(Diagnostic::syntax(span, message)
                .with_help(format!("write `{name}`, `{name}=true` or `{name}=false`")))
        }
    }
}

fn no_value(name: &str, span: Span) -> Diagnostic {
    Diagnostic::syntax(span, format!("missing a value on flag: {name}"))
        .with_help(format!("write `{name}=…`"))
}

fn unknown(
    command: &str,
    known: &[(&str, Kind)],
    name: &str,
    bare: &str,
    span: Span,
) -> Diagnostic {
    let error = Diagnostic::syntax(span, format!("unknown flag: {name}"));
    let with_it = FLAGS
        .iter()
        .filter(|(_, flags)| flags.iter().any(|(flag, _)| *flag == bare));
    let elsewhere: Vec<&str> = with_it.map(|(other, _)| *other).collect();
    if !elsewhere.is_empty() {
        let others = elsewhere.join(" and ");
        return error.with_help(format!("`{name}` is a flag of {others}, not of {command}"));
    }
    if let Some(near) = nearest(bare, known.iter().map(|(flag, _)| *flag)) {
        return error.with_label(format!("did you mean `--{near}`?"));
    }
    if known.is_empty() {
        return error.with_help(format!(
            "{command} has no flags; put `--` before an argument that begins with dashes"
        ));
    }
    let all: Vec<String> = known.iter().map(|(flag, _)| format!("--{flag}")).collect();
    error.with_help(format!("flags of {command} are: {}", all.join(", ")))
}
