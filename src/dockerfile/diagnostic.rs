//! What is wrong with a Dockerfile, where, and what to do about it.
//!
//! A diagnostic is data; [`Diagnostic::render`] draws it as the compilers of today do: the line,
//! its number, a caret below. Text from the Dockerfile never reaches a terminal with its control
//! characters.

use std::fmt::{self, Write as _};

use super::span::Span;

/// Lines of a span that are shown before the rest is cut.
const SHOWN_LINES: usize = 6;
/// Characters of a line that are shown.
const SHOWN_COLUMNS: usize = 160;

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

    /// Draws the diagnostic with the lines of `source` that it is about.
    ///
    /// `dockerfile_name` is the name that the user knows the file by. The result ends in a
    /// newline. With `colour`, ANSI colours mark error, place and help.
    pub fn render(&self, dockerfile_name: &str, source: &str, colour: bool) -> String {
        let paint = Paint(colour);
        let mut out = String::new();
        let (word, style) = match self.kind {
            Kind::Warning => ("warning", YELLOW),
            Kind::Syntax | Kind::Error => ("error", RED),
        };
        let heading = paint.wrap(style, word);
        let message = paint.wrap(BOLD, &clean(&format!(": {self}")));
        let _ = writeln!(out, "{heading}{message}");
        let lines: Vec<&str> = source.lines().collect();
        let place = self.span.first_line;
        if place >= 1 && place <= lines.len() {
            self.draw(&mut out, dockerfile_name, source, &lines, style, paint);
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "  {} {}", paint.wrap(BLUE, "= help:"), clean(help));
        }
        out
    }

    fn draw(
        &self,
        out: &mut String,
        name: &str,
        source: &str,
        lines: &[&str],
        style: &str,
        paint: Paint,
    ) {
        let first = self.span.first_line;
        let last = self.span.last_line.clamp(first, lines.len());
        let shown = last.min(first + SHOWN_LINES - 1);
        let width = shown.to_string().len();
        let (from, to) = self.columns(source, lines);
        let bar = paint.wrap(BLUE, "|");
        let arrow = paint.wrap(BLUE, "-->");
        let _ = writeln!(
            out,
            "{:width$}{arrow} {}:{first}:{}",
            "",
            clean(name),
            from + 1
        );
        let _ = writeln!(out, "{:width$} {bar}", "");
        for number in first..=shown {
            let line = lines.get(number - 1).copied().unwrap_or_default();
            let (text, before, marked) = window(line, from, to);
            let label = paint.wrap(BLUE, &format!("{number:>width$}"));
            let _ = writeln!(out, "{}", format!("{label} {bar} {text}").trim_end());
            if number == first {
                let mut carets = "^".repeat(marked.max(1));
                if !self.label.is_empty() {
                    let _ = write!(carets, " {}", clean(&self.label));
                }
                let carets = paint.wrap(style, &carets);
                let _ = writeln!(out, "{:width$} {bar} {:before$}{carets}", "", "");
            }
        }
        if shown < last {
            let _ = writeln!(out, "{:width$} {bar} …", "");
        }
        if self.help.is_some() {
            let _ = writeln!(out, "{:width$} {bar}", "");
        }
    }

    /// First column and the column behind the last, in characters, on the first line.
    fn columns(&self, source: &str, lines: &[&str]) -> (usize, usize) {
        let line = lines
            .get(self.span.first_line.saturating_sub(1))
            .copied()
            .unwrap_or_default();
        let begin = line_start(source, self.span.first_line);
        let characters = |offset: usize| {
            let length = offset.saturating_sub(begin).min(line.len());
            line.char_indices()
                .take_while(|(at, _)| *at < length)
                .count()
        };
        let end_of_line = line.trim_end().chars().count();
        let from = characters(self.span.start);
        let to = if self.span.last_line > self.span.first_line {
            // a continuation mark at the end of the line is not worth a caret
            line.trim_end()
                .trim_end_matches(['\\', '`'])
                .trim_end()
                .chars()
                .count()
        } else {
            characters(self.span.end).min(end_of_line)
        };
        (from, to)
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

/// Draws several diagnostics, a blank line between them.
pub fn render_all(
    diagnostics: &[Diagnostic],
    dockerfile_name: &str,
    source: &str,
    colour: bool,
) -> String {
    let drawn: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render(dockerfile_name, source, colour))
        .collect();
    drawn.join("\n")
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const BOLD: &str = "1";

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn wrap(self, style: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Offset of the first byte of a line, counted from 1.
fn line_start(source: &str, line: usize) -> usize {
    let newlines = source
        .bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'\n');
    match line.checked_sub(2) {
        None => 0,
        Some(before) => newlines
            .map(|(at, _)| at + 1)
            .nth(before)
            .unwrap_or(source.len()),
    }
}

/// Text with nothing in it that a terminal obeys.
pub(super) fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.replace('\t', "    ").chars().map(visible).collect()
}

/// The part of a line worth showing, and where in it the mark begins and how long it is.
fn window(line: &str, from: usize, to: usize) -> (String, usize, usize) {
    let skip = if from + 20 > SHOWN_COLUMNS {
        from.saturating_sub(40)
    } else {
        0
    };
    let part = |start: usize, end: usize| -> String {
        line.chars()
            .skip(start)
            .take(end.saturating_sub(start))
            .collect()
    };
    let end = skip + SHOWN_COLUMNS;
    let mut text = clean(&part(skip, end));
    let mut before = clean(&part(skip, from)).chars().count();
    let marked = clean(&part(from, to.min(end))).chars().count();
    if skip > 0 {
        text.insert(0, '…');
        before += 1;
    }
    if line.chars().nth(end).is_some() {
        text.push('…');
    }
    (text, before, marked)
}

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
    fn widens_tabs_and_marks_only_the_first_of_several_lines() {
        let drawn = Diagnostic::error(span(13, 35, 2, 3), "failed").render("D", SOURCE, false);
        assert_eq!(
            drawn,
            "error: failed\n --> D:2:2\n  |\n2 |     RUN    make \\\n  |     ^^^^^^^^^^^\n3 |   install\n"
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
