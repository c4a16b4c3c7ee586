//! One pattern of an ignore file.
//!
//! Most patterns are plain names, `name/**` or `**/name`, and are compared as such. The others
//! are read into tokens and followed through the path state by state, so the time is bounded by
//! the product of both lengths whatever the pattern.

use super::glob::{BadPattern, Class, decode, decode_last, glob_match};

/// A pattern, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    /// Whether it was written with a `!`.
    pub(super) is_exception: bool,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// The path itself.
    Exact(Vec<u8>),
    /// Everything that begins so.
    Prefix(Vec<u8>),
    /// Everything that ends so; where it begins with a slash, also the path without that slash.
    Suffix(Vec<u8>),
    /// All else.
    Tokens(Tokens),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Tokens {
    tokens: Vec<Token>,
    /// What every match begins with: looked at first.
    head: Vec<u8>,
    /// How many tokens at the end take one character each: looked at first, from the end.
    tail: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// This character.
    Literal(u32),
    /// Any character but a slash.
    AnyOne,
    /// Any run of characters without a slash.
    AnyRun,
    /// One of a set.
    Class(Class),
    /// Nothing, or any run of characters that ends in a slash.
    Directories,
    /// Any run of characters.
    Rest,
}

impl Pattern {
    /// Reads a cleaned pattern without its `!`.
    pub(super) fn new(text: &str, is_exception: bool) -> Result<Self, BadPattern> {
        // checks the form of the whole pattern
        glob_match(text.as_bytes(), b".")?;
        Ok(Self {
            is_exception,
            kind: read(text.as_bytes())?,
        })
    }

    /// Whether the pattern matches this path itself.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact(text) => path == text,
            Kind::Prefix(text) => path.starts_with(text),
            Kind::Suffix(text) => path.ends_with(text) || text.strip_prefix(b"/") == Some(path),
            Kind::Tokens(tokens) => tokens.matches(path),
        }
    }

    /// Whether the pattern may match some path below a directory.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        let is_below = |text: &[u8]| {
            text.strip_prefix(directory)
                .is_some_and(|rest| rest.len() > 1 && rest[0] == b'/')
        };
        match &self.kind {
            Kind::Exact(text) => is_below(text),
            Kind::Prefix(text) => {
                let covers =
                    text.strip_prefix(directory) == Some(b"/") || directory.starts_with(text);
                covers || is_below(text)
            }
            Kind::Suffix(_) => true,
            Kind::Tokens(tokens) => tokens.may_match_below(directory),
        }
    }
}

fn read(text: &[u8]) -> Result<Kind, BadPattern> {
    let mut tokens = Vec::new();
    let mut is_plain = true;
    let mut rest = text;
    // `**` at the very beginning, with nothing but plain text behind it
    let mut is_suffix = false;
    while !rest.is_empty() {
        let is_first = rest.len() == text.len();
        match rest {
            [b'*', b'*', behind @ ..] => {
                rest = behind.strip_prefix(b"/").unwrap_or(behind);
                if rest.is_empty() && is_plain && !is_suffix && !is_first {
                    return Ok(Kind::Prefix(text[..text.len() - 2].to_vec()));
                }
                if is_first {
                    is_suffix = true;
                } else {
                    is_plain = false;
                }
                tokens.push(if rest.is_empty() {
                    Token::Rest
                } else {
                    Token::Directories
                });
            }
            [b'*', behind @ ..] => {
                rest = behind;
                is_plain = false;
                tokens.push(Token::AnyRun);
            }
            [b'?', behind @ ..] => {
                rest = behind;
                is_plain = false;
                tokens.push(Token::AnyOne);
            }
            [b'[', behind @ ..] => {
                let (class, behind) = Class::read(behind)?;
                rest = behind;
                is_plain = false;
                tokens.push(Token::Class(class));
            }
            _ => {
                let literal = match rest {
                    [b'\\', behind @ ..] if !behind.is_empty() => {
                        is_plain = false;
                        behind
                    }
                    // a bracket that closes nothing is literal, but no plain text
                    [b']', ..] => {
                        is_plain = false;
                        rest
                    }
                    _ => rest,
                };
                let (c, length) = decode(literal);
                rest = &literal[length..];
                tokens.push(Token::Literal(c));
            }
        }
    }
    Ok(match (is_plain, is_suffix) {
        (true, true) => Kind::Suffix(text[2..].to_vec()),
        (true, false) => Kind::Exact(text.to_vec()),
        (false, _) => Kind::Tokens(Tokens::new(tokens)),
    })
}

