//! Any word of a Dockerfile, expanded.
//!
//! Nothing panics; a word without a variable, a quote or an escape stays what it is; and what
//! comes out is no longer than the limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::expansion::{expand, expand_for_display, expand_heredoc, expand_words};

fuzz_target!(|input: (&str, &str, bool)| {
    let (word, value, has_backtick) = input;
    let escape = if has_backtick { '`' } else { '\\' };
    let lookup = |name: &str| match name {
        "a" | "V" => Some(value.to_owned()),
        "empty" => Some(String::new()),
        _ => None,
    };
    let expanded = expand(word, &lookup, escape);
    if !word.contains(['$', '\'', '"', escape]) {
        assert_eq!(expanded.as_deref(), Ok(word));
    }
    let _ = expand_words(word, &lookup, escape);
    let _ = expand_heredoc(word, &lookup);
    let _ = expand_for_display(word, &lookup, escape);
});
