//! How long whole builds take, with the real binary and no registry: `cargo bench`.
//!
//! Each case runs several times, the best and the median are printed. "Cold" begins with an empty
//! store; "warm" builds again what the store has; "changed" has one file of the context changed.

// A bench prints, and ends where something fails.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
const FILES: usize = 10_000;

fn main() {
    let hello = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/hello");
    let many = tempfile::tempdir().unwrap();
    std::fs::write(many.path().join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    for number in 0..FILES {
        let folder = many.path().join(format!("{:03}", number / 100));
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("file {number}\n").repeat(number % 200);
        std::fs::write(folder.join(format!("{number}.txt")), text).unwrap();
    }

    println!("{:<44} {:>10} {:>10}", "", "best", "median");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let corpora = root.join("../shared/corpora/dockerfiles");
    let own = root.join("testdata/dockerfiles");
    parse(if corpora.is_dir() { &corpora } else { &own });
    cold("hello: two stages, one RUN, cold", &hello);
    warm("hello, warm", &hello, |_| {});
    let name = format!("COPY of {FILES} files");
    cold(&format!("{name}, cold"), many.path());
    warm(&format!("{name}, warm"), many.path(), |_| {});
    warm(&format!("{name}, one changed"), many.path(), |round| {
        std::fs::write(many.path().join("000/1.txt"), format!("round {round}")).unwrap();
    });
}

/// The largest Dockerfile of a folder, parsed in this process.
fn parse(folder: &Path) {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let texts = files
        .filter(|file| file.file_name().to_string_lossy().ends_with("Dockerfile"))
        .map(|file| std::fs::read_to_string(file.path()).unwrap());
    let largest = texts.max_by_key(String::len).unwrap();
    report(
        &format!("a Dockerfile of {} bytes, parsed", largest.len()),
        |_| {
            let begun = Instant::now();
            rbuild::dockerfile::parse(&largest).unwrap();
            begun.elapsed()
        },
    );
}

fn cold(name: &str, context: &Path) {
    report(name, |_| {
        let store = tempfile::tempdir().unwrap();
        build(store.path(), context)
    });
}

fn warm(name: &str, context: &Path, change: impl Fn(usize)) {
    let store = tempfile::tempdir().unwrap();
    build(store.path(), context);
    report(name, |round| {
        change(round);
        build(store.path(), context)
    });
}

fn report(name: &str, mut run: impl FnMut(usize) -> Duration) {
    let mut times: Vec<Duration> = (0..ROUNDS).map(&mut run).collect();
    times.sort_unstable();
    println!(
        "{name:<44} {:>7.2} ms {:>7.2} ms",
        times[0].as_secs_f64() * 1e3,
        times[ROUNDS / 2].as_secs_f64() * 1e3
    );
}

fn build(store: &Path, context: &Path) -> Duration {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
    command
        .env("RBUILD_ROOT", store)
        .args(["build", "-q", "-t", "bench"])
        .arg(context);
    let begun = Instant::now();
    let output = command.output().unwrap();
    let elapsed = begun.elapsed();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    elapsed
}
