//! The Dockerfile language, case by case: `testdata/language`, whose format `support::cases`
//! explains. Each case is built by the real binary, and its image compared with what is written
//! there: exactly, not in part.
//!
//! `RBUILD_TEST_CASES=copy/` runs those whose file or title holds that. `RBUILD_TEST_UPDATE=1`
//! writes what came out into the files; read the difference before it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    Case, CaseFile, Finished, Image, Need, Rbuild, User, difference, each_user, needs, repository,
};

#[test]
fn every_case_of_the_language_holds() {
    each_user(run);
    if User::Caller.is_root() {
        // Nobody lends ids to a user without a name: one of the machine's stands for all.
        run(&User::stranger());
    }
}

/// Builds the chosen cases and compares.
fn run(user: &User) {
    let mut files = read_cases();
    let chosen = chosen(&files);
    let update = std::env::var_os("RBUILD_TEST_UPDATE").is_some();
    let rbuild = Rbuild::new(user);
    // Asked once: what is missing leaves out many cases, and is named in one line.
    let (images, sandbox) = (needs(&[Need::BaseImages]), needs(&[Need::Sandbox]));
    let found = in_parallel(&chosen, |(file, case)| {
        let case = &files[*file].cases[*case];
        let can = (images || !case.needs_images()) && (sandbox || !case.needs_sandbox());
        can.then(|| built(&rbuild, user, case))
    });
    let mut wrong = String::new();
    for ((file, case), found) in chosen.iter().zip(found) {
        let place = place(&files, (*file, *case));
        match found {
            Err(message) => writeln!(wrong, "{place}:\n{message}").unwrap(),
            Ok(None) => {}
            Ok(Some(found)) if update => {
                for (name, text) in found {
                    files[*file].cases[*case].expect(name, &text);
                }
            }
            Ok(Some(found)) => compare(&files[*file].cases[*case], &found, &place, &mut wrong),
        }
    }
    if update {
        for file in files {
            let path = repository().join("testdata/language").join(&file.name);
            std::fs::write(path, file.text()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "as {user:?}:\n{wrong}");
}

/// All cases there are.
pub(crate) fn read_cases() -> Vec<CaseFile> {
    let files = CaseFile::all(&repository().join("testdata/language"));
    assert_no_title_twice(&files);
    for case in files.iter().flat_map(|file| &file.cases) {
        assert!(case.expects_something(), "{}: expects nothing", case.title);
    }
    files
}

/// What came of a build, by the names of expectations.
pub(crate) type Found = BTreeMap<&'static str, String>;

pub(crate) fn built(rbuild: &Rbuild, user: &User, case: &Case) -> Found {
    let project = case.context(user);
    let mut build = rbuild.build(&project).args(case.args(project.path()));
    for (name, value) in case.env() {
        build = build.env(&name, value);
    }
    if case.fails() {
        let finished = build.fails();
        return Found::from([("fails", failure(case, &finished))]);
    }
    let (image, finished) = build.image_and_log();
    let mut found = shown(case, &image);
    found.insert("output", lines(&finished.output()));
    found
}

/// An image as a case can describe it.
pub(crate) fn shown(case: &Case, image: &Image) -> Found {
    let tree = image.tree();
    let times = case
        .expected("times")
        .unwrap_or_default()
        .iter()
        .map(|line| {
            let path = line.split(' ').next().unwrap();
            format!("{path} {}", tree.get(path).mtime)
        });
    Found::from([
        ("tree", image.shown_additions()),
        ("config", image.shown_config()),
        ("history", image.shown_history()),
        ("layers", image.shown_layers()),
        ("times", lines(&times.collect::<Vec<_>>())),
    ])
}

/// The lines expected of a failure, where all of them are said; else what was said instead.
fn failure(case: &Case, finished: &Finished) -> String {
    let expected = case.expected("fails").unwrap_or_default();
    let said = |line: &String| {
        finished
            .stderr
            .lines()
            .any(|said| said.contains(line.as_str()))
    };
    if !expected.is_empty() && expected.iter().all(said) {
        return lines(expected);
    }
    let errors = finished
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("error: "));
    let errors: Vec<String> = errors.map(str::to_owned).collect();
    lines(&errors)
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Adds the differences between what is expected and what was found.
pub(crate) fn compare(case: &Case, found: &Found, place: &str, wrong: &mut String) {
    for (name, found) in found {
        let Some(expected) = case.expected(name) else {
            continue;
        };
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        let found: Vec<&str> = found.lines().collect();
        if expected != found {
            writeln!(wrong, "{place}: {name} (- expected, + found):").unwrap();
            writeln!(wrong, "{}", difference(&expected, &found)).unwrap();
        }
    }
}

pub(crate) fn place(files: &[CaseFile], (file, case): (usize, usize)) -> String {
    format!("{}: {}", files[file].name, files[file].cases[case].title)
}

/// The cases to run, by the numbers of file and case.
pub(crate) fn chosen(files: &[CaseFile]) -> Vec<(usize, usize)> {
    let part = std::env::var("RBUILD_TEST_CASES").unwrap_or_default();
    let all = files.iter().enumerate().flat_map(|(file, content)| {
        let cases = 0..content.cases.len();
        cases.map(move |case| (file, case))
    });
    let chosen: Vec<_> = all.filter(|at| place(files, *at).contains(&part)).collect();
    assert!(!chosen.is_empty(), "no case holds {part:?}");
    chosen
}

pub(crate) fn assert_no_title_twice(files: &[CaseFile]) {
    for file in files {
        let mut titles = BTreeSet::new();
        for case in &file.cases {
            let is_new = titles.insert(&case.title);
            assert!(is_new, "{}: twice: {}", file.name, case.title);
        }
    }
}

/// Does something for each item, several at once; a panic becomes that item's error.
pub(crate) fn in_parallel<I: Sync, R: Send>(
    items: &[I],
    work: impl Fn(&I) -> R + Sync,
) -> Vec<Result<R, String>> {
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() * 2);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let worker = std::thread::Builder::new().name(name.clone());
            let run = || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else {
                        return;
                    };
                    let result = catch_unwind(AssertUnwindSafe(|| work(item)));
                    let result = result.map_err(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                        text.or(literal).unwrap_or_default()
                    });
                    results.lock().unwrap().insert(number, result);
                }
            };
            worker.spawn_scoped(scope, run).unwrap();
        }
    });
    results.into_inner().unwrap().into_values().collect()
}
