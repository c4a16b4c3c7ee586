//! Standard output: results only, never progress.

use std::io::{self, Write as _};

use super::error::{ErrorKind, Failure, SIGPIPE};

/// Writes a result to standard output.
///
/// # Errors
/// When it can't be written. A reader that has gone ends the command as SIGPIPE would, silently.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
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
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned(), "x".to_owned()]];
        assert_eq!(
            table(&["NAME", "TAG", "ID"], &rows),
            "NAME   TAG         ID\na      long cell   x\n"
        );
        assert_eq!(table(&["NAME", "TAG"], &[]), "NAME   TAG\n");
    }
}
