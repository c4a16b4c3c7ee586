//! Any ignore file, asked about any path.
//!
//! Nothing panics, and the two ways of asking agree: about a path as a whole, and on a walk from
//! the root down.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::ignore::{Matcher, read_patterns};

fuzz_target!(|input: (&[u8], &[u8])| {
    let (file, path) = input;
    let Ok(matcher) = Matcher::new(&read_patterns(file)) else {
        return;
    };
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    if parts
        .iter()
        .any(|part| part.is_empty() || *part == b"." || *part == b"..")
    {
        let _ = matcher.excluded(path);
        return;
    }
    let mut above = matcher.root();
    for depth in 1..=parts.len() {
        let at = parts[..depth].join(&b'/');
        let excluded = matcher.excluded(&at);
        assert_eq!(matcher.excluded_below(&at, &above), excluded);
        let (entered, own) = matcher.enter(&at, &above);
        assert_eq!(entered, excluded);
        // A walk leaves out what lies below an excluded directory if nothing brings it back.
        if excluded && depth < parts.len() && !matcher.may_have_exceptions_below(&at) {
            assert!(matcher.excluded(path));
        }
        above = own;
    }
});