impl Tokens {
    fn new(tokens: Vec<Token>) -> Self {
        let head = tokens
            .iter()
            .map_while(Token::literal)
            .collect::<String>()
            .into_bytes();
        let tail = tokens
            .iter()
            .rev()
            .take_while(|token| !token.is_run())
            .count();
        Self { tokens, head, tail }
    }

    fn matches(&self, path: &[u8]) -> bool {
        if !path.starts_with(&self.head) || !self.ends(path) {
            return false;
        }
        let states = self.follow(path);
        states.at[self.tokens.len()]
    }

    /// Whether the end of a path is what the end of the pattern wants. Most paths fail here.
    fn ends(&self, path: &[u8]) -> bool {
        let mut rest = path;
        for token in self.tokens.iter().rev().take(self.tail) {
            let (c, length) = decode_last(rest);
            if length == 0 || !token.takes(c) {
                return false;
            }
            rest = &rest[..rest.len() - length];
        }
        true
    }

    fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut path = directory.to_vec();
        path.push(b'/');
        let states = self.follow(&path);
        let unfinished = &states.at[..self.tokens.len()];
        unfinished.contains(&true) || states.inside.contains(&true)
    }

    fn follow(&self, path: &[u8]) -> States {
        let mut states = States::new(&self.tokens);
        let mut rest = path;
        while !rest.is_empty() && states.is_alive {
            let (c, length) = decode(rest);
            states.step(&self.tokens, c);
            rest = &rest[length..];
        }
        states
    }
}

impl Token {
    /// Whether the token takes any number of characters.
    fn is_run(&self) -> bool {
        matches!(self, Self::AnyRun | Self::Directories | Self::Rest)
    }

    /// Whether the token may take this character.
    fn takes(&self, c: u32) -> bool {
        match self {
            Self::Literal(literal) => c == *literal,
            Self::AnyOne | Self::AnyRun => c != u32::from('/'),
            Self::Class(class) => class.takes(c),
            Self::Directories | Self::Rest => true,
        }
    }

    fn literal(&self) -> Option<char> {
        match self {
            Self::Literal(c) => char::from_u32(*c),
            _ => None,
        }
    }
}

/// How far the tokens may have come.
struct States {
    /// `at[n]`: the first n tokens have matched all that was read.
    at: Vec<bool>,
    /// `inside[n]`: token n is [`Token::Directories`] and in the middle of its run.
    inside: Vec<bool>,
    is_alive: bool,
}

impl States {
    fn new(tokens: &[Token]) -> Self {
        let mut at = vec![false; tokens.len() + 1];
        at[0] = true;
        let mut states = Self {
            at,
            inside: vec![false; tokens.len()],
            is_alive: true,
        };
        states.skip(tokens);
        states
    }

    fn step(&mut self, tokens: &[Token], c: u32) {
        let slash = u32::from('/');
        let mut is_alive = false;
        let mut came = false;
        // `came`: the token before has just matched its last character
        for (n, token) in tokens.iter().enumerate() {
            let here = self.at[n];
            let takes = token.takes(c);
            let (stays, goes) = match token {
                Token::AnyRun | Token::Rest => (here && takes, false),
                Token::Directories => {
                    let inside = here || self.inside[n];
                    self.inside[n] = inside;
                    is_alive |= inside;
                    (false, inside && c == slash)
                }
                _ => (false, here && takes),
            };
            self.at[n] = came || stays;
            is_alive |= self.at[n];
            came = goes;
        }
        self.at[tokens.len()] = came;
        self.is_alive = is_alive || came;
        self.skip(tokens);
    }

    /// Runs may be empty.
    fn skip(&mut self, tokens: &[Token]) {
        for (n, token) in tokens.iter().enumerate() {
            if self.at[n] && token.is_run() {
                self.at[n + 1] = true;
            }
        }
    }
}
