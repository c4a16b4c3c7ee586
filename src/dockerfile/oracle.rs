//! A second opinion: stages, base images and kinds of instructions of real Dockerfiles, as a parser
//! that shares nothing with this one reads them.

use std::fs;

use dockerfile_parser::{Dockerfile as Theirs, Instruction as TheirInstruction};

use super::Dockerfile;
use super::corpus::{corpus, entries};

/// What the other parser can't read, each with the reason.
const UNREADABLE: &str = include_str!("../../testdata/second-opinion/unreadable.txt");

/// A stage: its name, its base image, the names of its instructions.
type Outline = Vec<(Option<String>, String, Vec<String>)>;

fn ours(dockerfile: &Dockerfile) -> Outline {
    let stages = dockerfile.stages.iter().map(|stage| {
        let from = &stage.from.value;
        let name = from.name.as_ref().map(|name| name.value.to_lowercase());
        let kinds = stage.instructions.iter().map(|step| {
            let word = step.text.split_whitespace().next().unwrap_or_default();
            word.to_uppercase()
        });
        (name, from.image.value.clone(), kinds.collect())
    });
    stages.collect()
}

fn theirs(dockerfile: &Theirs) -> Outline {
    let mut stages = Outline::new();
    for instruction in &dockerfile.instructions {
        let kind = match instruction {
            TheirInstruction::From(from) => {
                let name = from.alias.as_ref().map(|name| name.content.to_lowercase());
                stages.push((name, from.image.content.clone(), Vec::new()));
                continue;
            }
            TheirInstruction::Arg(_) => "ARG",
            TheirInstruction::Label(_) => "LABEL",
            TheirInstruction::Run(_) => "RUN",
            TheirInstruction::Entrypoint(_) => "ENTRYPOINT",
            TheirInstruction::Cmd(_) => "CMD",
            TheirInstruction::Copy(_) => "COPY",
            TheirInstruction::Env(_) => "ENV",
            TheirInstruction::Misc(other) => &other.instruction.content,
        };
        if let Some((_, _, kinds)) = stages.last_mut() {
            kinds.push(kind.to_uppercase());
        }
    }
    stages
}

#[test]
fn another_parser_agrees_on_every_real_dockerfile_that_it_reads() {
    let Some(folder) = corpus("dockerfiles") else {
        return;
    };
    let (mut agreed, mut unreadable) = (0, Vec::new());
    for path in entries(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".tsv") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let own = super::parse(&text).unwrap();
        let reason = match Theirs::parse(&text) {
            Ok(other) if theirs(&other) == ours(&own) => {
                agreed += 1;
                continue;
            }
            _ if text.contains("<<") => "heredocs",
            _ if own.escape == '`' => "the escape directive",
            Ok(_) if text.contains("\\\\\n") => "a doubled backslash at the end of a line",
            Err(_) if name.contains("testfile-line") => "blank lines in a continuation",
            Err(_) if name.contains("ssd") => "an escape in a string",
            other => panic!(
                "{name}: {:?}\n{:?}",
                other.map(|other| theirs(&other)),
                ours(&own)
            ),
        };
        unreadable.push(format!("{name}: {reason}"));
    }
    assert!(agreed > 230, "{agreed}");
    let listed: Vec<&str> = UNREADABLE.lines().collect();
    assert_eq!(unreadable, listed);
}
