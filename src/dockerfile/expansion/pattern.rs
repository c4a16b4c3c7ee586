//! The patterns of `${name#pattern}` and `${name/pattern/text}`.
//!
//! `*` is any run of characters, `?` any one, a backslash takes `*`, `?`, `}`, `/` and itself
//! literally. Brackets mean themselves. Neither `*` nor `?` matches a line break.

use super::ExpandReason;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Literal(char),
    AnyOne,
    AnyRun,
}

impl Token {
    fn takes(self, c: char) -> bool {
        match self {
            Self::Literal(literal) => literal == c,
            Self::AnyOne | Self::AnyRun => c != '\n',
        }
    }
}

/// A pattern, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, ExpandReason> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' => Token::AnyRun,
                '?' => Token::AnyOne,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                    other => {
                        return Err(ExpandReason::Pattern {
                            pattern: text.to_owned(),
                            escaped: other.map(String::from).unwrap_or_default(),
                        });
                    }
                },
                other => Token::Literal(other),
            };
            // two runs match what one does
            if token != Token::AnyRun || tokens.last() != Some(&Token::AnyRun) {
                tokens.push(token);
            }
        }
        Ok(Self(tokens))
    }

    /// The value without the shortest or longest head that matches.
    pub(super) fn without_head(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match match_length(self.0.iter().copied(), chars.iter().copied(), longest) {
            Some(length) => chars[length..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// The value without the shortest or longest tail that matches.
    pub(super) fn without_tail(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match match_length(
            self.0.iter().rev().copied(),
            chars.iter().rev().copied(),
            longest,
        ) {
            Some(length) => chars[..chars.len() - length].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// The value with the first match, or every one, replaced. Matches are as long as can be.
    /// `None` where the result would be longer than `limit` bytes.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        limit: usize,
    ) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        // an empty match right behind a match is none
        let mut behind_match = None;
        let mut more = true;
        while at <= chars.len() {
            let rest = &chars[at..];
            let found = if more {
                match_length(self.0.iter().copied(), rest.iter().copied(), true)
            } else {
                None
            };
            if let Some(length) = found.filter(|length| *length > 0 || behind_match != Some(at)) {
                out.push_str(replacement);
                more = all;
                at += length;
                behind_match = Some(at);
                if length > 0 {
                    continue;
                }
            }
            if out.len() > limit {
                return None;
            }
            out.extend(chars.get(at));
            at += 1;
        }
        (out.len() <= limit).then_some(out)
    }
}

/// How many characters from the first one on match: as few or as many as can be.
fn match_length(
    tokens: impl Iterator<Item = Token>,
    chars: impl Iterator<Item = char>,
    longest: bool,
) -> Option<usize> {
    let tokens: Vec<Token> = tokens.collect();
    // states[n]: the first n tokens have matched what was read
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    skip_runs(&tokens, &mut states);
    let mut found = states[tokens.len()].then_some(0);
    for (read, c) in chars.enumerate() {
        if found.is_some() && !longest {
            break;
        }
        // downwards, so that a character is taken once
        let mut alive = false;
        for n in (0..=tokens.len()).rev() {
            let stays = states[n] && tokens.get(n) == Some(&Token::AnyRun) && c != '\n';
            let comes =
                n > 0 && states[n - 1] && tokens[n - 1] != Token::AnyRun && tokens[n - 1].takes(c);
            states[n] = stays || comes;
            alive |= states[n];
        }
        if !alive {
            break;
        }
        skip_runs(&tokens, &mut states);
        if states[tokens.len()] {
            found = Some(read + 1);
        }
    }
    found
}

/// A run may match nothing.
fn skip_runs(tokens: &[Token], states: &mut [bool]) {
    for (n, token) in tokens.iter().enumerate() {
        if states[n] && *token == Token::AnyRun {
            states[n + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_tails() {
        for (pattern, value, expected) in [
            ("*x*y", "xxyy", ["y", "", "x", ""]),
            ("*", "abc", ["abc", "", "abc", ""]),
            ("", "abc", ["abc", "abc", "abc", "abc"]),
            ("a?", "abab", ["ab", "ab", "ab", "ab"]),
            ("*/", "a/b/c", ["b/c", "c", "a/b/c", "a/b/c"]),
            (".*", "a.b.c", ["a.b.c", "a.b.c", "a.b", "a"]),
            ("[a]", "[a]b", ["b", "b", "[a]b", "[a]b"]),
            ("*c", "a\nc", ["a\nc", "a\nc", "a\n", "a\n"]),
            ("é*", "éè", ["è", "", "", ""]),
        ] {
            let read = Pattern::new(pattern).unwrap();
            let found = [
                read.without_head(value, false),
                read.without_head(value, true),
                read.without_tail(value, false),
                read.without_tail(value, true),
            ];
            assert_eq!(found, expected, "{pattern} {value}");
        }
    }

    #[test]
    fn replacements() {
        for (pattern, value, first, all) in [
            ("a", "banana", "b-nana", "b-n-n-"),
            ("a*a", "banana", "b-", "b-"),
            ("", "xy", "-xy", "-x-y-"),
            ("*", "xy", "-", "-"),
            ("z", "xy", "xy", "xy"),
            ("\\*/", "/foo*/*/*.txt", "/foo-*/*.txt", "/foo--*.txt"),
        ] {
            let read = Pattern::new(pattern).unwrap();
            assert_eq!(
                read.replace(value, "-", false, 99).as_deref(),
                Some(first),
                "{pattern}"
            );
            assert_eq!(
                read.replace(value, "-", true, 99).as_deref(),
                Some(all),
                "{pattern}"
            );
        }
        assert_eq!(
            Pattern::new("a")
                .unwrap()
                .replace("aaaa", "0123456789", true, 20),
            None
        );
    }

    #[test]
    fn only_special_characters_can_be_escaped() {
        for text in ["\\a", "\\", "x\\y"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
