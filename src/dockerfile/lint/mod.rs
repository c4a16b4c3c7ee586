//! Build checks: what in a Dockerfile works but is seldom meant, under BuildKit's names.
//!
//! [`text`] looks at what the text alone shows. What depends on variables, on platforms or on a
//! base image is found where those are known, by `graph::lint`, and comes out as the same
//! [`Warning`]s. Names, messages and lines are BuildKit's, so that `# check=skip=…` and whatever
//! reads the output go on to work.
//!
//! Must never end a build by itself: whether a warning is an error is [`Checks::is_error`]'s to
//! say. Pure: text in, warnings out.

mod checks;
mod names;
mod report;
mod rules;
mod text;

use super::span::Span;
pub use checks::{Checks, ChecksError};
pub use names::unknown_names;
pub(super) use report::location;
pub use report::{Report, excerpt, lines};
pub use rules::Rule;
pub use text::text;

/// A rule that a Dockerfile breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// Which.
    pub rule: Rule,
    /// How, in BuildKit's words.
    pub detail: String,
    /// First line, counted from 1.
    pub first_line: usize,
    /// Last line, counted from 1.
    pub last_line: usize,
}

impl Warning {
    /// On one line, as a build's progress has it.
    pub fn short(&self) -> String {
        let (rule, detail) = (self.rule.name(), &self.detail);
        if self.first_line == 0 {
            return format!("{rule}: {detail}");
        }
        format!("{rule}: {detail} (line {})", self.first_line)
    }
}

/// Warnings in the order in which they were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings(Vec<Warning>);

impl Findings {
    /// Notes that the instruction at `span` breaks a rule, unless the rule isn't looked at there.
    pub fn add(&mut self, checks: &Checks, rule: Rule, span: Span, detail: impl Into<String>) {
        if checks.has(rule) {
            self.0.push(Warning {
                rule,
                detail: detail.into(),
                first_line: span.first_line,
                last_line: span.last_line.max(span.first_line),
            });
        }
    }

    /// The warnings.
    pub fn into_warnings(self) -> Vec<Warning> {
        self.0
    }
}

/// What the build says when warnings end it; `None` where they don't.
pub fn violation(checks: &Checks, warnings: &[Warning]) -> Option<String> {
    if !checks.is_error() || warnings.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = warnings.iter().map(|warning| warning.rule.name()).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(", ");
    Some(format!("lint violation found for rules: {names}"))
}

/// ` (did you mean …?)` with the candidate that is fewer than three edits away, if there is one.
/// A candidate that equals the name is no suggestion: then something else is wrong.
pub fn suggestion<'a>(
    name: &str,
    sigil: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    const FAR: usize = 3;
    let mut best: Option<(usize, &str)> = None;
    // comparing costs the product of the lengths
    if name.len() > 256 {
        return String::new();
    }
    for candidate in candidates {
        if candidate == name {
            return String::new();
        }
        let distance = if candidate.len().abs_diff(name.len()) < 4 * FAR {
            strsim::levenshtein(name, candidate)
        } else {
            FAR
        };
        if distance < best.map_or(FAR, |(least, _)| least) {
            best = Some((distance, candidate));
        }
    }
    best.map_or_else(String::new, |(_, near)| {
        format!(" (did you mean {sigil}{near}?)")
    })
}

#[cfg(test)]
mod tests;
