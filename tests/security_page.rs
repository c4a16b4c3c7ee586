//! `docs/security.md`, held to the tests that it names.

use std::collections::BTreeSet;

use crate::support::repository;

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What every page on security has to answer for.
const KNOWN: [&str; 14] = [
    "CVE-2024-21626",
    "CVE-2024-23651",
    "CVE-2024-11218",
    "CVE-2024-23652",
    "CVE-2024-23653",
    "CVE-2024-1753",
    "CVE-2024-9407",
    "CVE-2024-9675",
    "CVE-2024-9676",
    "CVE-2025-31133",
    "CVE-2025-52565",
    "CVE-2025-52881",
    "CVE-2022-27651",
    "CVE-2019-5736",
];

#[test]
fn each_attack_has_a_rule_and_a_test_that_exists() {
    let page = read("docs/security.md");
    let mut told = BTreeSet::new();
    let mut rows = 0;
    let (_, attacks) = page.split_once("\n## Attacks").unwrap();
    for line in attacks.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells[0] == "known as" {
            continue;
        }
        rows += 1;
        assert_eq!(cells.len(), 4, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
        told.extend(cells[0].split(", "));
        // `FILE`: `NAME`, `NAME`; `FILE`: …
        let mut tests = 0;
        for group in cells[3].split("; ") {
            let mut codes = group.split('`').skip(1).step_by(2);
            let file = codes.next().expect(line);
            let source = read(file);
            for name in codes {
                tests += 1;
                let as_function = format!("#[test]\nfn {name}()");
                let as_case = format!("(\"{name}\",");
                let as_long_case = format!("\"{name}\",\n");
                let exists = source.contains(&as_function)
                    || source.replace("\n    ", "\n").contains(&as_function)
                    || source.contains(&as_case)
                    || source.contains(&as_long_case);
                assert!(exists, "no test `{name}` in `{file}`");
            }
        }
        assert!(tests > 0, "{line}");
    }
    assert!(rows >= KNOWN.len(), "{rows}");
    for known in KNOWN {
        assert!(told.contains(known), "{known}");
    }
}
