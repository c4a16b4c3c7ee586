//! `docs/dockerfile.md`, held to the tables of the language and, example by example, to what the
//! program does with it.

use std::collections::{BTreeMap, BTreeSet};

use rbuild::dockerfile::{DIRECTIVES, INSTRUCTIONS, expansion, flags_of, mount};
use rbuild::graph::arguments;
use serde_json::Value;

use crate::support::{Project, Rbuild, User, repository};

fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(name)).unwrap()
}

/// What stands below a heading of a page.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .expect(heading);
    rest.split("\n## ").next().unwrap()
}

/// The cells of the rows of all tables, but for the headings.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let line = line
                .trim_start_matches("| ")
                .trim_end_matches('|')
                .trim_end();
            line.split(" | ")
                .map(|cell| cell.trim().trim_end_matches(" |"))
                .collect()
        })
        .collect()
}

/// The code in a cell: one piece of it, which may hold a backtick between double ones.
fn code(cell: &str) -> &str {
    let double = cell.strip_prefix("`` ").or_else(|| cell.strip_prefix("``"));
    match double {
        Some(rest) => rest.trim_end_matches('`').trim_end_matches(' '),
        None => cell.trim_matches('`'),
    }
}

/// All pieces of code in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The first words of the rows of a part: the things that the table is about.
fn subjects<'a>(page: &'a str, heading: &str) -> BTreeSet<&'a str> {
    let rows = rows(part(page, heading));
    rows.iter()
        .map(|row| row[0].split('`').nth(1).unwrap())
        .collect()
}

#[test]
fn every_directive_instruction_and_flag_has_a_row() {
    let page = read("dockerfile.md");
    assert_eq!(
        subjects(&page, "Directives"),
        DIRECTIVES.into_iter().collect()
    );
    assert_eq!(
        subjects(&page, "Instructions"),
        INSTRUCTIONS.into_iter().collect()
    );
    let flags = INSTRUCTIONS.iter().flat_map(|instruction| {
        let flags = flags_of(instruction).into_iter();
        flags.map(move |flag| format!("{instruction} --{flag}"))
    });
    let flags: BTreeSet<String> = flags.collect();
    // a row for a value of a flag says which
    let rows = subjects(&page, "Flags");
    let rows = rows
        .iter()
        .map(|row| row.split('=').next().unwrap().to_owned());
    assert_eq!(rows.collect::<BTreeSet<String>>(), flags);
}

/// A whole Dockerfile around an example.
fn dockerfile(example: &str) -> String {
    if example.starts_with('#') {
        return format!("{example}\nFROM scratch\n");
    }
    if example.starts_with("FROM") {
        return format!("{example}\n");
    }
    format!("FROM scratch AS other\nFROM scratch\nWORKDIR /work\n{example}\n")
}

enum Found {
    Nothing,
    Absent,
    Error(String),
}

/// What the program has against a Dockerfile.
fn objection(rbuild: &Rbuild, text: &str) -> Found {
    let project = Project::new().file("Dockerfile", text);
    let call = "--call=check,format=json,ignorestatus=true";
    let checked = rbuild.build(&project).args([call]).run();
    let answer: Value = serde_json::from_str(&checked.text()).expect(&checked.stderr);
    match answer["buildError"]["message"].as_str() {
        None => Found::Nothing,
        Some(error) if error.contains("is not supported by this version of rbuild") => {
            Found::Absent
        }
        Some(error) => Found::Error(error.to_owned()),
    }
}

