//! Which rules are looked at, and whether a warning ends the build.
//!
//! `# check=` at the head of the Dockerfile says so for all of it, the build argument
//! `BUILDKIT_DOCKERFILE_CHECK` in its stead, and `# check=` right above an instruction adds to
//! either for that instruction.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Rule;
use crate::dockerfile::syntax::Directives;
use crate::dockerfile::values;

/// A `check` option that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChecksError {
    /// There is no such option.
    #[error(
        "invalid check option {0:?}; options are `skip=`, `experimental=` and `error=`, with `;` between them"
    )]
    Unknown(String),
    /// `error=` with something else than true or false.
    #[error("failed to parse check option {0:?}; write `error=true` or `error=false`")]
    NotBoolean(String),
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
}

impl Checks {
    /// What the head of a Dockerfile says; nothing where it can't be read as one.
    ///
    /// # Errors
    /// When its `# check=` can't be read.
    pub fn of_dockerfile(text: &str) -> Result<Self, ChecksError> {
        // mistakes in directives are told by whoever parses the whole
        let directives = Directives::read(text, &mut Vec::new());
        let check = directives.check.map(|directive| directive.value);
        Self::parse(&check.unwrap_or_default())
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
        let options = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            name.trim().eq_ignore_ascii_case("check").then_some(value)
        });
        let options = options.and_then(|options| options.split_whitespace().next());
        match options.map(Self::parse) {
            Some(Ok(local)) => {
                let mut joined = self.clone();
                joined.skipped.add(local.skipped);
                joined.experimental.add(local.experimental);
                Cow::Owned(joined)
            }
            _ => Cow::Borrowed(self),
        }
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
