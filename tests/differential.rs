//! The cases of `testdata/language` built by Docker's own BuildKit: the same config, the same
//! history, the same files.
//!
//! What Debian's Docker carries is BuildKit as it was in 2020. Cases that use something younger,
//! or where BuildKit itself has changed its mind since, say so (`docker: no, because …`).

use std::fmt::Write as _;

use crate::language_cases::{Found, chosen, in_parallel, place, read_cases, shown};
use crate::support::{Case, CaseFile, Docker, Need, Project, Rbuild, User, difference, needs};

/// What of two images is compared.
const COMPARED: [&str; 4] = ["tree", "config", "history", "times"];

#[test]
fn docker_builds_the_same_images() {
    if !needs(&[Need::BaseImages, Need::Sandbox]) {
        return;
    }
    let files = read_cases();
    let Some(docker) = Docker::start_builder() else {
        return;
    };
    docker.pull_base("busybox");
    let mut places = chosen(&files);
    places.retain(|at| !case(&files, *at).compared_with_docker(&COMPARED).is_empty());
    let rbuild = Rbuild::new(&User::Caller);
    let both = in_parallel(&places, |at| {
        let case = case(&files, *at);
        let project = case.context(&User::Caller);
        let theirs = docker.build(
            project.path(),
            &case.args(project.path()),
            &case.env(),
            &tag(*at),
        );
        if case.fails() {
            theirs.fails();
            return None;
        }
        theirs.ok();
        Some(ours(&rbuild, case, &project))
    });
    let built: Vec<String> = places
        .iter()
        .zip(&both)
        .filter(|(_, both)| matches!(both, Ok(Some(_))))
        .map(|(at, _)| tag(*at))
        .collect();
    let theirs = docker.images(&built);
    let mut wrong = String::new();
    for (at, ours) in places.iter().zip(both) {
        match ours {
            Err(message) => writeln!(wrong, "{}:\n{message}", place(&files, *at)).unwrap(),
            Ok(None) => {}
            Ok(Some(ours)) => {
                let theirs = shown(case(&files, *at), &theirs[&tag(*at)]);
                let names = case(&files, *at).compared_with_docker(&COMPARED);
                compare(&names, &ours, &theirs, &place(&files, *at), &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn case(files: &[CaseFile], (file, case): (usize, usize)) -> &Case {
    &files[file].cases[case]
}

fn tag((file, case): (usize, usize)) -> String {
    format!("case-{file}-{case}")
}

fn ours(rbuild: &Rbuild, case: &Case, project: &Project) -> Found {
    let mut build = rbuild.build(project).args(case.args(project.path()));
    for (name, value) in case.env() {
        build = build.env(&name, value);
    }
    shown(case, &build.image())
}

/// Adds where two builders differ.
fn compare(names: &[&str], ours: &Found, theirs: &Found, place: &str, wrong: &mut String) {
    for name in names {
        let (ours, theirs) = match *name {
            "history" => (in_old_words(&ours[*name]), in_old_words(&theirs[*name])),
            _ => (ours[*name].clone(), theirs[*name].clone()),
        };
        let theirs: Vec<&str> = theirs.lines().collect();
        let ours: Vec<&str> = ours.lines().collect();
        if theirs != ours {
            writeln!(wrong, "{place}: {name} (- docker's, + ours):").unwrap();
            writeln!(wrong, "{}", difference(&theirs, &ours)).unwrap();
        }
    }
}

/// A history without what BuildKit wrote otherwise in 2020: the values of ARG, which were the
/// defaults then; EXPOSE and HEALTHCHECK, which were printed as Go values of other types; the
/// flags of COPY and ADD, which were left out.
fn in_old_words(history: &str) -> String {
    let mut out = String::new();
    for line in history.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let kept = match words.get(1) {
            Some(&"ARG" | &"EXPOSE" | &"HEALTHCHECK") => words[..2].join(" "),
            Some(&"COPY" | &"ADD") => {
                let flag = |word: &&str| word.starts_with("--ch");
                let kept = words.into_iter().filter(|word| !flag(word));
                kept.collect::<Vec<_>>().join(" ")
            }
            _ => line.to_owned(),
        };
        writeln!(out, "{kept}").unwrap();
    }
    out
}
