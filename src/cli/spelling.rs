//! Docker's ways of writing a command line, brought into one form before clap reads it.
//!
//! - `rbuild -t app .` means `rbuild build -t app .`;
//! - `rbuild buildx build`, `image build`, `builder build` mean `build`, `image ls` means `images`;
//! - global options before the command mean the same behind it;
//! - `--no-cache=true` means `--no-cache`, `--no-cache=false` takes it back.
//!
//! Words are compared, nothing is opened; whether a word is a command or a folder is asked of the
//! caller.

use std::ffi::{OsStr, OsString};

use super::error::Failure;

/// Global options that take their value as the next word.
const GLOBAL_WITH_VALUE: [&str; 4] = [
    "--root",
    "--isolation",
    "--registry-mirror",
    "--insecure-registry",
];
/// Options without a value that Docker also takes with `=true` and `=false`.
const SWITCHES: [&str; 6] = [
    "--check",
    "--no-cache",
    "--pull",
    "--push",
    "--quiet",
    "--verbose",
];

/// Commands that run a program whose words are not rbuild's to read.
const FOREGROUND: [&str; 2] = ["run", "unshare"];

/// Docker's words for commands, each with ours.
type Members = &'static [(&'static str, &'static [&'static str])];

/// What a command group of Docker has that rbuild has too.
const GROUPS: [(&str, Members); 5] = [
    (
        "buildx",
        &[
            ("build", &["build"]),
            ("b", &["build"]),
            ("du", &["df", "--details"]),
            ("prune", &["prune", "--build-cache"]),
            ("version", &["version"]),
        ],
    ),
    (
        "builder",
        &[
            ("build", &["build"]),
            ("prune", &["prune", "--build-cache"]),
        ],
    ),
    ("container", &[("run", &["run"])]),
    (
        "image",
        &[
            ("build", &["build"]),
            ("ls", &["images"]),
            ("list", &["images"]),
            ("push", &["push"]),
            ("pull", &["pull"]),
            ("tag", &["tag"]),
            ("save", &["save"]),
            ("load", &["load"]),
            ("inspect", &["inspect"]),
            ("history", &["history"]),
            ("rm", &["rmi"]),
            ("remove", &["rmi"]),
            ("prune", &["prune", "--images"]),
        ],
    ),
    ("system", &[("df", &["df"]), ("prune", &["prune"])]),
];

/// Commands of Docker's that rbuild has nothing for, each with the reason. They are told apart from
/// typing mistakes: `rm` is none of `rmi`.
const ABSENT: [(&[&str], &str); 4] = [
    (
        &[
            "attach", "commit", "cp", "create", "exec", "export", "kill", "logs", "pause", "port",
            "ps", "rename", "restart", "rm", "start", "stats", "stop", "top", "unpause", "wait",
        ],
        "rbuild keeps no containers; `rbuild run` runs an image in the foreground",
    ),
    (
        &["compose", "network", "volume", "service", "stack", "swarm"],
        "rbuild builds images and runs them one at a time, for trying",
    ),
    (
        &["info", "events", "context"],
        "there is no daemon; `rbuild doctor` shows what rbuild can do on this machine",
    ),
    (
        &["docker", "podman", "buildah"],
        "rbuild stands in its place: leave the word out",
    ),
];

/// Brings the words behind the program's name into the form that clap knows.
pub(super) fn normalise(
    words: Vec<OsString>,
    is_command: &dyn Fn(&str) -> bool,
    is_directory: &dyn Fn(&OsStr) -> bool,
) -> Result<Vec<OsString>, Failure> {
    let mut words = insert_command(words, is_command, is_directory)?;
    // What stands behind the image or program is that program's, and `run -v` is a volume.
    if let Some(at) = first_word(&words)
        && words[at]
            .to_str()
            .is_some_and(|word| FOREGROUND.contains(&word))
    {
        let behind = words.split_off(at + 1);
        let command = words.remove(at);
        let options = words.into_iter().flat_map(spell_out_verbosity);
        return Ok(std::iter::once(command)
            .chain(options)
            .chain(behind)
            .collect());
    }
    // clap would let an option behind the command replace the same one before it; `-v` counts
    // and `--registry-mirror` gathers wherever they stand.
    if let Some(at) = first_word(&words)
        && words[at]
            .to_str()
            .is_some_and(|word| word != "help" && is_command(word))
    {
        words[..=at].rotate_right(1);
    }
    switches(words)
}

/// `-vv` as `--verbose --verbose`.
fn spell_out_verbosity(word: OsString) -> Vec<OsString> {
    let letters = word.to_str().and_then(|word| word.strip_prefix('-'));
    match letters {
        Some(letters) if letters.bytes().all(|b| matches!(b, b'v' | b'D')) => {
            vec!["--verbose".into(); letters.len()]
        }
        _ => vec![word],
    }
}

fn insert_command(
    mut words: Vec<OsString>,
    is_command: &dyn Fn(&str) -> bool,
    is_directory: &dyn Fn(&OsStr) -> bool,
) -> Result<Vec<OsString>, Failure> {
    let Some(at) = first_word(&words) else {
        return Ok(words);
    };
    let first = words[at].clone();
    let text = first.to_string_lossy();
    if let Some((group, members)) = GROUPS.iter().find(|(group, _)| *group == text)
        && !is_path(&text)
    {
        return replace_group(words, at, group, members);
    }
    if matches!(&*text, "-h" | "--help" | "-V" | "--version") || is_command(&text) {
        return Ok(words);
    }
    if text.starts_with('-') || is_path(&text) || is_directory(&first) {
        words.insert(at, "build".into());
    } else if let Some((_, reason)) = ABSENT.iter().find(|(names, _)| names.contains(&&*text)) {
        return Err(Failure::user(format!("rbuild has no command `{text}`")).hint(*reason));
    }
    Ok(words)
}

