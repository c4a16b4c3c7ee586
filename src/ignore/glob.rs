//! Go's `filepath.Match`, on bytes.

/// A pattern that isn't one: an open bracket, a range without an end, a backslash at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether `path` as a whole matches `pattern`.
///
/// `*` is any run of bytes without a slash, `?` one character but a slash, `[a-c]` and `[^a-c]`
/// one character, a backslash takes the next character literally.
///
/// # Errors
/// When the pattern is malformed, whether or not the path comes that far.
pub fn glob_match(pattern: &[u8], path: &[u8]) -> Result<bool, BadPattern> {
    let mut pattern = pattern;
    let mut path = path;
    'chunks: while !pattern.is_empty() {
        let (star, chunk, rest) = next_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            return Ok(!path.contains(&b'/'));
        }
        if let Some(behind) = match_chunk(chunk, path)?
            && (behind.is_empty() || !pattern.is_empty())
        {
            path = behind;
            continue;
        }
        if star {
            for at in 0..path.len() {
                if path[at] == b'/' {
                    break;
                }
                if let Some(behind) = match_chunk(chunk, &path[at + 1..])?
                    && (behind.is_empty() || !pattern.is_empty())
                {
                    path = behind;
                    continue 'chunks;
                }
            }
        }
        // no match, but the rest of the pattern may still be malformed
        while !pattern.is_empty() {
            let (_, chunk, rest) = next_chunk(pattern);
            pattern = rest;
            match_chunk(chunk, b"")?;
        }
        return Ok(false);
    }
    Ok(path.is_empty())
}

/// Whether a pattern has a wildcard that isn't escaped.
pub fn has_wildcards(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Splits a clean path into the components in front of the first one with a wildcard, and the
/// rest: links in the first part are followed, the second part is matched. The second part is
/// empty where there is no wildcard.
pub fn split_wildcards(pattern: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    for component in pattern.split(|byte| *byte == b'/') {
        if has_wildcards(component) {
            let head = match &pattern[..start] {
                [] => &pattern[..0],
                [b'/'] => &pattern[..1],
                [head @ .., _] => head,
            };
            return (head, &pattern[start..]);
        }
        start += component.len() + 1;
    }
    (pattern, &[])
}

/// Takes the stars at the front, then all up to the next star outside brackets.
fn next_chunk(pattern: &[u8]) -> (bool, &[u8], &[u8]) {
    let stars = pattern.iter().take_while(|byte| **byte == b'*').count();
    let pattern = &pattern[stars..];
    let mut in_brackets = false;
    let mut at = 0;
    while let Some(byte) = pattern.get(at) {
        match byte {
            b'\\' => at += 1,
            b'[' => in_brackets = true,
            b']' => in_brackets = false,
            b'*' if !in_brackets => break,
            _ => {}
        }
        at += 1;
    }
    let (chunk, rest) = pattern.split_at(at.min(pattern.len()));
    (stars > 0, chunk, rest)
}

/// Matches a chunk without stars at the front of a text: what is left of the text, or `None`.
fn match_chunk<'a>(chunk: &[u8], text: &'a [u8]) -> Result<Option<&'a [u8]>, BadPattern> {
    let mut chunk = chunk;
    // once failed, the chunk is only checked for its form
    let mut text = Some(text);
    while let [first, rest @ ..] = chunk {
        text = text.filter(|text| !text.is_empty());
        match first {
            b'[' => {
                let (class, behind) = Class::read(rest)?;
                chunk = behind;
                text = text.and_then(|text| {
                    let (c, length) = decode(text);
                    class.takes(c).then(|| &text[length..])
                });
            }
            b'?' => {
                chunk = rest;
                text = text
                    .filter(|text| text[0] != b'/')
                    .map(|text| &text[decode(text).1..]);
            }
            _ => {
                let literal = match (first, rest) {
                    (b'\\', [escaped, behind @ ..]) => {
                        chunk = behind;
                        escaped
                    }
                    (b'\\', []) => return Err(BadPattern),
                    _ => {
                        chunk = rest;
                        first
                    }
                };
                text = text
                    .filter(|text| text[0] == *literal)
                    .map(|text| &text[1..]);
            }
        }
    }
    Ok(text)
}

/// `[a-c]` or `[^a-c]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Class {
    is_negated: bool,
    ranges: Vec<(u32, u32)>,
}

impl Class {
    /// Reads a class behind its `[`, and what follows its `]`.
    pub(super) fn read(text: &[u8]) -> Result<(Self, &[u8]), BadPattern> {
        let (is_negated, mut text) = match text {
            [b'^', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let mut ranges = Vec::new();
        loop {
            if let [b']', rest @ ..] = text
                && !ranges.is_empty()
            {
                return Ok((Self { is_negated, ranges }, rest));
            }
            let (low, rest) = bound(text)?;
            text = rest;
            let mut high = low;
            if let [b'-', rest @ ..] = text {
                (high, text) = bound(rest)?;
            }
            ranges.push((low, high));
        }
    }

    pub(super) fn takes(&self, c: u32) -> bool {
        let is_in = self
            .ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&c));
        is_in != self.is_negated
    }
}

/// One end of a range.
fn bound(text: &[u8]) -> Result<(u32, &[u8]), BadPattern> {
    let text = match text {
        [] | [b'-' | b']', ..] => return Err(BadPattern),
        [b'\\', rest @ ..] => rest,
        _ => text,
    };
    let (c, length) = if text.is_empty() {
        return Err(BadPattern);
    } else {
        decode(text)
    };
    let rest = &text[length..];
    // a class always has its `]`, so something must follow
    if c >= INVALID || rest.is_empty() {
        return Err(BadPattern);
    }
    Ok((c, rest))
}

/// Codes from here on are bytes that aren't UTF-8: each is a character of its own.
const INVALID: u32 = 0x11_0000;

/// The first character of a text that isn't empty, and its length in bytes.
pub(super) fn decode(text: &[u8]) -> (u32, usize) {
    let Some(&first) = text.first() else {
        return (INVALID, 0);
    };
    if first < 0x80 {
        return (u32::from(first), 1);
    }
    let head = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(c) => (u32::from(c), c.len_utf8()),
        None => (INVALID + u32::from(first), 1),
    }
}

/// The last character of a text, and its length in bytes: zero where the text is empty.
pub(super) fn decode_last(text: &[u8]) -> (u32, usize) {
    let is_inside = |byte: &u8| byte & 0xc0 == 0x80;
    let behind = text
        .iter()
        .rev()
        .take(3)
        .take_while(|byte| is_inside(byte))
        .count();
    let start = text.len().saturating_sub(behind + 1);
    let (c, length) = decode(&text[start..]);
    if start + length == text.len() {
        return (c, length);
    }
    // the last byte belongs to no character before it
    decode(&text[text.len() - 1..])
}
