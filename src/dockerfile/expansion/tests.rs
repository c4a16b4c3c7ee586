use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn with(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    move |name| variables.get(name).cloned()
}

#[test]
fn names_used_and_unset_are_told() {
    let lookup = with(&[("FOO", "xxx"), ("BAR", "")]);
    for (word, text, used, unset) in [
        ("x", "x", vec![], vec![]),
        ("x ${UNUSED}", "x ", vec![], vec!["UNUSED"]),
        (
            "${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}",
            "xxx  ccc",
            vec!["BAR", "FOO"],
            vec!["BAZ"],
        ),
        (
            "${FOO:-aaa} ${BAR:-bbb} ${BAZ:-ccc}",
            "xxx bbb ccc",
            vec!["BAR", "FOO"],
            vec!["BAZ"],
        ),
        (
            "${FOO+aaa} ${BAR+bbb} ${BAZ+ccc}",
            "aaa bbb ",
            vec!["BAR", "FOO"],
            vec!["BAZ"],
        ),
        (
            "${FOO:+aaa} ${BAR:+bbb} ${BAZ:+ccc}",
            "aaa  ",
            vec!["BAR", "FOO"],
            vec!["BAZ"],
        ),
        (
            "${FOO?a}${BAR?b}${FOO:?c}",
            "xxxxxx",
            vec!["BAR", "FOO"],
            vec![],
        ),
    ] {
        let found = expand_with_names(word, &lookup, '\\').unwrap();
        assert_eq!(found.text, text, "{word}");
        assert_eq!(
            found.used.iter().map(String::as_str).collect::<Vec<_>>(),
            used,
            "{word}"
        );
        assert_eq!(
            found.unset.iter().map(String::as_str).collect::<Vec<_>>(),
            unset,
            "{word}"
        );
    }
}