/// The place of the first word that is neither a global option nor its value.
fn first_word(words: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let word = word.to_string_lossy();
        let counted = word.strip_prefix('-').is_some_and(|letters| {
            !letters.is_empty() && letters.bytes().all(|b| matches!(b, b'v' | b'D'))
        });
        let joined = word
            .split_once('=')
            .is_some_and(|(name, _)| GLOBAL_WITH_VALUE.contains(&name));
        if GLOBAL_WITH_VALUE.contains(&&*word) {
            at += 2;
        } else if counted || joined || word == "--verbose" || word == "--debug" {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

fn is_path(word: &str) -> bool {
    let is_remote = word.contains("://") || word.contains('@') && word.contains(':');
    word.contains('/') || word.starts_with('.') || is_remote
}

fn replace_group(
    mut words: Vec<OsString>,
    at: usize,
    group: &str,
    members: Members,
) -> Result<Vec<OsString>, Failure> {
    let offered = || {
        let names: Vec<String> = members
            .iter()
            .map(|(name, _)| format!("`rbuild {group} {name}`"))
            .collect();
        format!("there are {}", names.join(", "))
    };
    let Some(second) = words
        .get(at + 1)
        .map(|word| word.to_string_lossy().into_owned())
    else {
        return Err(Failure::user(format!("`rbuild {group}` needs a command")).hint(offered()));
    };
    let found = members.iter().find(|(name, _)| *name == second);
    if let Some((_, command)) = found {
        words.splice(at..at + 2, command.iter().map(OsString::from));
        return Ok(words);
    }
    if matches!(second.as_str(), "-h" | "--help") {
        words.splice(at..at + 2, [OsString::from("--help")]);
        return Ok(words);
    }
    Err(Failure::user(format!("rbuild has no command `{group} {second}`")).hint(offered()))
}

fn switches(words: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut out: Vec<OsString> = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            out.push(word);
            out.extend(words);
            break;
        }
        let switch = word.to_str().and_then(|text| {
            let (name, value) = text.split_once('=')?;
            SWITCHES
                .contains(&name)
                .then(|| (name.to_owned(), value.to_owned()))
        });
        match switch {
            None => out.push(word),
            Some((name, value)) => match parse_bool(&value) {
                Some(true) => out.push(name.into()),
                Some(false) => out.retain(|word| *word != *name),
                None => {
                    return Err(
                        Failure::user(format!("invalid value `{value}` for `{name}`"))
                            .hint("it is true or false"),
                    );
                }
            },
        }
    }
    Ok(out)
}

/// The truth values that Docker's options take.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(line: &str) -> Result<String, Failure> {
        let words = line.split_whitespace().map(OsString::from).collect();
        let is_command =
            |word: &str| matches!(word, "build" | "push" | "images" | "run" | "unshare");
        let words = normalise(words, &is_command, &|word| word == "app")?;
        Ok(words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn every_spelling_becomes_one() {
        for (line, expected) in [
            ("", ""),
            ("--help", "--help"),
            ("-V", "-V"),
            ("build .", "build ."),
            (".", "build ."),
            ("-", "build -"),
            ("app", "build app"),
            ("./push", "build ./push"),
            (
                "https://example.com/x.git",
                "build https://example.com/x.git",
            ),
            ("git@example.com:x.git#v1", "build git@example.com:x.git#v1"),
            ("-t myapp .", "build -t myapp ."),
            ("--tag=myapp .", "build --tag=myapp ."),
            ("--root /x -t a .", "build --root /x -t a ."),
            ("--root=/x push a", "push --root=/x a"),
            ("--root build .", "build --root build ."),
            ("-v -vv --verbose build .", "build -v -vv --verbose ."),
            ("-vt a .", "build -vt a ."),
            ("buildx build -t a .", "build -t a ."),
            ("buildx b .", "build ."),
            ("image build .", "build ."),
            ("builder build .", "build ."),
            ("image ls -q", "images -q"),
            ("image prune -a", "prune --images -a"),
            ("system df", "df"),
            ("image --help", "--help"),
            ("-v image push a", "push -v a"),
            // Not a folder, not a path: clap says that there's no such command.
            ("biuld .", "biuld ."),
            (
                "build --no-cache=true --pull=1 .",
                "build --no-cache --pull .",
            ),
            ("build --no-cache --no-cache=false .", "build ."),
            ("build -- --no-cache=true", "build -- --no-cache=true"),
            ("build --rm=true .", "build --rm=true ."),
            // A foreground program's words are left alone.
            (
                "run --pull=always a b --quiet=true",
                "run --pull=always a b --quiet=true",
            ),
            ("container run -v a:b c", "run -v a:b c"),
            (
                "-vD --root /x run -v a:b c",
                "run --verbose --verbose --root /x -v a:b c",
            ),
            ("-v unshare ls -v", "unshare --verbose ls -v"),
        ] {
            assert_eq!(normalised(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_a_group_does_not_have_is_an_error() {
        for (line, message) in [
            ("buildx bake", "rbuild has no command `buildx bake`"),
            ("rm app", "rbuild has no command `rm`"),
            ("docker build .", "rbuild has no command `docker`"),
            ("image", "`rbuild image` needs a command"),
            (
                "build --pull=always .",
                "invalid value `always` for `--pull`",
            ),
        ] {
            assert_eq!(normalised(line).unwrap_err().message(), message);
        }
    }
}
