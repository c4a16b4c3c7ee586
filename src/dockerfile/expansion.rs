//! Variables, quotes and escapes in the words of a Dockerfile, as BuildKit reads them.
//!
//! | written | means |
//! |---|---|
//! | `$name`, `${name}` | the value, empty where unset |
//! | `${name:-word}`, `${name-word}` | `word` where unset (with the colon: or empty) |
//! | `${name:+word}`, `${name+word}` | `word` where set (with the colon: and not empty) |
//! | `${name:?word}`, `${name?word}` | the error `word` where unset (with the colon: or empty) |
//! | `${name#pattern}`, `##`, `%`, `%%` | the value without its shortest or longest matching head or tail |
//! | `${name/pattern/text}`, `//` | the first match, or every one, replaced |
//!
//! Single quotes keep everything as it is, double quotes all but `$` and escapes. The escape
//! character is the Dockerfile's. No value is ever expanded a second time.

use std::collections::BTreeSet;

mod lexer;
mod pattern;

use lexer::{Lexer, Mode};

/// Substitutions inside substitutions that are followed before giving up.
const DEEPEST: usize = 100;
/// Bytes that an expansion may reach: what a chain of doubling variables would fill memory with.
const LONGEST: usize = 16 << 20;

/// A word that can't be expanded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("failed to process {word:?}: {reason}")]
pub struct ExpandError {
    /// The word as written, shortened where very long.
    pub word: String,
    /// Why.
    pub reason: ExpandReason,
}

/// Why a word can't be expanded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandReason {
    /// A quote without its partner.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    OpenQuote(&'static str),
    /// `${name` without its `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${name/pattern` without its second `/`.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:…}`, `${{…}`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${name=…}` and others that shells know and Dockerfiles don't.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${name?message}` of an unset or empty variable.
    #[error("{name}: {message}")]
    Demanded {
        /// The variable.
        name: String,
        /// What the Dockerfile says about it.
        message: String,
    },
    /// A pattern with an escape that means nothing.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What was escaped; nothing where the escape stood last.
        escaped: String,
    },
    /// More substitutions inside each other than anyone writes.
    #[error("more than {DEEPEST} substitutions inside each other")]
    TooDeep,
    /// A result that no system takes as a variable.
    #[error("the result is longer than {LONGEST} bytes")]
    TooLong,
}

/// An expanded word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expansion {
    /// The word.
    pub text: String,
    /// The variables it used.
    pub used: BTreeSet<String>,
    /// The variables it asked for that are not set.
    pub unset: BTreeSet<String>,
}

/// Gives a variable's value, `None` where it is unset.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Expands a word: variables replaced, quotes and escapes removed.
///
/// # Errors
/// When the word is malformed or demands a variable that is unset.
pub fn expand(word: &str, lookup: &Lookup<'_>, escape: char) -> Result<String, ExpandError> {
    expand_with_names(word, lookup, escape).map(|expansion| expansion.text)
}

/// [`expand`], and the names of the variables that the word mentions.
///
/// # Errors
/// As [`expand`].
pub fn expand_with_names(
    word: &str,
    lookup: &Lookup<'_>,
    escape: char,
) -> Result<Expansion, ExpandError> {
    let mut lexer = Lexer::new(word, lookup, escape, Mode::default());
    let (text, _) = lexer.run()?;
    Ok(Expansion {
        text,
        used: lexer.used,
        unset: lexer.unset,
    })
}

/// Expands a word and splits it at white space outside quotes, white space in values included.
///
/// # Errors
/// As [`expand`].
pub fn expand_words(
    word: &str,
    lookup: &Lookup<'_>,
    escape: char,
) -> Result<Vec<String>, ExpandError> {
    let mut lexer = Lexer::new(word, lookup, escape, Mode::default());
    lexer.run().map(|(_, words)| words)
}

/// Expands the variables in the body of a heredoc. Quotes stay; a backslash escapes, whatever
/// the Dockerfile's escape character is.
///
/// # Errors
/// As [`expand`].
pub fn expand_heredoc(content: &str, lookup: &Lookup<'_>) -> Result<String, ExpandError> {
    expand_heredoc_with_names(content, lookup).map(|expansion| expansion.text)
}

/// [`expand_heredoc`], and the names of the variables that the body mentions.
///
/// # Errors
/// As [`expand`].
pub fn expand_heredoc_with_names(
    content: &str,
    lookup: &Lookup<'_>,
) -> Result<Expansion, ExpandError> {
    let mode = Mode {
        keep_quotes_unread: true,
        ..Mode::default()
    };
    let mut lexer = Lexer::new(content, lookup, '\\', mode);
    let (text, _) = lexer.run()?;
    Ok(Expansion {
        text,
        used: lexer.used,
        unset: lexer.unset,
    })
}

/// An instruction's text with the variables that are set replaced and all else as it is: the
/// name of a step. Text that can't be expanded comes back as it is.
pub fn expand_for_display(text: &str, lookup: &Lookup<'_>, escape: char) -> String {
    let (own, shells) = text.split_at(shell_text(text));
    let expand = |text: &str, use_defaults: bool| {
        let mode = Mode {
            raw_quotes: true,
            keep_unset: true,
            use_defaults,
            ..Mode::default()
        };
        match Lexer::new(text, lookup, escape, mode).run() {
            Ok((expanded, _)) => expanded,
            Err(_) => text.to_owned(),
        }
    };
    expand(own, true) + &expand(shells, false)
}

/// Where the text begins that a shell of the step expands itself: behind the flags of RUN.
fn shell_text(text: &str) -> usize {
    let is_run = |word: &str| word.eq_ignore_ascii_case("run");
    let mut words = text.split_inclusive(char::is_whitespace);
    match words.next() {
        Some(first) if is_run(first.trim_end()) => {
            let flags = words.take_while(|word| word.trim().is_empty() || word.starts_with("--"));
            first.len() + flags.map(str::len).sum::<usize>()
        }
        _ => text.len(),
    }
}

/// The words of a line with quotes and escapes as written and no variable expanded; none where a
/// quote is open. It is how heredocs on a line are found.
pub(super) fn raw_words(line: &str) -> Vec<String> {
    let mode = Mode {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Mode::default()
    };
    let mut lexer = Lexer::new(line, &|_| None, '\\', mode);
    lexer.run().map(|(_, words)| words).unwrap_or_default()
}

/// The one word that a heredoc's delimiter is, without quotes and escapes and with them;
/// `None` where it isn't one word.
pub(super) fn delimiter(text: &str) -> Result<Option<(String, String)>, ExpandError> {
    let words = |raw_quotes| {
        let mode = Mode {
            raw_quotes,
            keep_unset: true,
            ..Mode::default()
        };
        Lexer::new(text, &|_| None, '\\', mode)
            .run()
            .map(|(_, words)| words)
    };
    match (words(false)?.as_slice(), words(true)?.as_slice()) {
        ([word], [raw]) => Ok(Some((word.clone(), raw.clone()))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
