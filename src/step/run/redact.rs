//! Keeps the secrets that a step mounts out of what it is seen to print.
//!
//! Every literal occurrence of a secret's value becomes `***`, also where it comes in several
//! pieces: what may be the beginning of a value waits for what follows. A value of several lines
//! (a key, a credentials file) is looked for line by line. White space at the ends doesn't count,
//! since nearly every tool adds or drops a newline there. Values too short to tell apart from
//! ordinary text are left alone, and so is whatever a step has encoded or split up.

use std::collections::VecDeque;
use std::sync::Arc;

/// What stands for a secret.
const MASK: &[u8] = b"***";
/// The shortest value that is masked, in bytes.
const SHORTEST_VALUE: usize = 4;
/// The shortest line of a value of several lines that is masked.
const SHORTEST_LINE: usize = 8;

/// The values to look for, as an automaton of Aho and Corasick: one state for each beginning of
/// a value, the empty one first.
pub(super) struct Values {
    states: Vec<State>,
}

#[derive(Default)]
struct State {
    /// The states that one more byte leads to, sorted by that byte.
    next: Vec<(u8, usize)>,
    /// The longest proper end of this beginning that is a beginning itself.
    fail: usize,
    /// The length of this beginning.
    depth: usize,
    /// The length of the longest value that ends here, if one does.
    found: usize,
}

impl Values {
    /// The values of the secrets that a step sees; `None` where there's nothing to look for.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Arc<Self>> {
        let mut values = Self {
            states: vec![State::default()],
        };
        for secret in secrets {
            let secret = secret.trim_ascii();
            if !secret.contains(&b'\n') {
                if secret.len() >= SHORTEST_VALUE {
                    values.add(secret);
                }
                continue;
            }
            for line in secret.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
                if line.len() >= SHORTEST_LINE {
                    values.add(line);
                }
            }
        }
        if values.states.len() == 1 {
            return None;
        }
        values.link();
        Some(Arc::new(values))
    }

    fn add(&mut self, value: &[u8]) {
        let mut at = 0;
        for (depth, &byte) in value.iter().enumerate() {
            at = match self.states[at].edge(byte) {
                Ok(next) => next,
                Err(place) => {
                    let next = self.states.len();
                    self.states.push(State {
                        depth: depth + 1,
                        ..State::default()
                    });
                    self.states[at].next.insert(place, (byte, next));
                    next
                }
            };
        }
        self.states[at].found = value.len();
    }

    /// Finds where to go on after a mismatch, shorter beginnings first.
    fn link(&mut self) {
        let mut open: VecDeque<usize> = self.states[0].next.iter().map(|edge| edge.1).collect();
        while let Some(state) = open.pop_front() {
            for (byte, next) in self.states[state].next.clone() {
                let fail = self.step(self.states[state].fail, byte);
                self.states[next].fail = fail;
                self.states[next].found = self.states[next].found.max(self.states[fail].found);
                open.push_back(next);
            }
        }
    }

    fn step(&self, mut at: usize, byte: u8) -> usize {
        loop {
            match self.states[at].edge(byte) {
                Ok(next) => return next,
                Err(_) if at == 0 => return 0,
                Err(_) => at = self.states[at].fail,
            }
        }
    }
}

impl State {
    fn edge(&self, byte: u8) -> Result<usize, usize> {
        self.next
            .binary_search_by_key(&byte, |edge| edge.0)
            .map(|place| self.next[place].1)
    }
}

/// Masks values in one stream.
pub(super) struct Redactor {
    values: Arc<Values>,
    state: usize,
    /// Bytes that may yet turn out to belong to a value, and whether they do.
    waiting: VecDeque<(u8, bool)>,
    /// Whether the last byte given out belonged to a value.
    masked: bool,
}

impl Redactor {
    /// Looks for `values`.
    pub(super) fn new(values: Arc<Values>) -> Self {
        Self {
            values,
            state: 0,
            waiting: VecDeque::new(),
            masked: false,
        }
    }

    /// Takes a piece of the stream and gives what can be shown by now.
    pub(super) fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(piece.len());
        for &byte in piece {
            self.state = self.values.step(self.state, byte);
            self.waiting.push_back((byte, false));
            let state = &self.values.states[self.state];
            for (_, masked) in self.waiting.iter_mut().rev().take(state.found) {
                *masked = true;
            }
            let keep = state.depth;
            self.give(keep, &mut shown);
        }
        shown
    }

    /// What is left at the stream's end.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        self.give(0, &mut shown);
        shown
    }

    /// Gives out all but the last `keep` bytes.
    fn give(&mut self, keep: usize, shown: &mut Vec<u8>) {
        while self.waiting.len() > keep {
            let Some((byte, masked)) = self.waiting.pop_front() else {
                return;
            };
            match (masked, self.masked) {
                (true, false) => shown.extend_from_slice(MASK),
                (true, true) => {}
                (false, _) => shown.push(byte),
            }
            self.masked = masked;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(secrets: &[&[u8]], pieces: &[&[u8]]) -> String {
        let Some(values) = Values::new(secrets.iter().copied()) else {
            return String::from_utf8(pieces.concat()).unwrap();
        };
        let mut redactor = Redactor::new(values);
        let mut shown: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| redactor.take(piece))
            .collect();
        shown.extend(redactor.finish());
        String::from_utf8_lossy(&shown).into_owned()
    }

    #[test]
    fn values_are_masked() {
        type Pieces = &'static [&'static [u8]];
        let cases: &[(Pieces, Pieces, &str)] = &[
            (&[b"hunter22\n"], &[b"is hunter22\n"], "is ***\n"),
            (&[b"hunter22"], &[b"is hun", b"ter", b"22!"], "is ***!"),
            (&[b"hunter22"], &[b"hunter2"], "hunter2"),
            (&[b"hunter22"], &[b"hunthunter22"], "hunt***"),
            (&[b"hunter22"], &[b"hunter22hunter22 "], "*** "),
            (&[b"abcabd"], &[b"abcabcabd"], "abc***"),
            (
                &[b"secret", b"secretive"],
                &[b"secretive secret"],
                "*** ***",
            ),
            (&[b"secretive", b"cret"], &[b"secret"], "se***"),
            (
                &[b"first line\r\nsecond line\n}\n"],
                &[b"> second line\n}\n"],
                "> ***\n}\n",
            ),
            (&[b"abc"], &[b"abc"], "abc"),
            (&[b" \n "], &[b" \n "], " \n "),
            (&[], &[b"x"], "x"),
        ];
        for (secrets, pieces, shown) in cases {
            assert_eq!(redacted(secrets, pieces), *shown);
        }
    }

    #[test]
    fn nothing_waits_that_can_be_no_secret() {
        let mut redactor = Redactor::new(Values::new([&b"hunter22"[..]]).unwrap());
        assert_eq!(redactor.take(b"password: "), b"password: ");
        assert_eq!(redactor.take(b"hunt"), b"");
        assert_eq!(redactor.take(b"er"), b"");
        assert_eq!(redactor.take(b"s"), b"hunters");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            secrets in proptest::collection::vec("[ab]{4,6}", 1..4),
            pieces in proptest::collection::vec("[abc]{0,12}", 0..6),
        ) {
            let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
            let whole = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(String::as_bytes).collect();
            let shown = redacted(&secrets, &pieces);
            prop_assert_eq!(&shown, &redacted(&secrets, &[whole.as_bytes()]));
            for secret in &secrets {
                prop_assert!(!shown.contains(std::str::from_utf8(secret).unwrap()));
            }
        }
    }
}
