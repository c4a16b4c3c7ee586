//! How sandboxes end, and what is left of them: nothing.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbuild::sandbox::Outcome;

use super::Case;
use super::support::{Fixture, eventually, processes_with};

pub(crate) const CASES: &[Case] = &[
    ("a_killed_step_ends_at_once", kill),
    ("a_dropped_step_is_gone_when_drop_returns", dropped),
    ("nothing_outlives_the_step", remnants),
    ("a_step_that_kills_everything_is_reported", kill_all),
    ("orphans_are_reaped", orphans),
    ("the_death_of_rbuild_ends_everything", death),
];

/// A number of seconds to sleep that no other process has on its command line.
fn unique_sleep() -> String {
    format!(
        "{}.{}",
        30_000 + std::process::id(),
        Instant::now().elapsed().as_nanos() % 97
    )
}

fn kill(fixture: &Fixture) {
    let sleep = unique_sleep();
    let spec = fixture.script(&format!(
        "trap '' TERM INT HUP; sleep {sleep} & sleep {sleep}"
    ));
    let (running, _stdout, _stderr) = fixture.start(spec, None, Vec::new());
    eventually("two sleep", || processes_with(&sleep) == 2);
    let start = Instant::now();
    running.kill();
    assert_eq!(running.wait().unwrap(), Outcome::Signaled { signal: 9 });
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(processes_with(&sleep), 0);
    // Once more is no harm.
    running.kill();
}

fn dropped(fixture: &Fixture) {
    let sleep = unique_sleep();
    let spec = fixture.program(&["sleep", &sleep]);
    let (running, _stdout, _stderr) = fixture.start(spec, None, Vec::new());
    eventually("it sleeps", || processes_with(&sleep) == 1);
    drop(running);
    assert_eq!(processes_with(&sleep), 0);
}

fn remnants(fixture: &Fixture) {
    let sleep = unique_sleep();
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8; do setsid sh -c 'trap \"\" TERM HUP; (sleep {sleep} & sleep {sleep}) & wait' & done; exit 5"
    );
    let start = Instant::now();
    let ran = fixture.run(fixture.script(&script));
    assert_eq!(ran.outcome, Outcome::Exited { code: 5 });
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(processes_with(&sleep), 0);
    // Neither upper nor work directory is in use.
    std::fs::rename(&ran.upper, ran.upper.with_extension("kept")).unwrap();
    std::fs::remove_dir_all(&ran.work).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&*fixture.scratch.to_string_lossy()),
        "{mounts}"
    );
}

fn kill_all(fixture: &Fixture) {
    let ran = fixture
        .run(fixture.script("sleep 1000 & setsid sh -c 'kill -9 1; kill -9 -1' & sleep 1000"));
    assert_eq!(ran.outcome, Outcome::Signaled { signal: 9 });
}

fn orphans(fixture: &Fixture) {
    if !fixture.has_own_proc() {
        return;
    }
    let script = "for i in 1 2 3 4 5; do (sh -c 'exit 0' &) ; done; sleep 0.2; \
                  cat /proc/[0-9]*/stat | grep -c ' Z ' || true";
    assert_eq!(fixture.sh(script), "0");
}

/// The process that will be killed: two steps sleep, and a foreign program.
pub(crate) fn be_the_victim(fixture: &Fixture) -> ! {
    let token = std::env::args().nth(1).unwrap();
    let steps: Vec<_> = (0..2)
        .map(|_| {
            let script = format!("setsid sleep {token} & echo ready; sleep {token}");
            fixture.start(fixture.script(&script), None, Vec::new())
        })
        .collect();
    for (_, stdout, _) in &steps {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
    let outside = fixture.processes.outside.clone();
    let program = rbuild::sandbox::OutsideProgram::new("sleep").arg(token);
    std::thread::spawn(move || outside.run(&program));
    std::thread::sleep(Duration::from_millis(200));
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
    std::process::exit(1)
}

fn death(fixture: &Fixture) {
    use rbuild::sandbox::OutsideProgram;
    let rung = fixture.processes.isolation.rung();
    let token = unique_sleep();
    if rung != rbuild::sandbox::Rung::Root {
        // The victim must not begin inside of this process's namespaces: it is started from
        // outside of them.
        let script = format!(
            "TOKEN={token} RBUILD_SANDBOX_TEST=victim-{rung} \"$0\" {token} > \"$1\" & \
             while ! grep -q -e ready -e ignored \"$1\"; do sleep 0.05; done; kill -9 $!; echo $!"
        );
        let output = fixture
            .processes
            .outside
            .run(
                &OutsideProgram::new("sh")
                    .arg("-c")
                    .arg(script)
                    .arg(std::env::current_exe().unwrap())
                    .arg(fixture.scratch.join("victim")),
            )
            .unwrap();
        assert_eq!(
            output.code,
            0,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = std::fs::read_to_string(fixture.scratch.join("victim")).unwrap();
        assert_eq!(said.trim(), "ready");
    } else {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .arg(&token)
            .env("RBUILD_SANDBOX_TEST", format!("victim-{rung}"))
            // The launcher and the inits have no command line of their own.
            .env("TOKEN", &token)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(victim.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        // Itself, its launcher, two inits, two scripts and their two children each, and the
        // foreign program.
        assert!(processes_with(&token) >= 8, "{}", processes_with(&token));
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    eventually("everything has ended", || processes_with(&token) == 0);
}
