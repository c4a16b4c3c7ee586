//! Each room of the library imports only rooms at its own height or lower.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::repository;

/// The rooms, as the table in `src/lib.rs` has them.
fn heights() -> BTreeMap<String, usize> {
    let library = std::fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    let mut heights = BTreeMap::new();
    for line in library.lines() {
        let Some(row) = line.strip_prefix("//! | ") else {
            continue;
        };
        let Some((height, rooms)) = row.split_once(" | ") else {
            continue;
        };
        let Ok(height) = height.trim().parse() else {
            continue;
        };
        for room in rooms.split('`').skip(1).step_by(2) {
            let room = room.strip_prefix("mod@").unwrap_or(room);
            heights.insert(room.to_owned(), height);
        }
    }
    heights
}

/// Rust code without comments, strings and character literals, so that only code is searched.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            rest = &rest[end..];
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
            rest = &rest[end..];
        } else if first == '"' || rest.starts_with("r\"") || rest.starts_with("r#") {
            let length = literal(rest);
            out.push_str(if length == 0 { &rest[..1] } else { "\"\"" });
            rest = &rest[length.max(1)..];
        } else if let Some(length) = character(rest) {
            rest = &rest[length..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The length of the string literal that `text` begins with; 0 where it is none.
fn literal(text: &str) -> usize {
    let hashes = text
        .strip_prefix('r')
        .map(|rest| rest.len() - rest.trim_start_matches('#').len());
    if let Some(hashes) = hashes {
        let start = 1 + hashes;
        if !text[start..].starts_with('"') {
            return 0;
        }
        let end = format!("\"{}", "#".repeat(hashes));
        return text[start + 1..]
            .find(&end)
            .map_or(text.len(), |place| start + 1 + place + end.len());
    }
    let mut escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal that `text` begins with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        // The escaped character itself may be a quote.
        let skip = escape.chars().next()?.len_utf8();
        return escape[skip..].find('\'').map(|end| end + skip + 3);
    }
    let one = inner.chars().next()?.len_utf8();
    inner[one..].starts_with('\'').then_some(one + 2)
}

/// The rooms that a file's code names: `crate::room` anywhere, and `crate::{room, …}`.
fn rooms_named(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect()
    };
    let mut named = Vec::new();
    for prefix in ["crate::", "rbuild::"] {
        for (place, _) in code.match_indices(prefix) {
            let before = code[..place].chars().next_back();
            if before
                .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == '$')
            {
                continue;
            }
            let rest = &code[place + prefix.len()..];
            let Some(group) = rest.strip_prefix('{') else {
                named.push(word(rest));
                continue;
            };
            let mut depth = 0;
            let mut item = String::new();
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => named.push(word(&std::mem::take(&mut item))),
                    _ if depth == 0 => item.push(letter),
                    _ => {}
                }
            }
            named.push(word(&item));
        }
    }
    named.retain(|name| !name.is_empty());
    named
}

fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn no_room_looks_up() {
    let heights = heights();
    assert!(heights.len() >= 18, "the table in src/lib.rs: {heights:?}");
    let source = repository().join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let place = file.strip_prefix(&source).unwrap();
        let room = place.iter().next().unwrap().to_str().unwrap();
        let room = room.strip_suffix(".rs").unwrap_or(room);
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let Some(height) = heights.get(room) else {
            wrong.push(format!("{room} is not in the table of src/lib.rs"));
            continue;
        };
        let code = code_only(&std::fs::read_to_string(file).unwrap());
        for other in rooms_named(&code) {
            if heights.get(&other).is_some_and(|other| other > height) {
                wrong.push(format!(
                    "src/{} (height {height}) names `{other}` (height {})",
                    place.display(),
                    heights[&other]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "rooms look up:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    let library = std::fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    let heights = heights();
    for line in library.lines() {
        if let Some(room) = line.strip_prefix("pub mod ") {
            let room = room.trim_end_matches(';');
            assert!(heights.contains_key(room), "`{room}` is not in the table");
        }
    }
}

#[test]
fn names_are_found_in_code_only() {
    let text = r##"
        //! crate::comment
        use crate::{store::{Store, blobs}, layer, fs::Root};
        /* crate::block */ use crate::digest::Digest;
        fn f<'a>(x: &'a str) -> char { let _ = "crate::string \" crate::more"; '"' }
        fn g() { let _ = r#"crate::raw"#; my_crate::other(); crate::solver::run('\'') }
    "##;
    assert_eq!(
        rooms_named(&code_only(text)),
        ["store", "layer", "fs", "digest", "solver"]
    );
}

#[test]
fn every_test_file_belongs_to_a_test() {
    let tests = repository().join("tests");
    let main = std::fs::read_to_string(tests.join("main.rs")).unwrap();
    let package = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    for entry in std::fs::read_dir(&tests).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".rs").filter(|name| *name != "main") else {
            continue;
        };
        assert!(
            main.contains(&format!("\nmod {module};"))
                || package.contains(&format!("[[test]]\nname = \"{module}\"")),
            "tests/{name} is neither a module of tests/main.rs nor a test in Cargo.toml"
        );
    }
}
