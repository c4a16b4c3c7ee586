//! Draws diagnostics: message, place, the lines with what is meant in them marked, notes, help.
//!
//! Columns are those of a terminal: tabs are widened, wide characters count twice. Long lines are
//! cut around what is meant, long instructions in their middle.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Diagnostic, Kind};

/// Lines of an instruction that are shown before its middle is left out.
const SHOWN_LINES: usize = 6;
/// Columns of a line that are shown.
const SHOWN_COLUMNS: usize = 160;
/// Columns that are kept in front of what is meant where a line is cut.
const KEPT_BEFORE: usize = 40;

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const BOLD: &str = "1";

impl Diagnostic {
    /// Draws the diagnostic with the lines of `source` that it is about.
    ///
    /// `dockerfile_name` is the name that the user knows the file by. The result ends in a
    /// newline. With `colour`, ANSI colours mark error, place and help.
    pub fn render(&self, dockerfile_name: &str, source: &str, colour: bool) -> String {
        let paint = Paint(colour);
        let (word, style) = match self.kind {
            Kind::Warning => ("warning", YELLOW),
            Kind::Syntax | Kind::Error => ("error", RED),
        };
        let heading = paint.wrap(style, word);
        let message = paint.wrap(BOLD, &clean(&format!(": {self}")));
        let mut out = format!("{heading}{message}\n");
        let lines: Vec<&str> = source.lines().collect();
        let first = self.span.first_line;
        let mut indent = 1;
        if first >= 1 && first <= lines.len() {
            let last = self.span.last_line.clamp(first, lines.len());
            let excerpt = Excerpt {
                lines: &lines,
                first,
                last,
                from: characters_before(source, first, self.span.start),
                to: characters_before(source, last, self.span.end),
                width: last.to_string().len(),
                style,
                paint,
            };
            excerpt.draw(&mut out, dockerfile_name, &self.label);
            indent = excerpt.width;
            if self.help.is_some() || !self.notes.is_empty() {
                let _ = writeln!(out, "{:indent$} {}", "", paint.wrap(BLUE, "|"));
            }
        }
        let notes = self.notes.iter().map(|note| ("note", note));
        let help = self.help.iter().map(|help| ("help", help));
        for (kind, text) in notes.chain(help) {
            let kind = paint.wrap(BLUE, &format!("= {kind}:"));
            let _ = writeln!(out, "{:indent$} {kind} {}", "", clean(text));
        }
        out
    }
}

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

/// The lines that a diagnostic is about.
struct Excerpt<'a> {
    lines: &'a [&'a str],
    /// First and last line, counted from 1.
    first: usize,
    last: usize,
    /// Characters before what is meant on the first line, and up to its end on the last.
    from: usize,
    to: usize,
    /// Digits of the largest number shown.
    width: usize,
    style: &'a str,
    paint: Paint,
}

impl Excerpt<'_> {
    fn draw(&self, out: &mut String, name: &str, label: &str) {
        let (width, bar) = (self.width, self.paint.wrap(BLUE, "|"));
        let arrow = self.paint.wrap(BLUE, "-->");
        let place = format!("{}:{}:{}", clean(name), self.first, self.from + 1);
        let _ = writeln!(out, "{:width$}{arrow} {place}", "");
        let _ = writeln!(out, "{:width$} {bar}", "");
        let label = match label {
            "" => String::new(),
            label => format!(" {}", clean(label)),
        };
        if self.first == self.last {
            let cut = Cut::around(self.line(self.first), self.from, self.to);
            self.row(out, self.first, &cut.text);
            let mark = format!("{}{label}", "^".repeat(cut.marked.max(1)));
            let mark = self.paint.wrap(self.style, &mark);
            let _ = writeln!(
                out,
                "{:width$} {bar} {:before$}{mark}",
                "",
                "",
                before = cut.before
            );
            return;
        }
        self.draw_lines(out, &label);
    }

    /// Several lines, held together by a bar that leads to the end of what is meant.
    fn draw_lines(&self, out: &mut String, label: &str) {
        let count = self.last - self.first + 1;
        let head = if count > SHOWN_LINES {
            SHOWN_LINES - 2
        } else {
            count
        };
        let side = |mark: &str| self.paint.wrap(self.style, mark);
        let (width, bar) = (self.width, self.paint.wrap(BLUE, "|"));
        for number in self.first..self.first + head {
            let mark = if number == self.first { "/" } else { "|" };
            let text = Cut::around(self.line(number), 0, 0).text;
            self.row(out, number, &format!("{} {text}", side(mark)));
        }
        if head < count {
            let dots = "…";
            let _ = writeln!(out, "{dots:<width$} {bar} {}", side("|"));
            let text = Cut::around(self.line(self.last), 0, 0).text;
            self.row(out, self.last, &format!("{} {text}", side("|")));
        }
        let end = Cut::around(self.line(self.last), 0, self.to);
        let tail = format!("|{}^{label}", "_".repeat(end.marked.max(1)));
        let _ = writeln!(out, "{:width$} {bar} {}", "", side(&tail));
    }

    fn row(&self, out: &mut String, number: usize, text: &str) {
        let number = format!("{number:>width$}", width = self.width);
        let (number, bar) = (self.paint.wrap(BLUE, &number), self.paint.wrap(BLUE, "|"));
        let _ = writeln!(out, "{}", format!("{number} {bar} {text}").trim_end());
    }

    fn line(&self, number: usize) -> &str {
        let line = self.lines.get(number - 1).copied().unwrap_or_default();
        line.trim_end()
    }
}

/// The part of a line worth showing.
struct Cut {
    text: String,
    /// Columns in front of what is meant, and its own.
    before: usize,
    marked: usize,
}

impl Cut {
    /// Cuts a line around the characters from `from` to `to`.
    fn around(line: &str, from: usize, to: usize) -> Self {
        let part = |start: usize, end: usize| -> String {
            let count = end.saturating_sub(start);
            clean(&line.chars().skip(start).take(count).collect::<String>())
        };
        let mut start = 0;
        if part(0, from).width() + 20 > SHOWN_COLUMNS {
            start = from.saturating_sub(KEPT_BEFORE);
        }
        let mut columns = 0;
        let shown = line.chars().skip(start).take_while(|c| {
            columns += clean(c.encode_utf8(&mut [0; 4])).width();
            columns <= SHOWN_COLUMNS
        });
        let end = start + shown.count();
        let mut cut = Self {
            text: part(start, end),
            before: part(start, from).width(),
            marked: part(from, to.min(end)).width(),
        };
        if start > 0 {
            cut.text.insert(0, '…');
            cut.before += 1;
        }
        if line.chars().nth(end).is_some() {
            cut.text.push('…');
        }
        cut
    }
}

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

/// How many characters of a line, counted from 1, stand before a byte of the whole text; no more
/// than the line has without the blanks at its end.
pub(super) fn characters_before(source: &str, line: usize, offset: usize) -> usize {
    let mut begin = 0;
    let mut lines = source.split_inclusive('\n');
    for before in lines.by_ref().take(line.saturating_sub(1)) {
        begin += before.len();
    }
    let text = lines.next().unwrap_or_default().trim_end();
    let length = offset.saturating_sub(begin);
    text.char_indices()
        .take_while(|(at, _)| *at < length)
        .count()
}

/// Text with nothing in it that a terminal obeys, or that turns the text around it.
pub(in crate::dockerfile) fn clean(text: &str) -> String {
    let visible = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns || c.width().is_none() {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.replace('\t', "    ").chars().map(visible).collect()
}