#[test]
fn patterns_and_replacements() {
    for (word, variables, expected) in [
        (
            "${FOO#()[]{\\}^$.\\*\\?|\\\\}",
            vec![("FOO", "()[]{}^$.*?|\\x")],
            "x",
        ),
        ("${FOO%%\\**}", vec![("FOO", "xx**")], "xx"),
        ("${FOO#*x*y}", vec![("FOO", "xxyy")], "y"),
        ("${FOO#$BAR}", vec![("FOO", "xxyy"), ("BAR", "x")], "xyy"),
        ("${FOO#}", vec![("FOO", "xxyy")], "xxyy"),
        ("${FOO##*x}", vec![("FOO", "xxyy")], "yy"),
        ("${FOO##}", vec![("FOO", "xxyy")], "xxyy"),
        ("${FOO#?\\?}", vec![("FOO", "???y")], "?y"),
        (
            "${ABC:-.}${FOO%x}${ABC:-.}",
            vec![("FOO", "xxyy")],
            ".xxyy.",
        ),
        ("${FOO%%\\**\\*}", vec![("FOO", "a***yy*")], "a"),
        ("${FOO%%$BAR}", vec![("FOO", "xxyy"), ("BAR", "")], "xxyy"),
        (
            "${FOO/$NEEDLE/.} - ${FOO//$NEEDLE/.}",
            vec![("FOO", "/foo*/*/*.txt"), ("NEEDLE", "\\*/")],
            "/foo.*/*.txt - /foo..*.txt",
        ),
        (
            "${FOO/$NEEDLE/} - ${FOO//$NEEDLE/}",
            vec![("FOO", "/tmp/tmp/bar.txt"), ("NEEDLE", "/tmp")],
            "/tmp/bar.txt - /bar.txt",
        ),
        (
            "${FOO/$NEEDLE/$BY} - ${FOO//$NEEDLE/$BY}",
            vec![("FOO", "/a/foo/b/c.txt"), ("NEEDLE", "/?/"), ("BY", "/")],
            "/foo/b/c.txt - /foo/c.txt",
        ),
        (
            "${FOO//\\//\\/}",
            vec![("FOO", "/tmp/foo.txt")],
            "\\/tmp\\/foo.txt",
        ),
        (
            "${FOO/$BAR/ww}",
            vec![("FOO", "xxyy"), ("BAR", "")],
            "wwxxyy",
        ),
        ("${FOO///}", vec![("FOO", "xxyy")], "xxyy"),
        ("${FOO///}", vec![], ""),
    ] {
        assert_eq!(
            expand(word, &with(&variables), '\\').unwrap(),
            expected,
            "{word}"
        );
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let lookup = with(&[("FOO", "xxx"), ("BAR", "")]);
    for (word, expected) in [
        (
            "'x",
            "unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"x",
            "unexpected end of statement while looking for matching double-quote",
        ),
        ("${FOO", "syntax error: missing '}'"),
        ("${FOO:", "syntax error: missing '}'"),
        ("${FOO:-x", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${FOO=a}", "unsupported modifier (=) in substitution"),
        ("${FOO:=a}", "unsupported modifier (:=) in substitution"),
        ("${FOO:#}", "unsupported modifier (:#) in substitution"),
        ("${FOO:%%}", "unsupported modifier (:%) in substitution"),
        ("${BAZ?}", "BAZ: is not allowed to be unset"),
        ("${BAR:?}", "BAR: is not allowed to be empty"),
        ("${BAZ:?set it}", "BAZ: set it"),
        ("${FOO//}", "syntax error: missing '/' in ${}"),
        ("${FOO/a/b", "syntax error: missing '}'"),
        (
            "${FOO#\\a}",
            "invalid pattern (\\a) in substitution: invalid escape '\\a'",
        ),
    ] {
        let error = expand(word, &lookup, '\\').unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("failed to process {word:?}: {expected}")
        );
    }
}

#[test]
fn the_escape_character_is_the_dockerfiles() {
    let lookup = with(&[("a", "1")]);
    assert_eq!(expand("`$a\\$a", &lookup, '`').unwrap(), "$a\\1");
    assert_eq!(expand("C:\\$a", &lookup, '`').unwrap(), "C:\\1");
}

#[test]
fn heredocs_keep_quotes() {
    let lookup = with(&[("a", "1")]);
    for (content, expected) in [
        ("'$a' \"$a\" don't", "'1' \"1\" don't"),
        ("\\$a \\\\ \\n ${b:-x}", "$a \\ n x"),
        ("a <<b $", "a <<b $"),
    ] {
        assert_eq!(
            expand_heredoc(content, &lookup).unwrap(),
            expected,
            "{content}"
        );
    }
}

#[test]
fn display_keeps_what_it_can_not_replace() {
    let lookup = with(&[("a", "1")]);
    for (text, expected) in [
        (
            "RUN echo $a $b ${c} ${d:-x} ${e/f/g}",
            "RUN echo 1 $b ${c} ${d:-x} ${e/f/g}",
        ),
        ("RUN echo '$a' \"$a\"", "RUN echo '$a' \"1\""),
        ("RUN echo it's $a", "RUN echo it's $a"),
        (
            "RUN --mount=type=cache,target=${t:-/c}  --network=none echo ${d:-x}",
            "RUN --mount=type=cache,target=/c  --network=none echo ${d:-x}",
        ),
        (
            "COPY --chown=${u:-5}:$a ${s} ${d:+x}/y",
            "COPY --chown=5:1 ${s} /y",
        ),
    ] {
        assert_eq!(expand_for_display(text, &lookup, '\\'), expected);
    }
}

#[test]
fn values_are_never_expanded_again() {
    let lookup = with(&[("a", "$b '\\x"), ("b", "no")]);
    assert_eq!(expand("$a", &lookup, '\\').unwrap(), "$b '\\x");
    assert_eq!(expand("${c:-$a}", &lookup, '\\').unwrap(), "$b '\\x");
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = "${a:-".repeat(100_000);
    assert_eq!(
        expand(&deep, &|_| None, '\\').unwrap_err().reason,
        ExpandReason::TooDeep
    );
    let long = "x".repeat(1 << 20);
    let lookup = |_: &str| Some(long.clone());
    let word = "$a".repeat(100);
    for text in [
        word.clone(),
        format!("\"{word}\""),
        "${a//x/yyyyyyyyyyyyyyyyyyyy}".to_owned(),
    ] {
        let error = expand(&text, &lookup, '\\').unwrap_err();
        assert_eq!(error.reason, ExpandReason::TooLong);
    }
}

#[test]
fn words_split_outside_quotes() {
    let lookup = with(&[("s", "a  b"), ("empty", "")]);
    for (text, expected) in [
        ("x$s y", vec!["xa", "b", "y"]),
        ("x\"$s\" y", vec!["xa  b", "y"]),
        ("x${none:-1 2}y", vec!["x1", "2y"]),
        ("a\\ b \"\" c$empty", vec!["a b", "c"]),
    ] {
        assert_eq!(
            expand_words(text, &lookup, '\\').unwrap(),
            expected,
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn never_panics(word in "([$'\"\\\\{}:#%/*?<` -]|[a-c]|\\PC){0,60}", value in ".{0,20}") {
        for escape in ['\\', '`'] {
            let lookup = |name: &str| (!name.starts_with('b')).then(|| value.clone());
            let _ = expand(&word, &lookup, escape);
            let _ = expand_words(&word, &lookup, escape);
            let _ = expand_heredoc(&word, &lookup);
            let _ = expand_for_display(&word, &lookup, escape);
        }
    }

    #[test]
    fn a_word_without_special_characters_is_itself(word in "[^$'\"\\\\]{0,60}") {
        prop_assert_eq!(expand(&word, &|_| None, '\\').unwrap(), word);
    }

    #[test]
    fn single_quotes_keep_everything(word in "[^']{0,60}") {
        let quoted = format!("'{word}'");
        prop_assert_eq!(expand(&quoted, &|_| None, '\\').unwrap(), word);
    }
}
