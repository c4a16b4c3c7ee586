//! Reads a word character by character: what is quoted, what is escaped, and what every `$` means.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::pattern::Pattern;
use super::{DEEPEST, ExpandError, ExpandReason, LONGEST, Lookup};

/// How a text is read, where it isn't the word of an instruction.
#[derive(Clone, Copy, Default)]
pub(super) struct Mode {
    /// Quotes are read and kept.
    pub raw_quotes: bool,
    /// Escape characters are read and kept.
    pub raw_escapes: bool,
    /// Quotes are characters like any other.
    pub keep_quotes_unread: bool,
    /// Unset variables stay as written…
    pub keep_unset: bool,
    /// …but for those with a default.
    pub use_defaults: bool,
}

/// A text that is being expanded.
pub(super) struct Lexer<'a> {
    source: &'a str,
    rest: Peekable<Chars<'a>>,
    lookup: &'a Lookup<'a>,
    escape: char,
    mode: Mode,
    depth: usize,
    /// Variables it used.
    pub used: BTreeSet<String>,
    /// Variables it asked for that are not set.
    pub unset: BTreeSet<String>,
}

type Read<T> = Result<T, ExpandReason>;

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str, lookup: &'a Lookup<'a>, escape: char, mode: Mode) -> Self {
        Self {
            source,
            rest: source.chars().peekable(),
            lookup,
            escape,
            mode,
            depth: 0,
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    /// The text, and the words it is of.
    pub(super) fn run(&mut self) -> Result<(String, Vec<String>), ExpandError> {
        self.until(None, self.mode.raw_escapes)
            .map_err(|reason| ExpandError {
                word: shortened(self.source),
                reason,
            })
    }

    /// Reads up to a character outside quotes, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Read<(String, Vec<String>)> {
        let before = std::mem::replace(&mut self.mode.raw_escapes, raw_escapes);
        let read = self.read_until(stop);
        self.mode.raw_escapes = before;
        read
    }

    fn read_until(&mut self, stop: Option<char>) -> Read<(String, Vec<String>)> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(&c) = self.rest.peek() {
            if text.len() > LONGEST {
                return Err(ExpandReason::TooLong);
            }
            if stop == Some(c) {
                self.rest.next();
                return Ok((text, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    words.push_splitting(&value);
                    text.push_str(&value);
                }
                '<' => {
                    let mark = self.heredoc_mark();
                    words.push(&mark);
                    text.push_str(&mark);
                }
                '\'' | '"' if !self.mode.keep_quotes_unread => {
                    let quoted = if c == '"' {
                        self.double_quoted()?
                    } else {
                        self.single_quoted()?
                    };
                    words.push(&quoted);
                    text.push_str(&quoted);
                }
                _ => self.plain(&mut text, &mut words),
            }
        }
        match stop {
            None if text.len() > LONGEST => Err(ExpandReason::TooLong),
            None => Ok((text, words.finish())),
            Some('/') => Err(ExpandReason::MissingSlash),
            Some(_) => Err(ExpandReason::MissingBrace),
        }
    }

    /// One character that means itself, or an escape and what it escapes.
    fn plain(&mut self, text: &mut String, words: &mut Words) {
        let Some(c) = self.rest.next() else { return };
        if c != self.escape {
            words.push_char(c);
            text.push(c);
            return;
        }
        if self.mode.raw_escapes {
            words.push(c.encode_utf8(&mut [0; 4]));
            text.push(c);
        }
        // an escape at the very end escapes nothing and is dropped
        if let Some(escaped) = self.rest.next() {
            words.push(escaped.encode_utf8(&mut [0; 4]));
            text.push(escaped);
        }
    }

    fn single_quoted(&mut self) -> Read<String> {
        let mut text = String::new();
        let quote = self.rest.next();
        text.extend(quote.filter(|_| self.mode.raw_quotes));
        loop {
            match self.rest.next() {
                None => return Err(ExpandReason::OpenQuote("single")),
                Some('\'') => {
                    text.extend(quote.filter(|_| self.mode.raw_quotes));
                    return Ok(text);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Read<String> {
        let mut text = String::new();
        let quote = self.rest.next();
        text.extend(quote.filter(|_| self.mode.raw_quotes));
        loop {
            if text.len() > LONGEST {
                return Err(ExpandReason::TooLong);
            }
            match self.rest.peek() {
                None => return Err(ExpandReason::OpenQuote("double")),
                Some('"') => {
                    self.rest.next();
                    text.extend(quote.filter(|_| self.mode.raw_quotes));
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(&c) => {
                    self.rest.next();
                    let read = if c == self.escape {
                        self.escaped_in_quotes(&mut text)
                    } else {
                        c
                    };
                    text.push(read);
                }
            }
        }
    }

    /// What an escape inside double quotes stands for: it escapes only `"`, `$` and itself.
    fn escaped_in_quotes(&mut self, text: &mut String) -> char {
        let escape = self.escape;
        if self.mode.raw_escapes {
            text.push(escape);
        }
        let escapes = |c: &char| *c == '"' || *c == '$' || *c == escape;
        self.rest.next_if(escapes).unwrap_or(escape)
    }

    /// `<<` and the white space behind it belong to the word that follows.
    fn heredoc_mark(&mut self) -> String {
        let mut mark = String::new();
        mark.extend(self.rest.next());
        if let Some(second) = self.rest.next_if_eq(&'<') {
            mark.push(second);
            while let Some(space) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
                mark.push(space);
            }
        }
        mark
    }

    fn dollar(&mut self) -> Read<String> {
        self.rest.next();
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                Some(value) => value,
                None if self.mode.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        if self.depth >= DEEPEST {
            return Err(ExpandReason::TooDeep);
        }
        self.depth += 1;
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// What stands behind `${`.
    fn braces(&mut self) -> Read<String> {
        match self.rest.peek() {
            None => return Err(ExpandReason::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandReason::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            None => Err(ExpandReason::MissingBrace),
            Some('}') => Ok(match self.value(&name) {
                Some(value) => value,
                None if self.mode.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => match self.rest.next() {
                None => Err(ExpandReason::MissingBrace),
                Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, true, modifier),
                Some(other) => Err(ExpandReason::UnsupportedModifier(format!(":{other}"))),
            },
            Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, false, modifier),
            Some(modifier @ ('#' | '%')) => self.trimmed(&name, modifier),
            Some('/') => self.replaced(&name),
            Some(other) => Err(ExpandReason::UnsupportedModifier(other.to_string())),
        }
    }

    fn conditional(&mut self, name: &str, empty_is_unset: bool, modifier: char) -> Read<String> {
        let (word, _) = self.until(Some('}'), false)?;
        let value = self.value(name);
        let has_default = self.mode.use_defaults && modifier != '?';
        if value.is_none() && self.mode.keep_unset && !has_default {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let is_unset = value.is_none();
        let value = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (modifier, value) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('?', None) => {
                let plain = if is_unset {
                    "is not allowed to be unset"
                } else {
                    "is not allowed to be empty"
                };
                let message = if word.is_empty() {
                    plain.to_owned()
                } else {
                    word
                };
                Err(ExpandReason::Demanded {
                    name: name.to_owned(),
                    message,
                })
            }
            _ => Ok(String::new()),
        }
    }

    /// `${name#pattern}` and its kin.
    fn trimmed(&mut self, name: &str, modifier: char) -> Read<String> {
        let (word, _) = self.until(Some('}'), true)?;
        let value = self.value(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}{modifier}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (pattern, longest) = match word.strip_prefix(modifier) {
            Some(rest) => (rest, true),
            None => (word.as_str(), false),
        };
        let pattern = Pattern::new(pattern)?;
        Ok(match modifier {
            '#' => pattern.without_head(&value, longest),
            _ => pattern.without_tail(&value, longest),
        })
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`.
    fn replaced(&mut self, name: &str) -> Read<String> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let value = self.value(name);
        if value.is_none() && self.mode.keep_unset {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        Pattern::new(&pattern)?
            .replace(&value, &replacement, all, LONGEST)
            .ok_or(ExpandReason::TooLong)
    }

    /// A name behind `$`: letters, digits and `_`; digits only where it begins with one; or one
    /// of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self.rest.next_if(|c| "@*#?-$!".contains(*c)) {
            name.push(special);
            return name;
        }
        let positional = self.rest.peek().is_some_and(char::is_ascii_digit);
        let belongs = |c: &char| {
            if positional {
                c.is_ascii_digit()
            } else {
                c.is_alphanumeric() || *c == '_'
            }
        };
        while let Some(c) = self.rest.next_if(belongs) {
            name.push(c);
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        let names = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

/// Words as they come together.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    /// A character outside quotes.
    fn push_char(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    /// A value outside quotes.
    fn push_splitting(&mut self, text: &str) {
        text.chars().for_each(|c| self.push_char(c));
    }

    /// Quoted or escaped text: its white space separates nothing.
    fn push(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

/// The head of a text, for a message.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 120;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
