//! Which rules are looked at, and whether a warning ends the build.
//!
//! `# check=` at the head of the Dockerfile says so for all of it, the build argument
//! `BUILDKIT_DOCKERFILE_CHECK` in its stead, and `# check=` right above an instruction adds to
//! either for that instruction.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Rule;
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::nearest::nearest;
use crate::dockerfile::span::{Span, Spanned};
use crate::dockerfile::syntax::Directives;
use crate::dockerfile::values;

/// A `check` option that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChecksError {
    /// There is no such option.
    #[error("invalid check option {0:?}")]
    Unknown(String),
    /// `error=` with something else than true or false.
    #[error("failed to parse check option {0:?}")]
    NotBoolean(String),
}

impl ChecksError {
    /// What to do.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unknown(_) => {
                "options are `skip=`, `experimental=` and `error=`, with `;` between them"
            }
            Self::NotBoolean(_) => "write `error=true` or `error=false`",
        }
    }

    /// The error as one of a `# check=` line that holds `value`.
    fn diagnostic(&self, value: &Spanned<String>, line: &str) -> Diagnostic {
        let (Self::Unknown(written) | Self::NotBoolean(written)) = self;
        let place = line.find(value.value.as_str()).and_then(|at| {
            let at = at + value.value.find(written.as_str())?;
            let start = value.span.start + at;
            let end = start + written.len();
            Some(Span {
                start,
                end,
                ..value.span
            })
        });
        let message = format!("failed to parse check options: {self}");
        let error = Diagnostic::error(place.unwrap_or(value.span), message);
        match nearest(written, ["skip", "experimental", "error"]) {
            Some(near) => error.with_label(format!("did you mean `{near}`?")),
            None => error.with_help(self.help()),
        }
    }
}

/// Some rules by name, or all. A name that is no rule's chooses nothing, as rules come and go.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Selection {
    All,
    Named(BTreeSet<String>),
}

impl Default for Selection {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Selection {
    fn read(value: &str) -> Self {
        match value.trim() {
            "all" => Self::All,
            names => Self::Named(
                names
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect(),
            ),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(rule.name()),
        }
    }

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Named(names), Self::Named(more)) => names.extend(more),
        }
    }
}

/// Which rules are looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checks {
    skipped: Selection,
    experimental: Selection,
    is_error: bool,
    /// The names as they were written, in order.
    written: Vec<String>,
}

impl Checks {
    /// What the head of a Dockerfile says; nothing where it can't be read as one.
    ///
    /// # Errors
    /// When its `# check=` can't be read.
    pub fn of_dockerfile(text: &str) -> Result<Self, Diagnostic> {
        // mistakes in directives are told by whoever parses the whole
        let directives = Directives::read(text, &mut Vec::new());
        let Some(check) = directives.check else {
            return Ok(Self::default());
        };
        let line = text.get(check.span.start..check.span.end);
        Self::parse(&check.value)
            .map_err(|error| error.diagnostic(&check, line.unwrap_or_default()))
    }

    /// Reads `skip=A,B;experimental=C;error=true`.
    ///
    /// # Errors
    /// When there is something else in it.
    pub fn parse(options: &str) -> Result<Self, ChecksError> {
        let mut checks = Self::default();
        if options.trim().is_empty() {
            return Ok(checks);
        }
        for option in options.trim().splitn(3, ';') {
            let unknown = || ChecksError::Unknown(option.to_owned());
            let (name, value) = option.split_once('=').ok_or_else(unknown)?;
            if matches!(name.trim(), "skip" | "experimental") {
                let names = value.split(',').map(|name| name.trim().to_owned());
                checks.written.extend(names);
            }
            match name.trim() {
                "skip" => checks.skipped = Selection::read(value),
                "experimental" => checks.experimental = Selection::read(value),
                "error" => {
                    checks.is_error = values::boolean(value.trim())
                        .ok_or_else(|| ChecksError::NotBoolean(option.to_owned()))?;
                }
                name => return Err(ChecksError::Unknown(name.to_owned())),
            }
        }
        Ok(checks)
    }

    /// The same with what the first `check=` among the comments above an instruction adds. One
    /// that can't be read is a comment like any other. Text behind a blank is a remark.
    #[must_use]
    pub fn with_comments(&self, comments: &[String]) -> Cow<'_, Self> {
        match Self::comment(comments).map(Self::parse) {
            Some(Ok(local)) => {
                let mut joined = self.clone();
                joined.skipped.add(local.skipped);
                joined.experimental.add(local.experimental);
                Cow::Owned(joined)
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// The options of the first `check=` among the comments above an instruction.
    pub(super) fn comment(comments: &[String]) -> Option<&str> {
        let options = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            name.trim().eq_ignore_ascii_case("check").then_some(value)
        });
        options.and_then(|options| options.split_whitespace().next())
    }

    /// The names in `skip=` and `experimental=`.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let written = self.written.iter().map(String::as_str);
        written.filter(|name| !name.is_empty() && *name != "all")
    }

    /// Whether a rule is looked at. An experimental one is never skipped: it is left out until
    /// it is asked for.
    pub fn has(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental.has(rule)
        } else {
            !self.skipped.has(rule)
        }
    }

    /// Whether a warning ends the build.
    pub fn is_error(&self) -> bool {
        self.is_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_rules() {
        for (options, casing, description, is_error) in [
            ("", true, false, false),
            ("skip=all", false, false, false),
            ("skip=StageNameCasing", false, false, false),
            ("skip=FromAsCasing, StageNameCasing ", false, false, false),
            ("skip=stagenamecasing", true, false, false),
            ("skip=NoSuchRule;error=true", true, false, true),
            ("skip=all;experimental=all", false, true, false),
            (
                "experimental=InvalidDefinitionDescription; error = 1",
                true,
                true,
                true,
            ),
            ("error=false", true, false, false),
        ] {
            let checks = Checks::parse(options).unwrap();
            assert_eq!(checks.has(Rule::StageNameCasing), casing, "{options}");
            let found = checks.has(Rule::InvalidDefinitionDescription);
            assert_eq!(found, description, "{options}");
            assert_eq!(checks.is_error(), is_error, "{options}");
        }
    }

    #[test]
    fn other_options_are_refused() {
        for options in ["skip", "warn=all", "error=yes", "skip=all;;"] {
            assert!(Checks::parse(options).is_err(), "{options}");
        }
    }

    #[test]
    fn a_comment_adds_to_what_the_head_says() {
        let head = Checks::parse("skip=FromAsCasing;error=true").unwrap();
        let skips = |comments: &[&str]| {
            let comments: Vec<String> = comments.iter().map(|text| (*text).to_owned()).collect();
            let checks = head.with_comments(&comments).into_owned();
            assert!(checks.is_error());
            assert!(!checks.has(Rule::FromAsCasing));
            !checks.has(Rule::StageNameCasing)
        };
        assert!(!skips(&[]));
        assert!(skips(&["check=skip=StageNameCasing"]));
        assert!(skips(&["why", "Check = skip=all // a remark"]));
        assert!(!skips(&[
            "check=skip=JSONArgsRecommended",
            "check=skip=all"
        ]));
        assert!(!skips(&["check=nonsense"]));
        assert!(!skips(&["recheck=skip=all"]));
    }
}
