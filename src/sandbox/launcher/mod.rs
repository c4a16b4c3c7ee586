//! The launcher: a small single-threaded process, forked before any thread, that clones one
//! sandbox per request. This is its handle in the main process, and the protocol between them.
//!
//! Requests carry ids, so that steps start, run and are killed independently. The reports are
//! read by a thread that starts with the first request, since threads may exist only once every
//! process is forked.

mod server;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, MAX_DESCRIPTORS, Received, retry};
use super::spec::{Outcome, SandboxSpec};

pub(super) use server::{become_helper, serve, serve_as_copy};

/// From the main process to the launcher.
#[derive(Serialize, Deserialize)]
enum Request {
    /// Start a sandbox. Comes with the descriptors of a [`StepFiles`].
    Start {
        id: u64,
        spec: Box<SandboxSpec>,
        has_stdin: bool,
    },
    /// Kill everything in a sandbox.
    Kill { id: u64 },
    /// Send a signal to a sandbox's step, and to nothing that it started.
    Signal { id: u64, signal: u8 },
}

/// From the launcher to the main process: a sandbox is gone, all of it.
#[derive(Serialize, Deserialize)]
struct Report {
    id: u64,
    outcome: Outcome,
}

/// A step's open files on their way to it.
pub(super) struct StepFiles {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) passed: Vec<OwnedFd>,
}

impl StepFiles {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .chain(&self.stdin)
            .chain(&self.passed)
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>, has_stdin: bool) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let (stdout, stderr) = (descriptors.next()?, descriptors.next()?);
        let stdin = if has_stdin {
            Some(descriptors.next()?)
        } else {
            None
        };
        Some(Self {
            stdin,
            stdout,
            stderr,
            passed: descriptors.collect(),
        })
    }
}

/// The open files of a step.
#[derive(Debug)]
pub struct SandboxFiles {
    /// Standard input; `/dev/null` if none.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Files and directories that the spec's mounts refer to by their index here.
    pub passed: Vec<OwnedFd>,
}

/// Why the launcher can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LauncherError {
    /// It ended, so every sandbox ended too.
    #[error("the process that starts sandboxes is gone: it was killed, or memory ran out")]
    Gone,
    /// The request can't be sent.
    #[error("can't ask for a sandbox: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },
}

/// A handle on the launcher. When the last one is dropped, the launcher and every sandbox end.
#[derive(Clone, Debug)]
pub struct Launcher(Arc<Inner>);

/// What keeps steps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confinement {
    /// Namespaces and mounts.
    Namespaces,
    /// A root directory.
    Chroot,
}

impl Confinement {
    /// As a word of a command line.
    pub(super) fn word(self) -> &'static [u8] {
        match self {
            Self::Namespaces => b"namespaces",
            Self::Chroot => b"chroot",
        }
    }

    pub(super) fn of_word(word: &[u8]) -> Option<Self> {
        [Self::Namespaces, Self::Chroot]
            .into_iter()
            .find(|confinement| confinement.word() == word)
    }
}

#[derive(Debug)]
struct Inner {
    confinement: Confinement,
    pid: Pid,
    channel: Channel,
    /// Serialises requests, so that messages of two threads don't mix.
    sending: Mutex<()>,
    waiting: Arc<Waiting>,
    reader: OnceLock<Result<(), LauncherError>>,
    /// Held open as long as sandboxes may live.
    _lifeline: OwnedFd,
}

