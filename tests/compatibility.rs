//! `docs/compatibility.md`, held to what the program knows and to the lists of Docker's flags in
//! `testdata/docker-flags`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rbuild::cli::{arguments, docker_flags};

use crate::support::repository;

/// What the page says of a flag, an argument or a variable.
struct Row {
    names: Vec<String>,
    state: String,
    note: String,
}

/// One `### `-section: what rbuild's command is, which of Docker's it stands for, and its rows.
struct Section {
    command: String,
    docker: Vec<String>,
    rows: Vec<Row>,
}

fn page() -> String {
    std::fs::read_to_string(repository().join("docs/compatibility.md")).unwrap()
}

/// The texts in backquotes.
fn quoted(text: &str) -> Vec<String> {
    let parts = text.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The rows of the tables of three columns.
fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    lines
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [names, state, note] = cells.as_slice() else {
                return None;
            };
            Some(Row {
                names: quoted(names),
                state: (*state).to_owned(),
                note: (*note).to_owned(),
            })
        })
        .collect()
}

/// What stands below a heading, up to the next one of its kind.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).expect(heading);
    rest.split("\n## ").next().unwrap()
}

fn sections() -> Vec<Section> {
    let page = page();
    let part = part(&page, "## Flags by command");
    let sections = part.split("\n### ").skip(1).map(|text| {
        let (heading, body) = text.split_once('\n').unwrap();
        let mut names = quoted(heading).into_iter();
        let without = |name: String, program: &str| name.strip_prefix(program).unwrap().to_owned();
        Section {
            command: without(names.next().unwrap(), "rbuild "),
            docker: names.map(|name| without(name, "docker ")).collect(),
            rows: rows(body),
        }
    });
    sections.collect()
}

