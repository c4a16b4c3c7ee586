//! Sandboxes as a step sees them, on every rung of the isolation ladder that this machine and
//! user have.
//!
//! No standard harness: namespaces are entered by a process with one thread. The first process
//! starts one copy of itself per rung, as user 0 also as an unprivileged user that has a range
//! in `/etc/subuid`; each copy runs the same cases and prints a line for each.

// A test program talks on its standard streams, and fails by panicking.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

#[path = "sandbox_cases/mod.rs"]
mod cases;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rbuild::sandbox::Rung;

/// Set for the copies: what to run.
const MODE: &str = "RBUILD_SANDBOX_TEST";
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(mode) = std::env::var_os(MODE) {
        return cases::run(&mode.to_string_lossy(), &arguments);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        for name in cases::names() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut total = Total::default();
    match BUSYBOX.into_iter().find(|path| is_static(path)) {
        None => total.skip("every case", "no statically linked busybox is installed"),
        Some(busybox) => run_all(&arguments, Path::new(busybox), &mut total),
    }
    if std::env::var_os("RBUILD_TEST_REQUIRE_ALL").is_some() && total.skipped > 0 {
        println!("\nskipped, but RBUILD_TEST_REQUIRE_ALL asks for everything");
        total.failed += total.skipped;
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out\n",
        if total.failed == 0 { "ok" } else { "FAILED" },
        total.passed,
        total.failed,
        total.skipped
    );
    if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Default)]
struct Total {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Total {
    fn skip(&mut self, what: &str, why: &str) {
        self.skipped += 1;
        println!("test {what} ... ignored, {why}");
    }
}

/// A program without an interpreter segment (`PT_INTERP`) runs in an empty root.
fn is_static(path: &str) -> bool {
    std::fs::read(path).is_ok_and(|bytes| {
        !bytes
            .windows(8)
            .take(4096)
            .any(|window| window == b"/lib64/l" || window == b"/lib/ld-")
    })
}

fn run_all(arguments: &[String], busybox: &Path, total: &mut Total) {
    let scratch = tempfile::tempdir().unwrap();
    open_to_all(scratch.path());
    // Unprivileged users may not be able to reach the build directory.
    let program = scratch.path().join("sandbox-test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let attacks = scratch.path().join("attacks");
    let has_attacks = compile_attacks(&attacks);
    if !has_attacks {
        total.skip("attacks in C", "no C compiler that links statically");
    }
    let is_root = rustix::process::geteuid().is_root();
    let mut runs: Vec<(Rung, Option<(u32, u32)>)> = Vec::new();
    if is_root {
        runs.push((Rung::Root, None));
        match unprivileged_user() {
            Some(ids) => {
                runs.push((Rung::UserNamespace, Some(ids)));
                runs.push((Rung::UserNamespaceSingle, Some(ids)));
            }
            None => total.skip(
                "as an unprivileged user",
                "no user in /etc/passwd has a range in /etc/subuid",
            ),
        }
    } else {
        total.skip("root", "not user 0");
        runs.push((Rung::UserNamespace, None));
        runs.push((Rung::UserNamespaceSingle, None));
    }
    for (rung, user) in runs {
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .env(MODE, rung.name())
            .env("RBUILD_SANDBOX_TEST_BUSYBOX", busybox)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if has_attacks {
            command.env("RBUILD_SANDBOX_TEST_ATTACKS", &attacks);
        }
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid).env("HOME", "/nonexistent");
        }
        let mut child = command.spawn().unwrap();
        let mut text = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            println!("{line}");
            text.push_str(&line);
            text.push('\n');
        }
        let status = child.wait().unwrap();
        let count = |suffix: &str| {
            text.lines()
                .filter(|line| line.starts_with("test ") && line.contains(suffix))
                .count()
        };
        total.passed += count(" ... ok");
        total.skipped += count(" ... ignored");
        let failed = count(" ... FAILED");
        total.failed += failed;
        if failed == 0 && !status.success() {
            println!("test {rung} ... FAILED: the process ended with {status}");
            total.failed += 1;
        }
    }
}

/// Makes the program of hostile steps, which runs in a root file system without libraries.
fn compile_attacks(program: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox_cases/attacks.c");
    Command::new("cc")
        .args(["-static", "-O1", "-pthread", "-o"])
        .arg(program)
        .arg(source)
        .status()
        .is_ok_and(|status| status.success())
}

fn open_to_all(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Ids of the user named in `RBUILD_TEST_USER`, else of any who is lent ids.
fn unprivileged_user() -> Option<(u32, u32)> {
    let lent = std::fs::read_to_string("/etc/subuid").ok()?;
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let wanted = std::env::var("RBUILD_TEST_USER").ok();
    lent.lines().find_map(|line| {
        let name = line.split(':').next()?;
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            return None;
        }
        users.lines().find_map(|user| {
            let fields: Vec<&str> = user.split(':').collect();
            let ids = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (fields.first() == Some(&name) && ids.0 != 0).then_some(ids)
        })
    })
}
