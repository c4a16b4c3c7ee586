use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn corpus(name: &str) -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/corpora/dockerignore")
        .join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            println!("skipped: {}: {error}", path.display());
            None
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_row_of_the_matching_corpus() {
    let Some(rows) = corpus("match.json") else {
        return;
    };
    let rows = rows.as_array().unwrap();
    assert!(rows.len() > 100);
    for row in rows {
        let path = row["path"].as_str().unwrap();
        let found = Matcher::new(&strings(&row["patterns"]))
            .map(|matcher| matcher.excluded(path.as_bytes()));
        match found {
            Ok(found) => {
                assert_eq!(row["error"].as_bool(), Some(false), "{row}");
                assert_eq!(Some(found), row["match"].as_bool(), "{row}");
            }
            Err(error) => assert_eq!(row["error"].as_bool(), Some(true), "{row}: {error}"),
        }
    }
}

#[test]
fn the_corpus_ignore_file() {
    let Some(file) = corpus("readall.json") else {
        return;
    };
    let read = read_patterns(file["content"].as_str().unwrap().as_bytes());
    assert_eq!(read, strings(&file["expect"]));
}

#[test]
fn ignore_files_are_cleaned() {
    let content = b"\xef\xbb\xbf# no\n #yes\r\n/a//b/../c/\n\n  ! /d/ \n./e\n..\n/\n!\n";
    assert_eq!(
        read_patterns(content),
        ["#yes", "a/c", "!d", "e", "..", "/", "!"]
    );
}

fn excluded(patterns: &[&str], path: &str) -> bool {
    Matcher::new(patterns).unwrap().excluded(path.as_bytes())
}

#[test]
fn the_last_pattern_that_applies_decides() {
    for (patterns, path, expected) in [
        (vec!["*", "!a"], "a", false),
        (vec!["*", "!a"], "b", true),
        (vec!["*", "!a", "a/b"], "a/c", false),
        (vec!["*", "!a", "a/b"], "a/b", true),
        (vec!["a", "!a/b/c"], "a/b/c", false),
        (vec!["a", "!a/b/c"], "a/b", true),
        (vec!["**/node_modules"], "x/node_modules/y", true),
        (vec!["**/*.log", "!keep/**"], "keep/a.log", false),
        (vec!["a/**/b"], "a/b", true),
        (vec!["a/**/b"], "a/x/y/b", true),
        (vec!["a/**/b"], "ax/b", false),
        (vec!["a?c/[x-z]*"], "abc/you", true),
        (vec!["a?c/[x-z]*"], "a/c/you", false),
        (vec!["[*]"], "*", true),
        (vec!["[*]"], "a", false),
        (vec!["a\\?"], "a?", true),
        (vec!["**"], ".", false),
        (vec!["."], "a", false),
        (vec!["\u{e9}*"], "\u{e9}t\u{e9}", true),
    ] {
        assert_eq!(excluded(&patterns, path), expected, "{patterns:?} {path}");
    }
}

#[test]
fn a_directory_excluded_twice_stays_so() {
    let matcher = Matcher::new(&["*", "!**/*.md", "vendor"]).unwrap();
    assert!(matcher.excluded(b"vendor/x.md"));
    let (_, inherited) = matcher.enter(b"vendor", &matcher.root());
    assert!(matcher.excluded_below(b"vendor/x.md", &inherited));
    assert!(!matcher.excluded(b"x.md"));
}

#[test]
fn paths_need_not_be_utf8() {
    let matcher = Matcher::new(&["a?b", "x*"]).unwrap();
    assert!(matcher.excluded(b"a\xffb"));
    assert!(matcher.excluded(b"x\xff\xfe"));
    assert!(!matcher.excluded(b"a\xff\xfeb"));
}

#[test]
fn characters_are_the_same_from_both_ends() {
    for text in ["", "a", "\u{e9}", "a\u{263a}", "\u{1f600}"] {
        let mut forwards = Vec::new();
        for tail in [
            &b""[..],
            b"\xe2\x98",
            b"\x80\x80\x80\x80",
            b"\xff",
            b"\xc3\xa9",
        ] {
            let bytes = [text.as_bytes(), tail].concat();
            forwards.clear();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (c, length) = glob::decode(rest);
                forwards.push(c);
                rest = &rest[length..];
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (c, length) = glob::decode_last(rest);
                assert_eq!(forwards.pop(), Some(c), "{bytes:?}");
                rest = &rest[..rest.len() - length];
            }
            assert!(forwards.is_empty(), "{bytes:?}");
        }
    }
}

#[test]
fn exceptions_below_a_directory() {
    for (exception, directory, expected) in [
        ("!a/b", "a", true),
        ("!a/b", "b", false),
        ("!a/b", "a/b", false),
        ("!ab", "a", false),
        ("!**/x", "a", true),
        ("!a/**", "a", true),
        ("!a/**", "a/b", true),
        ("!a/**", "b", false),
        ("!*/x", "a", true),
        ("!*/x", "a/b", false),
        ("!*.md", "a", false),
        ("!a/**/x*", "a/b/c", true),
        ("!a/**/x*", "b", false),
    ] {
        let matcher = Matcher::new(&["*", exception]).unwrap();
        assert_eq!(
            matcher.may_have_exceptions_below(directory.as_bytes()),
            expected,
            "{exception} {directory}"
        );
    }
    assert!(
        !Matcher::new(&["*"])
            .unwrap()
            .may_have_exceptions_below(b"a")
    );
}

