//! `<<EOF`: finding the marks on a line, reading the bodies below it.

use super::super::expansion::{ExpandError, delimiter, raw_words};
use super::lines::Lines;

/// A heredoc as the parser finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawHeredoc {
    /// The delimiter without its quotes.
    pub name: String,
    /// Whether variables in the body are expanded: false where the delimiter is quoted.
    pub expand: bool,
    /// Whether it was `<<-`: tabs at the beginning of lines don't count.
    pub chomp: bool,
    /// The body as written, up to the line with the delimiter.
    pub content: String,
}

impl RawHeredoc {
    /// The body as it is meant: without leading tabs for `<<-`.
    pub fn body(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }

    /// Reads the body, and the delimiter's line; the number and the end of that line, or `None`
    /// when the file ends first.
    pub(super) fn read(&mut self, lines: &mut Lines<'_>) -> Option<(usize, usize)> {
        for line in lines {
            let end = if self.chomp {
                line.text.trim_start_matches('\t')
            } else {
                line.text
            };
            if end == self.name {
                return Some((line.number, line.start + line.text.len()));
            }
            self.content.push_str(line.raw);
        }
        None
    }
}

/// Reads one word as the mark of a heredoc: digits, `<<`, perhaps `-`, and the delimiter.
///
/// # Errors
/// When the delimiter's quotes don't close.
pub fn heredoc_mark(word: &str) -> Result<Option<RawHeredoc>, ExpandError> {
    let Some(rest) = word
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .strip_prefix("<<")
    else {
        return Ok(None);
    };
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(delimiter(rest)?.map(|(name, raw)| RawHeredoc {
        expand: quotes(&name) == quotes(&raw),
        name,
        chomp,
        content: String::new(),
    }))
}

/// The heredocs that a line announces, their bodies still empty.
pub(super) fn heredocs_of(line: &str) -> Result<Vec<RawHeredoc>, ExpandError> {
    let mut found = Vec::new();
    if line.contains("<<") {
        for word in raw_words(line) {
            found.extend(heredoc_mark(&word)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(word: &str) -> Option<(String, bool, bool)> {
        let found = heredoc_mark(word).unwrap();
        found.map(|heredoc| (heredoc.name, heredoc.expand, heredoc.chomp))
    }

    #[test]
    fn marks() {
        for (word, name, expand, chomp) in [
            ("<<EOF", "EOF", true, false),
            ("3<<EOF", "EOF", true, false),
            ("<<-EOF", "EOF", true, true),
            ("<<'EOF'", "EOF", false, false),
            ("<<eo'f'", "eof", false, false),
            ("<<eo\\'f", "eo'f", true, false),
            ("<<'e'o\\'f", "eo'f", false, false),
            ("<<'one two'", "one two", false, false),
            ("<<$EOF", "$EOF", true, false),
            ("<<  EOF", "EOF", true, false),
        ] {
            assert_eq!(mark(word), Some((name.to_owned(), expand, chomp)), "{word}");
        }
        for word in [
            "EOF",
            "<<",
            "<<<EOF",
            "<< a b",
            "\"<<EOF\"",
            "a<<EOF",
            "<EOF",
        ] {
            assert_eq!(mark(word), None, "{word}");
        }
        assert!(heredoc_mark("<<'EOF").is_err());
    }

    #[test]
    fn marks_on_a_line() {
        let names = |line: &str| -> Vec<String> {
            heredocs_of(line)
                .unwrap()
                .into_iter()
                .map(|heredoc| heredoc.name)
                .collect()
        };
        assert_eq!(names("COPY <<A <<-B <<'C D' /x"), ["A", "B", "C D"]);
        assert_eq!(names("RUN <<  EOF  > foo"), ["EOF"]);
        assert_eq!(names("RUN cat \"<<A\" '<<B' \\<<C"), [""; 0]);
        assert_eq!(
            names("RUN echo it's <<A"),
            [""; 0],
            "an open quote: the shell's affair"
        );
    }
}
