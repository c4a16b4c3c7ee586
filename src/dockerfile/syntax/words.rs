//! How the arguments of each kind of instruction fall into words.
//!
//! Quotes and escapes are kept in words: they are processed when the words are expanded.

use std::ops::Range;

use super::lines::Piece;

/// A word and where in the logical line it stood.
pub(super) type Located = (String, Range<usize>);

/// What separates words outside quotes: not every Unicode space, as in BuildKit.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Splits at the first run of blanks; the second part is empty where there is none.
pub(super) fn split_first(piece: Piece<'_>) -> (Piece<'_>, Option<Piece<'_>>) {
    match piece.text.find(is_blank) {
        None => (piece, None),
        Some(end) => {
            let rest = piece.from(end);
            let skipped = rest.text.len() - rest.text.trim_start_matches(is_blank).len();
            (piece.slice(0, end), Some(rest.from(skipped)))
        }
    }
}

/// Splits at runs of blanks.
pub(super) fn split_blanks(piece: Piece<'_>) -> Vec<Located> {
    let mut words = Vec::new();
    let mut rest = (!piece.text.is_empty()).then_some(piece);
    while let Some(piece) = rest {
        let (word, behind) = split_first(piece);
        words.push((word.text.to_owned(), word.range()));
        rest = behind;
    }
    words
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Spaces,
    Word,
    Quote(char),
}

/// Takes the `--name=value` words at the front, without their quotes, and the rest.
///
/// A lone `--` ends them and is dropped.
pub(super) fn take_flags(piece: Piece<'_>, escape: char) -> (Vec<Located>, Piece<'_>) {
    let mut flags = Vec::new();
    let mut rest = piece;
    loop {
        rest = rest.from(rest.text.len() - rest.text.trim_start().len());
        if !rest.text.starts_with("--") {
            return (flags, rest);
        }
        let (word, end) = unquoted_word(rest.text, escape);
        let range = rest.slice(0, end).range();
        rest = rest.from(end);
        if word == "--" {
            return (flags, rest);
        }
        flags.push((word, range));
    }
}

/// The first word of a text with quotes and escapes removed, and where it ends.
fn unquoted_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut phase = Phase::Word;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match phase {
            Phase::Quote(quote) if c == quote => phase = Phase::Word,
            Phase::Word if c.is_whitespace() => return (word, at),
            Phase::Word if c == '\'' || c == '"' => phase = Phase::Quote(c),
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

/// Splits at white space outside quotes. Quotes and escapes stay in the words.
pub(super) fn split_quoted(piece: Piece<'_>, escape: char) -> Vec<Located> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = 0;
    let mut phase = Phase::Spaces;
    let mut chars = piece.text.char_indices();
    while let Some((at, c)) = chars.next() {
        if phase == Phase::Spaces {
            if c.is_whitespace() {
                continue;
            }
            phase = Phase::Word;
            start = at;
        }
        if phase == Phase::Word && c.is_whitespace() {
            phase = Phase::Spaces;
            if !word.is_empty() {
                words.push((std::mem::take(&mut word), piece.slice(start, at).range()));
            }
            continue;
        }
        match phase {
            Phase::Word if c == '\'' || c == '"' => phase = Phase::Quote(c),
            Phase::Quote(quote) if c == quote => phase = Phase::Word,
            _ => {}
        }
        if c == escape && phase != Phase::Quote('\'') {
            // an escape at the very end escapes nothing and is dropped
            let Some((_, escaped)) = chars.next() else {
                break;
            };
            word.push(c);
            word.push(escaped);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push((word, piece.from(start).range()));
    }
    words
}

/// A JSON array that is not made of strings only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotStrings;

/// The strings of a JSON array, or `None` when the text is no JSON array.
pub(super) fn json_strings(text: &str) -> Result<Option<Vec<String>>, NotStrings> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(string) => Ok(string),
        _ => Err(NotStrings),
    });
    strings.collect::<Result<Vec<_>, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<Located>) -> Vec<String> {
        words.into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn quoted_words_keep_their_quotes() {
        for (text, expected) in [
            ("foo", vec!["foo"]),
            ("foo bar", vec!["foo", "bar"]),
            ("foo\\ bar", vec!["foo\\ bar"]),
            ("foo bar 'abc xyz'", vec!["foo", "bar", "'abc xyz'"]),
            ("foo \"abc xyz\"", vec!["foo", "\"abc xyz\""]),
            ("a='x \\' b", vec!["a='x \\'", "b"]),
            ("a=\"x \\\" y\" b", vec!["a=\"x \\\" y\"", "b"]),
            ("föo bàr \"âbc xÿz\"", vec!["föo", "bàr", "\"âbc xÿz\""]),
            ("a\u{a0}b", vec!["a", "b"]),
            ("tail\\", vec!["tail"]),
            ("'open", vec!["'open"]),
            ("", vec![]),
        ] {
            assert_eq!(
                texts(split_quoted(Piece::new(text), '\\')),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn flags_lose_their_quotes() {
        for (text, flags, rest) in [
            ("--a=b c", vec!["--a=b"], "c"),
            ("--a=\"b c\" --d e", vec!["--a=b c", "--d"], "e"),
            ("--a -- --b", vec!["--a"], " --b"),
            ("-a b", vec![], "-a b"),
            ("--a=x\\ y", vec!["--a=x y"], ""),
            ("--ä=ö ü", vec!["--ä=ö"], "ü"),
            ("", vec![], ""),
        ] {
            let (found, left) = take_flags(Piece::new(text), '\\');
            assert_eq!(
                (texts(found), left.text),
                (flags.iter().map(|f| (*f).to_owned()).collect(), rest),
                "{text}"
            );
        }
    }

    #[test]
    fn words_know_where_they_stand() {
        let piece = Piece::new("COPY a  bb").from(5);
        assert_eq!(
            split_blanks(piece),
            [("a".to_owned(), 5..6), ("bb".to_owned(), 8..10)]
        );
        assert_eq!(
            split_quoted(piece, '\\'),
            [("a".to_owned(), 5..6), ("bb".to_owned(), 8..10)]
        );
    }

    #[test]
    fn json_arrays_of_strings_only() {
        assert_eq!(
            json_strings(" [\"a\", \"b\"] "),
            Ok(Some(vec!["a".to_owned(), "b".to_owned()]))
        );
        assert_eq!(json_strings("[]"), Ok(Some(vec![])));
        assert_eq!(json_strings("[\"a\", 1]"), Err(NotStrings));
        assert_eq!(json_strings("[\"a\", [\"b\"]]"), Err(NotStrings));
        for text in ["['a']", "[\"a\"", "[\"a\",]", "[ -f x ]", "echo", ""] {
            assert_eq!(json_strings(text), Ok(None), "{text}");
        }
    }
}