#[test]
fn globs_stay_inside_a_component() {
    for (pattern, path, expected) in [
        ("a*", "abc", Ok(true)),
        ("a*", "ab/c", Ok(false)),
        ("a*/b", "abc/b", Ok(true)),
        ("a*/b", "a/c/b", Ok(false)),
        ("**/b", "a/b", Ok(true)),
        ("**/b", "a/a/b", Ok(false)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Ok(true)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Ok(false)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
        ("ab[^b-d]", "abc", Ok(false)),
        ("a???b", "a\u{263a}b", Ok(false)),
        ("a?b", "a\u{263a}b", Ok(true)),
        ("[a-\u{3b6}]*", "\u{3b1}", Ok(true)),
        ("a\\*b", "a*b", Ok(true)),
        ("*x", "xxx", Ok(true)),
        ("", "", Ok(true)),
        ("[", "a", Err(BadPattern)),
        ("a[", "ab", Err(BadPattern)),
        ("x[", "ab", Err(BadPattern)),
        ("[a-b-c]", "a", Err(BadPattern)),
        ("[]a]", "]", Err(BadPattern)),
        ("a\\", "a", Err(BadPattern)),
    ] {
        assert_eq!(
            glob_match(pattern.as_bytes(), path.as_bytes()),
            expected,
            "{pattern} {path}"
        );
    }
}

#[test]
fn the_part_before_the_wildcards() {
    for (pattern, head, tail) in [
        ("a/b", "a/b", ""),
        ("a/*/b", "a", "*/b"),
        ("*", "", "*"),
        ("/*", "/", "*"),
        ("/a/b?", "/a", "b?"),
        ("a\\*/b", "a\\*/b", ""),
    ] {
        let expected = (head.as_bytes(), tail.as_bytes());
        assert_eq!(split_wildcards(pattern.as_bytes()), expected, "{pattern}");
    }
}

#[test]
fn cleaning() {
    for (path, expected) in [
        ("a//b/", "a/b"),
        ("./a/./b", "a/b"),
        ("a/../b", "b"),
        ("../../a", "../../a"),
        ("/../a", "/a"),
        ("", "."),
        ("/", "/"),
        ("a/..", "."),
    ] {
        assert_eq!(clean(path), expected, "{path}");
    }
}

#[test]
fn long_patterns_take_no_long_time() {
    let pattern = "a*".repeat(200) + "b";
    let path = "a".repeat(2000);
    assert!(!excluded(&[&pattern, &format!("**/{pattern}/**/c")], &path));
    assert_eq!(glob_match(pattern.as_bytes(), path.as_bytes()), Ok(false));
}

/// A path of few letters, so that patterns have a chance.
fn some_path() -> impl Strategy<Value = String> {
    "[ab]{1,2}(/[ab]{1,2}){0,3}"
}

fn some_pattern() -> impl Strategy<Value = String> {
    "!?(\\*\\*/|[ab*?]{1,3}/){0,2}([ab*?]{1,3}|\\*\\*|\\[[\\^]?[ab]\\][*a]?)"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_panics(patterns in prop::collection::vec("([!*?/a^\\]\\[\\\\-]|\\PC){0,12}", 0..4), path in prop::collection::vec(any::<u8>(), 0..20)) {
        if let Ok(matcher) = Matcher::new(&patterns) {
            matcher.excluded(&path);
            matcher.may_have_exceptions_below(&path);
            matcher.enter(&path, &matcher.root());
        }
        for pattern in &patterns {
            let _ = glob_match(pattern.as_bytes(), &path);
            split_wildcards(pattern.as_bytes());
        }
        read_patterns(&path);
    }

    #[test]
    fn a_walk_gives_the_same_answers(patterns in prop::collection::vec(some_pattern(), 0..5), path in some_path()) {
        let matcher = Matcher::new(&patterns).unwrap();
        let mut inherited = matcher.root();
        for parent in parents(path.as_bytes()) {
            let (excluded, own) = matcher.enter(parent, &inherited);
            prop_assert_eq!(excluded, matcher.excluded(parent), "{:?} {:?}", patterns, parent);
            inherited = own;
        }
        prop_assert_eq!(matcher.excluded_below(path.as_bytes(), &inherited), matcher.excluded(path.as_bytes()));
    }

    #[test]
    fn a_skipped_directory_hides_nothing(patterns in prop::collection::vec(some_pattern(), 0..5), paths in prop::collection::vec(some_path(), 1..20)) {
        let matcher = Matcher::new(&patterns).unwrap();
        let all: BTreeSet<&String> = paths.iter().collect();
        for path in all {
            let skipped = parents(path.as_bytes()).any(|parent| {
                matcher.excluded(parent) && !matcher.may_have_exceptions_below(parent)
            });
            prop_assert!(!skipped || matcher.excluded(path.as_bytes()), "{:?} {}", patterns, path);
        }
    }

    #[test]
    fn a_directory_that_is_not_walked_holds_no_match(pattern in some_pattern(), path in some_path()) {
        let matcher = Matcher::new(&[pattern.trim_start_matches('!')]).unwrap();
        let skipped = parents(path.as_bytes())
            .any(|parent| !matcher.excluded(parent) && !matcher.may_match_below(parent));
        prop_assert!(!skipped || !matcher.excluded(path.as_bytes()), "{} {}", pattern, path);
    }

    #[test]
    fn without_double_stars_a_pattern_is_a_glob(pattern in "[ab*?/]{1,8}", path in some_path()) {
        let pattern = clean(&pattern.replace("**", "*b"));
        let expected = glob_match(pattern.as_bytes(), path.as_bytes());
        let found = Pattern::new(&pattern, false).map(|pattern| pattern.matches(path.as_bytes()));
        prop_assert_eq!(found, expected);
    }
}