/// The long and short names of Docker's flags, by command.
fn docker_lists() -> BTreeMap<String, BTreeSet<String>> {
    let folder = repository().join("testdata/docker-flags");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            (name, text.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

/// The names of a command's options as they are written, its own or everyone's, and whether each
/// is shown in its help.
fn options(command: &str) -> BTreeMap<String, bool> {
    let line = arguments::definition();
    let command = line.find_subcommand(command).expect(command);
    let everyone = line.get_arguments().filter(|arg| arg.is_global_set());
    let mut names = BTreeMap::new();
    for arg in everyone.chain(command.get_arguments()) {
        let longs = arg.get_long().into_iter();
        let longs = longs.chain(arg.get_all_aliases().unwrap_or_default());
        let shorts = arg.get_short().into_iter();
        let shorts = shorts.chain(arg.get_all_short_aliases().unwrap_or_default());
        let longs = longs.map(|name| format!("--{name}"));
        for name in longs.chain(shorts.map(|name| format!("-{name}"))) {
            names.insert(name, !arg.is_hide_set());
        }
    }
    names
}

#[test]
fn every_flag_of_dockers_has_a_row() {
    let lists = docker_lists();
    let mut seen = BTreeSet::new();
    for section in sections() {
        let named: BTreeSet<&String> = section.rows.iter().flat_map(|row| &row.names).collect();
        for command in &section.docker {
            let list = command.replace(' ', "-");
            // A command without a list has no flags in Docker's reference.
            let Some(flags) = lists.get(&list) else {
                assert_eq!(command, "completion");
                continue;
            };
            for flag in flags {
                assert!(named.contains(flag), "docker {command} {flag}: no row");
            }
            seen.insert(list);
        }
    }
    // Commands that rbuild doesn't have are named in the table of commands.
    let page = page();
    let commands = part(&page, "## Commands");
    for list in lists.keys().filter(|list| !seen.contains(*list)) {
        let group = list.split('-').take(2).collect::<Vec<_>>().join(" ");
        assert!(commands.contains(&format!("`{group}`")), "docker {group}");
    }
}

#[test]
fn what_the_page_says_of_a_flag_is_so() {
    for section in sections() {
        let command = &section.command;
        let options = options(command);
        let table: BTreeMap<&str, bool> = docker_flags::tables()
            .filter(|(name, _)| name == command)
            .flat_map(|(_, flags)| flags.iter().map(|flag| (flag.name, flag.may_hold())))
            .collect();
        let docker = docker_lists();
        let lists = section.docker.iter();
        let of_docker: BTreeSet<&String> = lists
            .filter_map(|command| docker.get(&command.replace(' ', "-")))
            .flatten()
            .collect();
        for row in &section.rows {
            let long = row.names.first().unwrap();
            let shown = format!("rbuild {command} {long}");
            let in_table = table.get(long.trim_start_matches('-'));
            match row.state.as_str() {
                "works" | "own" => {
                    for name in &row.names {
                        assert_eq!(options.get(name), Some(&true), "{shown}: {name}");
                    }
                    assert_eq!(of_docker.contains(long), row.state == "works", "{shown}");
                }
                "holds" => {
                    for name in &row.names {
                        assert!(options.contains_key(name), "{shown}: {name}");
                    }
                    assert_ne!(in_table, Some(&false), "{shown} is never accepted");
                    assert_ne!(row.note, "", "{shown}: with which value?");
                }
                "refused" => {
                    assert!(
                        in_table != Some(&true),
                        "{shown} is accepted with some value"
                    );
                    let known = options.contains_key(long);
                    assert_eq!(known, in_table.is_some(), "{shown}");
                }
                other => panic!("{shown}: there is no state `{other}`"),
            }
        }
    }
}

#[test]
fn no_flag_of_rbuilds_is_missing() {
    let line = arguments::definition();
    let page = page();
    let everyone = rows(part(&page, "## Flags of every command"));
    let everyone: BTreeSet<&String> = everyone.iter().flat_map(|row| &row.names).collect();
    for arg in line.get_arguments().filter(|arg| arg.is_global_set()) {
        let name = format!("--{}", arg.get_long().unwrap());
        assert!(everyone.contains(&name), "{name}");
    }
    let sections = sections();
    for command in line
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let name = command.get_name();
        let of_command: Vec<&Section> = sections
            .iter()
            .filter(|section| section.command == name)
            .collect();
        assert_eq!(of_command.len(), 1, "one section for `rbuild {name}`");
        let named: BTreeSet<&String> = of_command[0]
            .rows
            .iter()
            .flat_map(|row| &row.names)
            .collect();
        for arg in command.get_arguments() {
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            for option in [long, short].into_iter().flatten() {
                assert!(named.contains(&option), "rbuild {name} {option}: no row");
            }
        }
    }
}

/// The program's sources, as one text.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn variables_are_read_as_the_page_says() {
    let page = page();
    // Libraries read these by themselves.
    let elsewhere = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ];
    let sources = sources(&repository().join("src"));
    let is_read = |name: &str| sources.contains(&format!("\"{name}\""));
    let mut named = BTreeSet::new();
    for heading in ["## Build arguments of BuildKit", "## Environment variables"] {
        for row in rows(part(&page, heading)) {
            for name in row.names {
                let read = is_read(&name) || elsewhere.contains(&name.as_str());
                match row.state.as_str() {
                    "works" | "own" => assert!(read, "{name} isn't read"),
                    "not read" => assert!(!read, "{name} is read"),
                    "holds" => assert_ne!(row.note, "", "{name}: with which value?"),
                    other => panic!("{name}: there is no state `{other}`"),
                }
                named.insert(name);
            }
        }
    }
    // And the other way round: what has the form of such a variable is named.
    let prefixes = ["\"RBUILD_", "\"DOCKER_", "\"BUILDKIT_", "\"BUILDX_"];
    for prefix in prefixes {
        for (at, _) in sources.match_indices(prefix) {
            let rest = &sources[at + 1..];
            let name = rest.split('"').next().unwrap();
            let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            let is_for_tests = name.starts_with("RBUILD_TEST_");
            if is_name && !name.ends_with('_') && !is_for_tests {
                assert!(named.contains(name), "{name} is read and not on the page");
            }
        }
    }
}
