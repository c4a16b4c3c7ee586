//! Running a program to its end, within a time limit, and what came of it.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A test that hangs should fail and say where, long before the whole run is given up.
const LIMIT: Duration = Duration::from_secs(900);

/// What a program that ended left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error.
    pub(crate) stderr: String,
    /// The command line, for messages.
    pub(crate) command: String,
}

/// How a step of a build ended, as plain progress tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepOutcome {
    /// It ran.
    Done,
    /// The cache had it.
    Cached,
    /// It failed.
    Failed,
    /// It was stopped, or never said how it ended.
    Stopped,
}

impl Finished {
    /// Standard output as text, without the newline at its end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Fails the test unless the program succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Finished {
        assert!(
            self.status.success(),
            "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }

    /// Fails the test if the program succeeded, or if a signal or a panic ended it.
    #[track_caller]
    pub(crate) fn fails(self) -> Finished {
        assert!(
            !self.status.success() && self.status.code().is_some(),
            "`{}` ended with {}, but it should have failed\n--- stderr\n{}",
            self.command,
            self.status,
            self.stderr
        );
        assert!(
            !self.stderr.contains("panicked at"),
            "`{}` panicked:\n{}",
            self.command,
            self.stderr
        );
        self
    }

    /// Fails the test unless standard error holds every one of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Finished {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "`{}` did not say {part:?}:\n{}",
                self.command,
                self.stderr
            );
        }
        self
    }

    /// The steps of a build in the order in which plain progress announced them, its own
    /// bookkeeping (`[internal] …`, exporting) left out.
    pub(crate) fn steps(&self) -> Vec<(String, StepOutcome)> {
        let mut steps: Vec<(&str, String, StepOutcome)> = Vec::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.split_once(' ') else {
                continue;
            };
            if !number.starts_with('#') {
                continue;
            }
            let known = steps.iter_mut().find(|step| step.0 == number);
            match known {
                None if rest.starts_with('[') => {
                    steps.push((number, rest.to_owned(), StepOutcome::Stopped));
                }
                None => {}
                Some(step) => {
                    if rest == "CACHED" {
                        step.2 = StepOutcome::Cached;
                    } else if rest == "DONE" || rest.starts_with("DONE ") {
                        step.2 = StepOutcome::Done;
                    } else if rest.starts_with("ERROR") {
                        step.2 = StepOutcome::Failed;
                    }
                }
            }
        }
        steps
            .into_iter()
            .filter(|(_, name, _)| !name.starts_with("[internal]") && !name.starts_with("[auth]"))
            .map(|(_, name, outcome)| (name, outcome))
            .collect()
    }

    /// The names, without their `[stage n/m]`, of the steps that really ran, FROM steps left out.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.steps()
            .into_iter()
            .filter(|(_, outcome)| *outcome != StepOutcome::Cached)
            .map(|(name, _)| without_prefix(&name))
            .filter(|name| !name.starts_with("FROM "))
            .collect()
    }

    /// The names, without their `[stage n/m]`, of the steps that the cache answered.
    pub(crate) fn cached(&self) -> Vec<String> {
        self.steps()
            .into_iter()
            .filter(|(_, outcome)| *outcome == StepOutcome::Cached)
            .map(|(name, _)| without_prefix(&name))
            .filter(|name| !name.starts_with("FROM "))
            .collect()
    }

    /// What the steps printed, without the step numbers and times in front.
    pub(crate) fn output(&self) -> Vec<String> {
        self.stderr
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix('#')?.split_once(' ')?.1;
                let (seconds, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let numeric = seconds.parse::<f64>().is_ok() && seconds.contains('.');
                numeric.then(|| text.to_owned())
            })
            .collect()
    }
}

fn without_prefix(name: &str) -> String {
    name.split_once("] ")
        .map_or(name, |(_, rest)| rest)
        .to_owned()
}

/// Runs a command to its end with `stdin` as its input; kills it and fails where it hangs.
pub(crate) fn run_with_timeout(mut command: Command, stdin: Option<Vec<u8>>) -> Finished {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{shown}`: {error}"));
    let input = child.stdin.take();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            if let (Some(mut pipe), Some(bytes)) = (input, stdin) {
                // The program may end before it has read everything; its status tells.
                let _ = pipe.write_all(&bytes);
            }
        });
        let out = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let err = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let begun = Instant::now();
        let mut hung = false;
        let mut pause = Duration::from_millis(2);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > LIMIT && !hung {
                hung = true;
                child.kill().unwrap();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        writer.join().unwrap();
        let finished = Finished {
            status,
            stdout: out.join().unwrap(),
            stderr: String::from_utf8_lossy(&err.join().unwrap()).into_owned(),
            command: shown.clone(),
        };
        assert!(
            !hung,
            "`{shown}` hung for {LIMIT:?}; so far it said:\n{}",
            finished.stderr
        );
        finished
    })
}

/// Whether a process with this in its command line runs anywhere on the machine.
pub(crate) fn is_running(mark: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().any(|entry| {
        let path = entry.unwrap().path().join("cmdline");
        std::fs::read(path).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|part| part == mark.as_bytes())
        })
    })
}

/// Waits, not for ever, until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "not within a minute: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
