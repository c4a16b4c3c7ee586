//! What is wrong with a Dockerfile, where, and what to do about it.
//!
//! A diagnostic is data; [`Diagnostic::render`] draws it as the compilers of today do: the line,
//! its number, a caret below. Text from the Dockerfile never reaches a terminal with its control
//! characters.

mod render;

use std::fmt;
use std::ops::Range;

pub(super) use render::clean;
pub use render::render_all;

use super::span::Span;

/// What a diagnostic is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// The Dockerfile's text is not well-formed.
    Syntax,
    /// The Dockerfile is well-formed but can't be built as it says.
    #[default]
    Error,
    /// The Dockerfile can be built; something in it deserves a look.
    Warning,
}

/// One thing to tell the user about a place in the Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostic {
    /// Error or warning.
    pub kind: Kind,
    /// The place. A default span means the Dockerfile as a whole.
    pub span: Span,
    /// What is wrong, in BuildKit's words where it has some.
    pub message: String,
    /// A few words for the caret, empty where the message says it all.
    pub label: String,
    /// What else is to be known.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error in what the Dockerfile asks for.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            ..Self::default()
        }
    }

    /// An error in the Dockerfile's text.
    pub fn syntax(span: Span, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Syntax,
            ..Self::error(span, message)
        }
    }

    /// A warning.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Warning,
            ..Self::error(span, message)
        }
    }

    /// The same with a label at the caret.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with something else to be known.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The same with advice where there is some, and no other yet.
    #[must_use]
    pub fn or_help(mut self, help: Option<String>) -> Self {
        self.help = self.help.or(help);
        self
    }

    /// Where it begins and where it ends in `source`, each as a line, counted from 1, and the
    /// characters that stand before it on that line. `None` where it is about no line of `source`.
    pub fn range(&self, source: &str) -> Option<Range<(usize, usize)>> {
        let (first, last) = (self.span.first_line, self.span.last_line);
        let lines = source.lines().count();
        if first == 0 || first > lines {
            return None;
        }
        let last = last.clamp(first, lines);
        let start = (
            first,
            render::characters_before(source, first, self.span.start),
        );
        let end = (last, render::characters_before(source, last, self.span.end));
        Some(start..end.max(start))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == Kind::Syntax && self.span.first_line > 0 {
            write!(
                f,
                "dockerfile parse error on line {}: ",
                self.span.first_line
            )?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "FROM alpine\n\tRUN\tmake \\\n  install\nCOPY é x\n";

    fn span(start: usize, end: usize, first_line: usize, last_line: usize) -> Span {
        Span {
            start,
            end,
            first_line,
            last_line,
        }
    }

    #[test]
    fn draws_the_line_with_a_caret_and_help() {
        let diagnostic = Diagnostic::syntax(span(0, 4, 1, 1), "unknown instruction: FORM")
            .with_label("did you mean `FROM`?")
            .with_help("write `FROM alpine`");
        let drawn = diagnostic.render("Dockerfile", "FORM alpine\n", false);
        assert_eq!(
            drawn,
            "error: dockerfile parse error on line 1: unknown instruction: FORM\n \
             --> Dockerfile:1:1\n  \
             |\n\
             1 | FORM alpine\n  \
             | ^^^^ did you mean `FROM`?\n  \
             |\n  \
             = help: write `FROM alpine`\n"
        );
    }

    #[test]
    fn widens_tabs_and_holds_several_lines_together() {
        let drawn = Diagnostic::error(span(13, 35, 2, 3), "failed").render("D", SOURCE, false);
        assert_eq!(
            drawn,
            "error: failed\n --> D:2:2\n  |\n2 | /     RUN    make \\\n3 | |   install\n  | |_________^\n"
        );
    }

    #[test]
    fn counts_characters_and_not_bytes() {
        let at = SOURCE.find("x\n").unwrap_or_default();
        let drawn = Diagnostic::error(span(at, at + 1, 4, 4), "bad").render("D", SOURCE, false);
        assert!(drawn.contains("4 | COPY é x\n  |        ^\n"), "{drawn}");
    }

    #[test]
    fn control_characters_never_get_through() {
        let source = "RUN \x1b[31mred\n";
        let diagnostic = Diagnostic::error(span(0, 3, 1, 1), "bad \x1b[0m").with_help("\x07");
        assert!(
            !diagnostic
                .render("\x1b", source, false)
                .contains(['\x1b', '\x07'])
        );
    }

    #[test]
    fn places_outside_the_source_are_left_out() {
        for at in [
            Span::default(),
            span(900, 950, 70, 71),
            span(900, 950, 1, 70),
            span(5, 1, 2, 1),
        ] {
            let drawn = Diagnostic::warning(at, "odd").render("D", SOURCE, true);
            assert!(drawn.contains("warning"), "{drawn}");
        }
        assert_eq!(
            Diagnostic::error(Span::default(), "no stages").render("D", "", false),
            "error: no stages\n"
        );
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let source = "COPY 日本 x\n";
        let drawn = Diagnostic::error(span(5, 11, 1, 1), "bad").render("D", source, false);
        assert!(
            drawn.contains("1 | COPY 日本 x\n  |      ^^^^\n"),
            "{drawn}"
        );
        let drawn = Diagnostic::error(span(12, 13, 1, 1), "bad").render("D", source, false);
        assert!(
            drawn.contains("D:1:9\n"),
            "places count characters: {drawn}"
        );
        assert!(drawn.contains("  |           ^\n"), "{drawn}");
    }

    #[test]
    fn long_instructions_lose_their_middle() {
        let source: String = (1..=12).map(|n| format!("line {n} \\\n")).collect();
        let drawn = Diagnostic::error(span(0, source.len() - 3, 1, 12), "bad").with_note("so");
        assert_eq!(
            drawn.render("D", &source, false),
            "error: bad\n  --> D:1:1\n   |\n 1 | / line 1 \\\n 2 | | line 2 \\\n 3 | | line 3 \\\n \
             4 | | line 4 \\\n…  | |\n12 | | line 12 \\\n   | |_______^\n   |\n   = note: so\n"
        );
    }

    #[test]
    fn ranges_are_lines_and_characters() {
        let at = SOURCE.find("x\n").unwrap_or_default();
        let one = Diagnostic::error(span(at, at + 1, 4, 4), "bad");
        assert_eq!(one.range(SOURCE), Some((4, 7)..(4, 8)));
        let several = Diagnostic::error(span(13, 35, 2, 3), "bad");
        assert_eq!(several.range(SOURCE), Some((2, 1)..(3, 9)));
        assert_eq!(
            Diagnostic::error(Span::default(), "bad").range(SOURCE),
            None
        );
        assert_eq!(
            Diagnostic::error(span(0, 1, 9, 9), "bad").range(SOURCE),
            None
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let source = format!("RUN {} here {}", "a".repeat(5000), "b".repeat(5000));
        let drawn = Diagnostic::error(span(5005, 5009, 1, 1), "bad").render("D", &source, false);
        assert!(
            drawn.lines().all(|line| line.chars().count() < 200),
            "{drawn}"
        );
        let lines: Vec<&str> = drawn.lines().collect();
        let caret = lines[4].chars().position(|c| c == '^').unwrap_or_default();
        let marked: String = lines[3].chars().skip(caret).take(4).collect();
        assert_eq!(marked, "here");
    }
}
