//! Places in a Dockerfile.

use std::ops::Range;

/// A range of bytes in the Dockerfile's text, and the lines that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
    /// First line, counted from 1.
    pub first_line: usize,
    /// Last line, counted from 1.
    pub last_line: usize,
}

impl Span {
    /// The smallest span that covers both.
    pub fn to(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
            first_line: self.first_line.min(other.first_line),
            last_line: self.last_line.max(other.last_line),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Joins a value to its place.
    pub const fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl Spanned<String> {
    /// Where a range of the text was written; where all of it was, if it was written otherwise
    /// than it reads (with quotes, escapes, over several lines).
    pub fn part(&self, range: Range<usize>) -> Span {
        let is_as_written = self.span.end.checked_sub(self.span.start) == Some(self.value.len());
        if !is_as_written || self.value.get(range.clone()).is_none() {
            return self.span;
        }
        Span {
            start: self.span.start + range.start,
            end: self.span.start + range.end,
            ..self.span
        }
    }
}
