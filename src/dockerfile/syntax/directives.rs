//! `# syntax=`, `# escape=` and `# check=` at the head of a Dockerfile.
//!
//! Directives stand before everything else, one to a line. `syntax` and `check` are data here:
//! no frontend is ever fetched.

use super::super::diagnostic::Diagnostic;
use super::super::span::Spanned;
use super::lines::{Line, Lines};

/// The names of all directives.
pub const DIRECTIVES: [&str; 3] = ["check", "escape", "syntax"];

/// The directives of a Dockerfile, as written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directives {
    /// `# syntax=docker/dockerfile:1`.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`.
    pub escape: Option<Spanned<char>>,
    /// `# check=skip=…;error=true`.
    pub check: Option<Spanned<String>>,
}

impl Directives {
    /// Reads the directives at the head of a Dockerfile. Behind a `#!` line they count too, but
    /// for `escape`, as in BuildKit.
    pub(in crate::dockerfile) fn read(text: &str, errors: &mut Vec<Diagnostic>) -> Self {
        let mut found = Self::default();
        let mut lines = Lines::new(text).peekable();
        let shebang = lines.next_if(|line| line.text.starts_with("#!")).is_some();
        for line in lines {
            let Some((name, value)) = directive(&line) else {
                break;
            };
            let span = line.span();
            if !DIRECTIVES.contains(&name.as_str()) {
                break;
            }
            let seen = match name.as_str() {
                "syntax" => found.syntax.is_some(),
                "check" => found.check.is_some(),
                _ => found.escape.is_some(),
            };
            if seen {
                errors.push(
                    Diagnostic::syntax(
                        span,
                        format!("only one {name} parser directive can be used"),
                    )
                    .with_help("remove this line or the one before"),
                );
                continue;
            }
            match name.as_str() {
                "syntax" => found.syntax = Some(Spanned::new(value.to_owned(), span)),
                "check" => found.check = Some(Spanned::new(value.to_owned(), span)),
                _ if shebang => {}
                _ => match value {
                    "\\" => found.escape = Some(Spanned::new('\\', span)),
                    "`" => found.escape = Some(Spanned::new('`', span)),
                    other => errors.push(
                        Diagnostic::syntax(
                            span,
                            format!("invalid escape token '{other}' does not match ` or \\"),
                        )
                        .with_help("write `# escape=\\` or `# escape=` followed by a backtick"),
                    ),
                },
            }
        }
        found
    }

    /// Whether a line holds one of these directives.
    pub(super) fn holds(&self, line: usize) -> bool {
        let lines = [
            self.syntax
                .as_ref()
                .map(|directive| directive.span.first_line),
            self.escape
                .as_ref()
                .map(|directive| directive.span.first_line),
            self.check
                .as_ref()
                .map(|directive| directive.span.first_line),
        ];
        lines.contains(&Some(line))
    }
}

/// The name in lower case and the value of a line of the form `# name = value`.
fn directive<'a>(line: &Line<'a>) -> Option<(String, &'a str)> {
    let comment = line.text.trim_start().strip_prefix('#')?;
    let (name, value) = comment.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let mut letters = name.chars();
    let is_name = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<String>, Option<char>, Option<String>, usize) {
        let mut errors = Vec::new();
        let found = Directives::read(text, &mut errors);
        (
            found.syntax.map(|directive| directive.value),
            found.escape.map(|directive| directive.value),
            found.check.map(|directive| directive.value),
            errors.len(),
        )
    }

    #[test]
    fn directives_stand_first() {
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            (
                "# syntax=a/b:1\n#escape = `\n# CHECK=skip=all\n",
                (some("a/b:1"), Some('`'), some("skip=all"), 0),
            ),
            ("\u{feff}# escape=`\r\nFROM a", (None, Some('`'), None, 0)),
            ("\n# escape=`\n", (None, None, None, 0)),
            ("# a comment\n# escape=`\n", (None, None, None, 0)),
            ("# other=1\n# escape=`\n", (None, None, None, 0)),
            ("# escape=`\n# escape=`\n", (None, Some('`'), None, 1)),
            ("# escape=x\n", (None, None, None, 1)),
            (
                "#!/usr/bin/env x\n# syntax=a\n# escape=`\n",
                (some("a"), None, None, 0),
            ),
            ("# escape=\n", (None, None, None, 0)),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