#[test]
fn what_the_page_says_of_an_example_is_so() {
    let page = read("dockerfile.md");
    let rbuild = Rbuild::new(&User::Caller);
    let mut wrong = String::new();
    for heading in ["Directives", "Instructions", "Flags"] {
        for row in rows(part(&page, heading)) {
            let (subject, state, example) = (row[0], row[1], code(row[2]));
            assert!(
                example.starts_with('#')
                    || example.starts_with(subject.split(['`', ' ']).nth(1).unwrap()),
                "{subject}: {example}"
            );
            let found = objection(&rbuild, &dockerfile(example));
            wrong += &match (state, found) {
                ("works" | "data", Found::Nothing) | ("refused", Found::Absent) => continue,
                (_, Found::Nothing) => format!("{subject} is {state}, and `{example}` works\n"),
                (_, Found::Absent) => format!("{subject} is {state}, and `{example}` is refused\n"),
                (_, Found::Error(error)) => {
                    format!("{subject} is {state}, and `{example}`: {error}\n")
                }
            };
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A value that an option of a mount takes.
fn value(key: &str) -> &str {
    match key {
        "from" => "=other",
        "sharing" => "=locked",
        "size" => "=64m",
        "mode" => "=0600",
        "uid" | "gid" => "=1000",
        "readonly" | "ro" | "readwrite" | "rw" | "required" => "",
        "env" => "=NAME",
        _ => "=/x",
    }
}

#[test]
fn mounts_take_the_options_that_the_page_says() {
    let page = read("dockerfile.md");
    let rows = rows(part(&page, "Mounts"));
    let keys: BTreeSet<&str> = rows.iter().flat_map(|row| names(row[0])).collect();
    assert_eq!(keys, mount::KEYS.into_iter().collect());
    let heading = part(&page, "Mounts")
        .lines()
        .find(|line| line.starts_with("| option"))
        .unwrap();
    let types: Vec<&str> = heading.split('`').skip(1).step_by(2).collect();
    assert_eq!(types, mount::TYPES);
    let rbuild = Rbuild::new(&User::Caller);
    let mut wrong = String::new();
    for row in &rows {
        for (state, kind) in row[1..].iter().zip(&types) {
            for key in names(row[0]) {
                let option = match key {
                    "type" => String::new(),
                    key => format!(",{key}{}", value(key)),
                };
                let has_target = ["target", "dst", "destination"].contains(&key);
                let target = if has_target { "" } else { ",target=/t" };
                let example = format!("RUN --mount=type={kind}{target}{option} true");
                wrong += &match (*state, objection(&rbuild, &dockerfile(&example))) {
                    ("works" | "no effect", Found::Nothing)
                    | ("refused", Found::Absent)
                    | ("error", Found::Error(_)) => continue,
                    (_, Found::Nothing) => format!("{state}: `{example}` works\n"),
                    (_, Found::Absent) => format!("{state}: `{example}` is refused\n"),
                    (_, Found::Error(error)) => format!("{state}: `{example}`: {error}\n"),
                };
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn forms_of_variables_give_what_the_page_says() {
    let page = read("dockerfile.md");
    let lookup = |name: &str| (name == "v").then(|| "foobarbaz".to_owned());
    let rows = rows(part(&page, "Variables"));
    assert!(rows.len() > 15);
    for row in rows {
        let given = expansion::expand(code(row[0]), &lookup, '\\');
        match row[1] {
            "an error" => assert!(given.is_err(), "{}", row[0]),
            text => assert_eq!(given.as_deref(), Ok(code(text)), "{}", row[0]),
        }
    }
}

#[test]
fn predefined_arguments_are_those_of_the_page() {
    let page = read("dockerfile.md");
    let known = arguments::PLATFORM.into_iter().chain(arguments::PROXY);
    let part = part(&page, "Predefined arguments");
    let rows = rows(part);
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| names(row[0])).collect();
    assert_eq!(named, known.collect());
    // those of BuildKit itself are held to the program by the other page
    let other = read("compatibility.md");
    let other = self::part(&other, "Build arguments of BuildKit");
    let own = |name: &&str| !name.ends_with("_PROXY");
    let of_other: BTreeMap<&str, &str> = self::rows(other)
        .iter()
        .flat_map(|row| {
            names(row[0])
                .into_iter()
                .filter(own)
                .map(|name| (name, row[1]))
        })
        .collect();
    let (_, list) = part
        .split_once("mean something to BuildKit itself")
        .unwrap();
    assert_eq!(names(list), of_other.into_keys().collect());
}
