//! Physical lines, and logical lines joined from them.

use std::ops::Range;

use super::super::span::Span;

/// One line of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// With its line ending.
    pub(super) raw: &'a str,
    /// Without it.
    pub(super) text: &'a str,
    /// Offset of its first byte in the file.
    pub(super) start: usize,
    /// Its number, counted from 1.
    pub(super) number: usize,
}

impl Line<'_> {
    /// Whether the line holds nothing but a comment.
    pub(super) fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with('#')
    }

    /// The line as a span, its ending excluded.
    pub(super) fn span(&self) -> Span {
        Span {
            start: self.start,
            end: self.start + self.text.len(),
            first_line: self.number,
            last_line: self.number,
        }
    }
}

/// The lines of a file, a byte order mark at its beginning dropped.
#[derive(Clone, Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self {
            text,
            at,
            number: 0,
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let raw = rest.split_inclusive('\n').next().unwrap_or(rest);
        let line = Line {
            raw,
            text: raw.trim_end_matches(['\r', '\n']),
            start: self.at,
            number: self.number + 1,
        };
        self.at += raw.len();
        self.number += 1;
        Some(line)
    }
}

/// Physical lines joined at their continuation marks, with the way back to the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LogicalLine {
    /// The joined text.
    pub(super) text: String,
    segments: Vec<Segment>,
    first_line: usize,
    last_line: usize,
}

/// Where a part of the joined text came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    joined: usize,
    source: usize,
    line: usize,
}

impl LogicalLine {
    /// Appends a part of a physical line that begins at `source` in the file.
    pub(super) fn push(&mut self, text: &str, source: usize, line: usize) {
        self.segments.push(Segment {
            joined: self.text.len(),
            source,
            line,
        });
        self.text.push_str(text);
        self.saw(line);
    }

    /// Notes that a physical line belongs to this one though none of its text does.
    pub(super) fn saw(&mut self, line: usize) {
        if self.first_line == 0 {
            self.first_line = line;
        }
        self.last_line = line;
    }

    /// The place of a range of the joined text in the file.
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        let (start, first_line) = self.place(range.start);
        let (end, last_line) = if range.end > range.start {
            let (last, line) = self.place(range.end - 1);
            (last + 1, line)
        } else {
            (start, first_line)
        };
        Span {
            start,
            end,
            first_line,
            last_line,
        }
    }

    /// The place of the text without the white space around it, over all lines that belong to it.
    pub(super) fn whole(&self) -> Span {
        let start = self.text.len() - self.text.trim_start().len();
        let end = self.text.trim_end().len().max(start);
        Span {
            first_line: self.first_line,
            last_line: self.last_line,
            ..self.span(start..end)
        }
    }

    fn place(&self, joined: usize) -> (usize, usize) {
        let behind = self
            .segments
            .partition_point(|segment| segment.joined <= joined);
        match self.segments.get(behind.saturating_sub(1)) {
            Some(segment) => (
                segment.source + (joined - segment.joined.min(joined)),
                segment.line,
            ),
            None => (0, self.first_line),
        }
    }
}

/// A part of a logical line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    /// Offset of its first byte in the logical line.
    pub(super) at: usize,
}

impl<'a> Piece<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Without white space at both ends.
    pub(super) fn trim(self) -> Self {
        let front = self.text.len() - self.text.trim_start().len();
        self.slice(front, front + self.text.trim().len())
    }

    /// A part of this piece, by its own offsets.
    pub(super) fn slice(self, start: usize, end: usize) -> Self {
        Self {
            text: self.text.get(start..end).unwrap_or_default(),
            at: self.at + start,
        }
    }

    /// From an offset to the end.
    pub(super) fn from(self, start: usize) -> Self {
        self.slice(start, self.text.len())
    }

    /// Where the piece is in the logical line.
    pub(super) fn range(self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }
}

/// A line without its continuation mark, and whether it had one.
///
/// The mark is the last thing on the line apart from blanks and tabs, and not itself escaped.
pub(super) fn strip_continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuation_marks() {
        for (line, expected) in [
            ("a \\", ("a ", true)),
            ("a \\ \t", ("a ", true)),
            ("\\", ("", true)),
            ("a \\\\", ("a \\\\", false)),
            ("a", ("a", false)),
            ("a `", ("a `", false)),
        ] {
            assert_eq!(strip_continuation(line, '\\'), expected, "{line}");
        }
        assert_eq!(strip_continuation("a `", '`'), ("a ", true));
    }

    #[test]
    fn joined_text_knows_its_place() {
        let mut line = LogicalLine::default();
        line.push("RUN ", 10, 2);
        line.saw(3);
        line.push("make", 30, 4);
        let span = line.span(4..8);
        assert_eq!(
            (span.start, span.end, span.first_line, span.last_line),
            (30, 34, 4, 4)
        );
        let span = line.whole();
        assert_eq!(
            (span.start, span.end, span.first_line, span.last_line),
            (10, 34, 2, 4)
        );
    }

    #[test]
    fn lines_of_every_ending() {
        let lines: Vec<&str> = Lines::new("\u{feff}a\r\nb\n\nc")
            .map(|line| line.text)
            .collect();
        assert_eq!(lines, ["a", "b", "", "c"]);
    }
}
