//! Standard output: results only, never progress.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};

use super::error::{ErrorKind, Failure, SIGPIPE};
use super::ui::terminal::{Colours, neutralise_line};

/// Writes a result to standard output. Results hold what images say of themselves: at a terminal
/// nothing of it is obeyed but colours. A file or pipe gets every byte.
///
/// # Errors
/// When it can't be written. A reader that has gone ends the command as SIGPIPE would, silently.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let text = match stdout.is_terminal() {
        true => Cow::Owned(shown(text)),
        false => Cow::Borrowed(text),
    };
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => {
                Failure::new(ErrorKind::Signal(SIGPIPE), "standard output is closed")
            }
            _ => Failure::internal("can't write to standard output").caused_by(&error),
        })
}

/// A text as a terminal may get it.
fn shown(text: &str) -> String {
    // Nothing is overwritten either: results are no progress bars.
    let text = text.replace('\r', "");
    let lines = text.split('\n');
    let lines = lines.map(|line| neutralise_line(line.as_bytes(), Colours::Keep));
    lines.collect::<Vec<_>>().join("\n")
}

/// Rows under headings, each column as wide as its widest cell, three spaces between, as Docker
/// lays its tables out.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([headings[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let headings = headings
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    let mut out = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(line.join("   ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_image() {
        for (text, expected) in [
            ("a\tb\n\nc\n", "a\tb\n\nc\n"),
            ("RUN \x1b]0;title\x07x\x1b[2J\n", "RUN x\n"),
            ("\u{9b}6n\x08\n", "\n"),
            ("\x1b[1mname\x1b[0m\n", "\x1b[1mname\x1b[0m\n"),
            ("RUN harm\rRUN good\r\n", "RUN harmRUN good\n"),
            ("no end", "no end"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned(), "x".to_owned()]];
        assert_eq!(
            table(&["NAME", "TAG", "ID"], &rows),
            "NAME   TAG         ID\na      long cell   x\n"
        );
        assert_eq!(table(&["NAME", "TAG"], &[]), "NAME   TAG\n");
    }
}
