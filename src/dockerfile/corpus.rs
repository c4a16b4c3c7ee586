//! The corpora of real Dockerfiles and of BuildKit's own cases, where they are at hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::syntax::{self, Node, Tree};
use super::{expansion, parse};

pub(crate) fn corpus(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/corpora")
        .join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

/// The tree as BuildKit's dumper prints it.
fn dump(tree: &Tree) -> String {
    let mut out = String::new();
    for node in &tree.nodes {
        writeln!(out, "({})", dump_node(node)).unwrap();
    }
    out
}

fn dump_node(node: &Node) -> String {
    let mut out = node.name.value.to_lowercase();
    if !node.flags.is_empty() {
        let flags: Vec<String> = node.flags.iter().map(|flag| quoted(&flag.value)).collect();
        write!(out, " [{}]", flags.join(" ")).unwrap();
    }
    if let Some(trigger) = &node.trigger {
        write!(out, " ({})", dump_node(trigger)).unwrap();
    }
    for argument in &node.arguments {
        write!(out, " {}", quoted(&argument.value)).unwrap();
    }
    out
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0' => out.push_str("\\x00"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[test]
fn syntax_trees_are_buildkits() {
    let Some(folder) = corpus("parser/testfiles") else {
        return;
    };
    let folders = entries(&folder);
    assert!(folders.len() > 30);
    for folder in folders {
        let text = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let expected = fs::read_to_string(folder.join("result")).unwrap();
        let (tree, errors) = syntax::parse(&text);
        assert_eq!(errors, [], "{}", folder.display());
        assert_eq!(dump(&tree).trim(), expected.trim(), "{}", folder.display());
    }
}

#[test]
fn what_buildkit_refuses_is_refused() {
    let Some(folder) = corpus("parser/testfiles-negative") else {
        return;
    };
    for folder in entries(&folder) {
        let text = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        assert!(parse(&text).is_err(), "{}", folder.display());
    }
}

#[test]
fn lines_are_buildkits() {
    let Some(file) = corpus("parser/testfile-line/Dockerfile") else {
        return;
    };
    let (tree, _) = syntax::parse(&fs::read_to_string(file).unwrap());
    let lines: Vec<_> = tree
        .nodes
        .iter()
        .map(|node| (node.span.first_line, node.span.last_line))
        .collect();
    assert_eq!(lines, [(5, 5), (11, 12), (17, 31)]);
}

#[test]
fn real_dockerfiles_parse_fast_and_whole() {
    let Some(folder) = corpus("dockerfiles") else {
        return;
    };
    let mut count = 0;
    let mut slowest = (0, String::new());
    for path in entries(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".tsv") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let begin = Instant::now();
        let parsed = parse(&text);
        slowest = slowest.max((begin.elapsed().as_micros(), name.clone()));
        let dockerfile = parsed.unwrap_or_else(|errors| {
            panic!(
                "{}",
                super::diagnostic::render_all(&errors, &name, &text, false)
            )
        });
        assert!(!dockerfile.stages.is_empty());
        spans_hold_their_text(&text);
        count += 1;
    }
    assert!(count > 250, "{count}");
    println!("slowest: {} in {} µs", slowest.1, slowest.0);
}

/// Every word that was written in one piece stands at its span.
fn spans_hold_their_text(text: &str) {
    let (tree, _) = syntax::parse(text);
    for node in &tree.nodes {
        assert_eq!(
            &text[node.name.span.start..node.name.span.end],
            node.name.value
        );
        if node.is_json || matches!(node.command().as_str(), "ENV" | "LABEL" | "ONBUILD") {
            continue;
        }
        for word in &node.arguments {
            if word.span.first_line == word.span.last_line {
                assert_eq!(
                    &text[word.span.start..word.span.end],
                    word.value,
                    "{}",
                    node.original
                );
            }
        }
    }
}

#[test]
fn every_row_of_the_expansion_corpus() {
    let Some(file) = corpus("shell/envvar.json") else {
        return;
    };
    let table: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let variables: BTreeMap<String, String> = serde_json::from_value(table["env"].clone()).unwrap();
    let lookup = |name: &str| variables.get(name).cloned();
    let rows = table["cases"].as_array().unwrap();
    assert!(rows.len() > 200);
    for row in rows {
        let found = expansion::expand(row["input"].as_str().unwrap(), &lookup, '\\').ok();
        assert_eq!(found.as_deref(), row["expect"].as_str(), "{row}");
        assert_eq!(row["error"].as_bool(), Some(found.is_none()), "{row}");
    }
}

#[test]
fn every_row_of_the_splitting_corpus() {
    let Some(file) = corpus("shell/words.json") else {
        return;
    };
    let table: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for row in table["cases"].as_array().unwrap() {
        let pairs: Vec<String> = serde_json::from_value(row["env"].clone()).unwrap();
        let variables: BTreeMap<&str, &str> = pairs
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let found = expansion::expand_words(row["input"].as_str().unwrap(), &lookup, '\\').ok();
        let expected: Option<Vec<String>> = serde_json::from_value(row["expect"].clone()).unwrap();
        assert_eq!(found, expected, "{row}");
    }
}
