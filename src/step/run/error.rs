//! Why a RUN step failed.

use std::io;

use crate::layer::LayerError;
use crate::layer::view::ViewError;
use crate::sandbox::{CgroupError, LauncherError, PrivateNetworkError, SetupFailure};

/// Why a RUN step failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program ended with a code other than zero.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit {
        /// The command line.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// The program was ended by a signal.
    #[error(
        "process {command:?} did not complete successfully: exit code: {}: killed by {}",
        128 + signal,
        signal_name(*signal)
    )]
    Signal {
        /// The command line.
        command: String,
        /// The signal.
        signal: i32,
    },
    /// The program could not be started.
    #[error("process {command:?} did not start: {message}")]
    NotStarted {
        /// The command line.
        command: String,
        /// The code that a shell would give.
        code: i32,
        /// Why.
        message: String,
    },
    /// The sandbox could not be made.
    #[error(transparent)]
    Setup(#[from] SetupFailure),
    /// The step can't have a cgroup of its own below the one that was asked for.
    #[error("`--cgroup-parent`: {0}")]
    CgroupParent(#[source] CgroupError),
    /// The step can't have a cgroup with limits of its own.
    #[error("can't limit what a step uses of the machine: {0}")]
    Limits(#[source] CgroupError),
    /// There is no private network.
    #[error(transparent)]
    Network(#[from] PrivateNetworkError),
    /// Sandboxes can't be started any more.
    #[error(transparent)]
    Launcher(LauncherError),
    /// There is no sandbox on this machine.
    #[error("RUN needs a sandbox, and this machine gives none: {0}")]
    NoSandbox(String),
    /// A required secret that the build was not given.
    #[error("secret {0}: not found")]
    NoSecret(String),
    /// A required agent that the build was not given.
    #[error(
        "no SSH key {0:?} forwarded from the client: name an agent or a key with `--ssh {0}[=PATH]`"
    )]
    NoAgent(String),
    /// A secret for an environment variable that is no text.
    #[error("secret {0} can't be an environment variable: its value is not text")]
    SecretIsNotText(String),
    /// A mount's source that isn't there.
    #[error("failed to mount `{mount}`: `{source_path}`: not found")]
    NoSource {
        /// The mount's target.
        mount: String,
        /// What it should have shown.
        source_path: String,
    },
    /// A mount's target, or the working directory, that leads nowhere.
    #[error("`{path}`: {source}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: ViewError,
    },
    /// A file or folder of this machine that isn't there to be mounted.
    #[error("can't mount `{}` on `{target}`: {source}", host_path.display())]
    HostPath {
        /// The path.
        host_path: std::path::PathBuf,
        /// Where it should have been seen.
        target: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The step's changes can't be read.
    #[error("reading the step's changes: {0}")]
    Changes(#[source] LayerError),
    /// Something that only a mount can show.
    #[error(
        "with the isolation `chroot` this can't be shown at `{target}`: nothing can be mounted"
    )]
    NoMounts {
        /// Where it should have been seen.
        target: String,
    },
    /// A cache that a step names twice.
    #[error("`{0}`: with the isolation `chroot` a step can have one cache in one place only")]
    CacheTwice(String),
    /// Something can't be put into the step's folder, or not be taken away again.
    #[error("can't {operation} `{path}`: {source}")]
    Fixture {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The path, inside of the step's file system.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

impl RunError {
    /// Whether the sandbox was as it should be and its program failed.
    pub fn is_of_the_program(&self) -> bool {
        matches!(
            self,
            Self::Exit { .. } | Self::Signal { .. } | Self::NotStarted { .. }
        )
    }

    /// How the program ended, without the command line.
    pub(super) fn ending(&self) -> String {
        match self {
            Self::Exit { code, .. } => format!("exit code: {code}"),
            Self::Signal { signal, .. } => format!("killed by {}", signal_name(*signal)),
            Self::NotStarted { message, .. } => format!("did not start: {message}"),
            error => error.to_string(),
        }
    }
}

/// A signal's name, with the likely cause of the one that nobody sends without one.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL, perhaps out of memory",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Turns a system error into one that says what was tried.
pub(in crate::step) fn failed(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Io { what, source }
}