/// What the reading thread shares with those who wait.
#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    gone: bool,
    /// `None` while it runs.
    outcomes: BTreeMap<u64, Option<Outcome>>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics with the lock held; and if it did, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher {
    /// A handle on the launcher that is process `pid`.
    pub(super) fn new(
        pid: Pid,
        channel: Channel,
        lifeline: OwnedFd,
        confinement: Confinement,
    ) -> Self {
        Self(Arc::new(Inner {
            confinement,
            pid,
            channel,
            sending: Mutex::new(()),
            waiting: Arc::default(),
            reader: OnceLock::new(),
            _lifeline: lifeline,
        }))
    }

    /// Whether sandboxes have mounts. Without, a spec names no mounts, and its root file system is a
    /// folder.
    pub fn can_mount(&self) -> bool {
        self.0.confinement == Confinement::Namespaces
    }

    /// Starts a step. Returns at once; [`Running::wait`] tells how it went, also if it could not
    /// be started.
    ///
    /// # Errors
    /// When the launcher is gone, or the spec is larger than any kernel would take.
    pub fn run(&self, spec: SandboxSpec, files: SandboxFiles) -> Result<Running, LauncherError> {
        self.0.start_reader()?;
        let files = StepFiles {
            stdin: files.stdin,
            stdout: files.stdout,
            stderr: files.stderr,
            passed: files.passed,
        };
        let has_stdin = files.stdin.is_some();
        let descriptors: Vec<BorrowedFd<'_>> = files.descriptors().map(AsFd::as_fd).collect();
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(LauncherError::Request {
                reason: format!(
                    "{} open files are more than the {MAX_DESCRIPTORS} that can be passed on",
                    descriptors.len()
                ),
            });
        }
        let id = {
            let mut state = self.0.waiting.lock();
            if state.gone {
                return Err(LauncherError::Gone);
            }
            state.next += 1;
            let id = state.next;
            state.outcomes.insert(id, None);
            id
        };
        let request = Request::Start {
            id,
            spec: Box::new(spec),
            has_stdin,
        };
        if let Err(error) = self.0.send(&request, &descriptors) {
            self.0.waiting.lock().outcomes.remove(&id);
            return Err(error);
        }
        Ok(Running {
            id,
            launcher: Arc::clone(&self.0),
        })
    }
}

impl Inner {
    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), LauncherError> {
        let _one_at_a_time = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.channel
            .send(request, descriptors)
            .map_err(|errno| match errno {
                Errno::PIPE | Errno::CONNRESET => LauncherError::Gone,
                Errno::MSGSIZE => LauncherError::Request {
                    reason: "arguments, environment and mounts are too large together".to_owned(),
                },
                other => LauncherError::Request {
                    reason: other.to_string(),
                },
            })
    }

    fn start_reader(&self) -> Result<(), LauncherError> {
        self.reader
            .get_or_init(|| {
                let failed = |error: std::io::Error| LauncherError::Request {
                    reason: format!("can't listen to the process that starts sandboxes: {error}"),
                };
                let channel = self.channel.try_clone().map_err(failed)?;
                let waiting = Arc::clone(&self.waiting);
                std::thread::Builder::new()
                    .name("sandbox-reports".to_owned())
                    .spawn(move || read_reports(&channel, &waiting))
                    .map(drop)
                    .map_err(failed)
            })
            .clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.channel.shutdown();
        // It ends at once, and every sandbox with it.
        let _ = retry(|| {
            rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty())
        });
    }
}

fn read_reports(channel: &Channel, waiting: &Waiting) {
    while let Ok(Some(Received { message, .. })) = channel.receive::<Report>() {
        let mut state = waiting.lock();
        if let Some(outcome) = state.outcomes.get_mut(&message.id) {
            *outcome = Some(message.outcome);
        }
        waiting.changed.notify_all();
    }
    waiting.lock().gone = true;
    waiting.changed.notify_all();
}

/// A step that was started. Dropping it kills the step and waits until nothing of it is left.
#[derive(Debug)]
pub struct Running {
    id: u64,
    launcher: Arc<Inner>,
}

impl Running {
    /// Waits until the sandbox is gone: no process of it lives, nothing of it is mounted.
    ///
    /// # Errors
    /// When the launcher ended before it could tell.
    pub fn wait(&self) -> Result<Outcome, LauncherError> {
        let mut state = self.launcher.waiting.lock();
        loop {
            if let Some(Some(outcome)) = state.outcomes.get(&self.id) {
                return Ok(outcome.clone());
            }
            if state.gone {
                return Err(LauncherError::Gone);
            }
            state = self
                .launcher
                .waiting
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Kills every process of the sandbox. [`Running::wait`] then returns
    /// [`Outcome::Signaled`] with 9, unless the step had ended by itself.
    pub fn kill(&self) {
        // Gone or ended already: nothing to kill.
        let _ = self.launcher.send(&Request::Kill { id: self.id }, &[]);
    }

    /// Sends a signal to the step's own process. One that comes before that process has started
    /// waits for it.
    pub fn signal(&self, signal: u8) {
        let request = Request::Signal {
            id: self.id,
            signal,
        };
        // Gone or ended already: nobody to tell.
        let _ = self.launcher.send(&request, &[]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = matches!(
            self.launcher.waiting.lock().outcomes.get(&self.id),
            Some(Some(_))
        );
        if !ended {
            self.kill();
            let _ = self.wait();
        }
        self.launcher.waiting.lock().outcomes.remove(&self.id);
    }
}
