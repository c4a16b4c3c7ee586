//! What is the same in two places, and what need not be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::differences::{DIFFERENCES, Shows};
use super::{Built, Place};
use crate::language_cases::{compare, shown};
use crate::support::{Case, CaseFile, Image, NodeKind, Tree, difference};

/// Files whose content depends on when or where they were written; the rest of them is compared.
const VOLATILE: &[&str] = &[
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/cache/ldconfig/aux-cache",
    "var/cache/man/",
    "var/log/",
];

/// Writes down what root's build gave.
pub(super) fn update(file: &mut CaseFile, case: &Case, root: &Built) {
    let Some(image) = &root.image else { return };
    let found = shown(case, image);
    let case = file
        .cases
        .iter_mut()
        .find(|other| other.title == case.title);
    let case = case.unwrap();
    for (name, text) in found {
        case.expect(name, &text);
    }
}

/// Compares root's build with what is written down.
pub(super) fn check(case: &Case, root: &Built, at: &str, wrong: &mut String) {
    match &root.image {
        Some(image) if !case.fails() => compare(case, &shown(case, image), at, wrong),
        None if case.fails() => {
            for line in case.expected("fails").unwrap_or_default() {
                if !root.log.contains(line) {
                    writeln!(wrong, "=== {at}: doesn't say {line:?}:\n{}", root.log).unwrap();
                }
            }
        }
        _ => writeln!(wrong, "=== {at}: ended with {}\n{}", root.code, root.log).unwrap(),
    }
}

/// Whether a place made of a case what root made of it, but for known differences.
pub(super) fn alike(place: &Place, case: &Case, root: &Built, other: &Built) -> Result<(), String> {
    if place.rung == "none" && case.needs_sandbox() {
        return fails_with(other, "RUN");
    }
    let known = DIFFERENCES
        .iter()
        .filter(|known| known.places.contains(&place.name) && known.case == case.title);
    let mut files = Vec::new();
    for known in known {
        match known.shows {
            Shows::Fails(words) => return fails_with(other, words),
            Shows::Files(paths) => files.extend(paths.iter().map(|path| path.as_bytes())),
        }
    }
    let (Some(ours), Some(theirs)) = (&root.image, &other.image) else {
        let same = root.code == other.code && errors(&root.log) == errors(&other.log);
        return same.then_some(()).ok_or_else(|| {
            let tail: Vec<&str> = other.log.lines().rev().take(25).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!(
                "ended with {}, not {}\n{}",
                other.code,
                root.code,
                tail.join("\n")
            )
        });
    };
    let mut wrong = listing_difference(&config(ours), &config(theirs));
    let (ours, theirs) = (listing(&ours.tree()), listing(&theirs.tree()));
    let gone: Vec<String> = files
        .iter()
        .filter(|path| ours.get(**path) == theirs.get(**path))
        .map(|path| format!("{}: no longer differs: say so\n", path.escape_ascii()))
        .collect();
    wrong += &gone.concat();
    let lines = |listing: &BTreeMap<Vec<u8>, String>| -> String {
        let rest = listing
            .iter()
            .filter(|(path, _)| !files.contains(&path.as_slice()));
        rest.map(|(_, line)| format!("{line}\n")).collect()
    };
    wrong += &listing_difference(&lines(&ours), &lines(&theirs));
    wrong.is_empty().then_some(()).ok_or(wrong)
}

/// A build must fail, with one clear line.
fn fails_with(other: &Built, words: &str) -> Result<(), String> {
    let errors = errors(&other.log);
    if other.code == 1 && errors.len() == 1 && other.log.contains(words) {
        return Ok(());
    }
    Err(format!(
        "should have failed with one line that says `{words}`, but ended with {}:\n{}",
        other.code, other.log
    ))
}

fn errors(log: &str) -> Vec<&str> {
    let lines = log.lines().filter(|line| line.starts_with("error: "));
    lines.collect()
}

/// The config without what depends on the time, as times of files do.
fn config(image: &Image) -> String {
    let mut config = image.config.clone();
    let members = config.as_object_mut().unwrap();
    members.remove("created");
    members.remove("rootfs");
    for entry in config["history"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().remove("created");
    }
    format!("{config:#}\n")
}

/// One line per file; names of one file say which.
fn listing(tree: &Tree) -> BTreeMap<Vec<u8>, String> {
    let mut tree = tree.clone();
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, node) in &mut tree.nodes {
        if node.kind == NodeKind::File {
            first.entry(node.inode).or_insert_with(|| path.clone());
            let is_volatile = |start: &&str| path.starts_with(start.as_bytes());
            if VOLATILE.iter().any(is_volatile) {
                node.content = Some(b"(differs each time)".to_vec());
            }
        }
    }
    let all = tree.all();
    assert_eq!(all.lines().count(), tree.nodes.len());
    let lines = all.lines().zip(&tree.nodes);
    lines
        .map(|(line, (path, node))| {
            let same = first.get(&node.inode).filter(|name| *name != path);
            let same = same.map_or_else(String::new, |name| format!(" is {}", name.escape_ascii()));
            (path.clone(), format!("{line}{same}"))
        })
        .collect()
}

/// The lines that differ: `-` is root's.
fn listing_difference(ours: &str, theirs: &str) -> String {
    if ours == theirs {
        return String::new();
    }
    let (mut ours, mut theirs): (Vec<&str>, Vec<&str>) =
        (ours.lines().collect(), theirs.lines().collect());
    // Without the many lines that are the same, for those cost time and hide the others.
    let both: std::collections::BTreeSet<&str> = ours
        .iter()
        .copied()
        .collect::<std::collections::BTreeSet<_>>()
        .intersection(&theirs.iter().copied().collect())
        .copied()
        .collect();
    ours.retain(|line| !both.contains(line));
    theirs.retain(|line| !both.contains(line));
    let (ours, theirs) = (&ours[..ours.len().min(40)], &theirs[..theirs.len().min(40)]);
    difference(ours, theirs)
}
