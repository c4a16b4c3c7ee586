//! The cases, and the process that runs them on one rung.

mod filesystem;
mod hostile;
mod lifetime;
mod limits;
mod program;
mod support;

use std::process::ExitCode;
use std::time::Instant;

use rbuild::sandbox::{Isolation, Needs, Rung, enter};
use support::Fixture;

/// A case: its name and what it does.
type Case = (&'static str, fn(&Fixture));

fn cases() -> Vec<Case> {
    [
        program::CASES,
        filesystem::CASES,
        limits::CASES,
        lifetime::CASES,
        hostile::CASES,
    ]
    .concat()
}

/// The names of all cases.
pub(crate) fn names() -> Vec<&'static str> {
    cases().into_iter().map(|(name, _)| name).collect()
}

/// Runs as one copy of the test program.
pub(crate) fn run(mode: &str, arguments: &[String]) -> ExitCode {
    // A descriptor that steps must not inherit.
    let leaked = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 100).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let (mode, victim) = match mode.strip_prefix("victim-") {
        Some(mode) => (mode, true),
        None => (mode, false),
    };
    let rung: Rung = mode.parse().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let needs = Needs {
        trees: true,
        isolation: Some(rung),
        emulators: Vec::new(),
        resumes_launcher: false,
        folder: None,
    };
    let processes = match enter(&needs) {
        Ok(processes) => processes,
        Err(error) => {
            println!("test {rung} ... ignored, {error}");
            return ExitCode::SUCCESS;
        }
    };
    assert_eq!(processes.isolation.rung(), rung);
    let fixture = Fixture::new(processes, scratch.path());
    if victim {
        lifetime::be_the_victim(&fixture);
    }
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut failed = false;
    for (name, case) in cases() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(*filter)) {
            continue;
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&fixture)));
        match result {
            Ok(()) => println!("test {rung}::{name} ... ok"),
            Err(_) => {
                failed = true;
                println!("test {rung}::{name} ... FAILED");
            }
        }
    }
    measure(&fixture, rung);
    drop(fixture.processes);
    // Trees hold directories that only their owner inside may remove; that's us, here.
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Says how long a sandbox takes to start and end.
fn measure(fixture: &Fixture, rung: Rung) {
    const STEPS: u32 = 100;
    let mut specs: Vec<_> = (0..STEPS)
        .map(|_| fixture.program(&["/bin/true"]))
        .collect();
    let start = Instant::now();
    while let Some(spec) = specs.pop() {
        let null = || {
            std::fs::File::options()
                .write(true)
                .open("/dev/null")
                .unwrap()
                .into()
        };
        let files = rbuild::sandbox::SandboxFiles {
            stdin: None,
            stdout: null(),
            stderr: null(),
            passed: Vec::new(),
        };
        fixture.launcher().run(spec, files).unwrap().wait().unwrap();
    }
    println!(
        "{rung}: one trivial step takes {:?}",
        start.elapsed() / STEPS
    );
}

/// Whether ids other than 0 exist.
fn has_many_ids(fixture: &Fixture) -> bool {
    fixture.processes.isolation != Isolation::UserNamespaceSingle
}
