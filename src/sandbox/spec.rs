//! What one step of a build wants of its sandbox: plain data, made by the caller, sent to the
//! launcher, carried out by the sandbox's init process.
//!
//! Numbers only: whoever makes a spec has resolved user and group names. Paths named
//! [`HostPath`] are the caller's own; paths of bytes lie inside the sandbox's root file system
//! and are never opened as a string.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::limits::Ulimit;

/// Directories that every sandbox mounts over and that therefore must exist in the root file
/// system, as real directories, before a sandbox is started.
pub const STANDARD_MOUNT_POINTS: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Overlay's own limit on the number of lower directories.
pub const MAX_LOWER_DIRECTORIES: usize = 500;

/// A path as the caller sees it, outside every sandbox. Any bytes are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPath(OsString);

impl HostPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl<T: Into<PathBuf>> From<T> for HostPath {
    fn from(path: T) -> Self {
        Self(path.into().into_os_string())
    }
}

/// Where overlay keeps its opaque marks and whiteouts' attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum XattrNamespace {
    /// `trusted.overlay.*`: outside of user namespaces.
    Trusted,
    /// `user.overlay.*`: within a user namespace.
    User,
}

/// Which network a step sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A private one with nothing but a loopback device.
    None,
    /// That of a [`PrivateNetwork`](super::PrivateNetwork): its namespace is the file of this
    /// index in [`SandboxFiles::passed`](super::SandboxFiles).
    Private(usize),
}

/// What a step may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's default: fourteen capabilities, its system call filter, masked and read-only
    /// paths.
    Sandbox,
    /// All capabilities, no filter, nothing masked (`RUN --security=insecure`).
    Insecure,
}

/// One file, directory or file system put into a sandbox's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMount {
    /// Where, inside the root; links are followed, inside the root. It must exist, unless it
    /// lies below another mount of this sandbox, where it is created.
    pub target: Vec<u8>,
    /// What.
    pub source: MountSource,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// What a [`SandboxMount`] shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file, directory or socket of the host: `path` resolved inside `root`, never outside of
    /// it. An empty `path` is `root` itself.
    Path {
        /// A directory (or, with an empty `path`, anything).
        root: HostPath,
        /// A path inside `root`.
        path: Vec<u8>,
        /// Whether mounts below it come along.
        recursive: bool,
    },
    /// An open file or directory: the `index`th of [`SandboxFiles::passed`](super::SandboxFiles),
    /// each of which can be mounted once.
    Descriptor {
        /// Which one.
        index: usize,
        /// Whether mounts below it come along.
        recursive: bool,
    },
    /// A path inside a stack of layer trees.
    Layers {
        /// The trees, topmost first. At least one.
        lower: Vec<HostPath>,
        /// Where writes go; without it the mount is read-only.
        writable: Option<Writable>,
        /// A path inside the stack; empty for its root.
        path: Vec<u8>,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
        /// Whether programs on it may be run.
        executable: bool,
    },
    /// A file in memory with the content of the `index`th of
    /// [`SandboxFiles::passed`](super::SandboxFiles), which is in memory, too.
    File {
        /// Whether no disk may ever hold it, not even where nothing can be mounted.
        is_secret: bool,
        /// Which one.
        index: usize,
        /// Permission bits.
        mode: u32,
        /// Owner inside the sandbox.
        uid: u32,
        /// Group inside the sandbox.
        gid: u32,
    },
}

/// Two directories on one file system that take overlay's writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writable {
    /// The upper directory.
    pub upper: HostPath,
    /// The work directory: empty, and used for one sandbox only.
    pub work: HostPath,
}

/// What a step may use of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Limits of its processes; others are the caller's.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes; 64 MiB if not said.
    pub shm_size: Option<u64>,
    /// The cgroup that it belongs to: `cgroup.procs` of one, open for writing, is the file of
    /// this index in [`SandboxFiles::passed`](super::SandboxFiles).
    pub cgroup: Option<usize>,
}

/// How owners of files are kept that the machine has no ids for: noted by a supervisor of the step's
/// system calls, which `Security::Insecure` goes without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedOwners {
    /// Files of the image that can carry no attribute, and are not root's.
    pub noted: Vec<NotedPath>,
    /// Which files of the step may not be what the kernel says; `None` where that isn't known.
    pub names: Option<FileNames>,
    /// Which of [`SandboxFiles::passed`](super::SandboxFiles) takes the [`Note`](super::Note)s on what
    /// the step makes or changes and can't carry an attribute.
    pub notes: usize,
    /// Where no file of the image has an owner beyond the mapped ids, nor is a device: who a file
    /// belongs to that the step gives to such a one. What it gives so, and the devices that it makes,
    /// are noted, all of them in `notes`, and it sees nothing of that. `None` where every owner is
    /// noted, and what was noted is seen.
    pub stand_in: Option<HighestIds>,
}

/// Names of files, without folders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNames {
    /// Of those that may not be what the kernel says.
    pub noted: Vec<Vec<u8>>,
    /// Of symbolic links.
    pub links: Vec<Vec<u8>>,
}

/// A file that a step sees where nothing can be mounted: an empty one lies in its place, and a
/// supervisor of the step's system calls gives the content to whoever opens that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    /// Which of [`SandboxFiles::passed`](super::SandboxFiles) is the empty file.
    pub place: usize,
    /// Which of them is the file in memory, with the mode and owner that the step is to see.
    pub content: usize,
}

/// The highest ids up to which all are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HighestIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A file and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedPath {
    /// Where, inside the root.
    pub path: Vec<u8>,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A step and everything around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The platform that its programs are for, as text: `linux/arm64`.
    pub platform: String,
    /// The layer trees below, topmost first; empty for `scratch`. At most
    /// [`MAX_LOWER_DIRECTORIES`].
    pub lower: Vec<HostPath>,
    /// Where the step's changes go.
    pub writable: Writable,
    /// The whole root file system as one folder that is worked on in place: then nothing is
    /// stacked, and `lower` and `writable` mean nothing.
    pub folder: Option<HostPath>,
    /// The form of the trees.
    pub xattr_namespace: XattrNamespace,
    /// Mounts, made in this order.
    pub mounts: Vec<SandboxMount>,
    /// Files in memory where nothing can be mounted.
    pub stand_ins: Vec<StandIn>,
    /// The program and its arguments; a name without slash is looked up in `PATH` of `env`.
    pub args: Vec<String>,
    /// The whole environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside the root. It must exist.
    pub cwd: Vec<u8>,
    /// User of the step.
    pub uid: u32,
    /// Group of the step.
    pub gid: u32,
    /// Supplementary groups. Left out where only one id is mapped.
    pub groups: Vec<u32>,
    /// Host name that the step sees.
    pub hostname: String,
    /// Network that the step sees.
    pub network: Network,
    /// What the step may do.
    pub security: Security,
    /// Whether the root file system refuses writing; mounts decide for themselves.
    pub read_only: bool,
    /// A terminal of the sandbox's own for the standard streams.
    pub terminal: Option<TerminalSpec>,
    /// What the step may use of the machine.
    pub resources: Resources,
    /// How owners are kept that the machine can't give; `None` where it can give all.
    pub owners: Option<NotedOwners>,
}

impl SandboxSpec {
    /// Whether a supervisor keeps every owner.
    pub(super) fn notes_every_owner(&self) -> bool {
        (self.owners.as_ref()).is_some_and(|owners| owners.stand_in.is_none())
    }
}

/// A terminal made inside of a sandbox, so that programs there know it by a name of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSpec {
    /// Which of [`SandboxFiles::passed`](super::SandboxFiles) is the line that the terminal's
    /// other side is sent through, from [`terminal::line`](super::terminal::line).
    pub line: usize,
    /// Its size before anything is written to it: rows and columns.
    pub size: Option<(u16, u16)>,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The step's process ended by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// The step's process was ended by a signal, or the sandbox was killed (9).
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// The program could not be started: not found (127) or not executable (126).
    NotExecutable {
        /// The exit code that a shell would give.
        code: i32,
        /// Why, in Docker's words, such as ``exec: "foo": executable file not found in $PATH``.
        message: String,
    },
    /// The sandbox could not be made.
    SetupFailed(SetupFailure),
}

/// Which part of making a sandbox failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The request itself was not acceptable.
    Request,
    /// Running programs of another processor.
    Platform,
    /// Making the namespaces.
    Namespaces,
    /// Mounting the root file system.
    Root,
    /// Mounting `/proc`.
    Proc,
    /// Making `/dev`.
    Dev,
    /// Mounting `/sys`.
    Sys,
    /// One of the spec's mounts.
    Mount,
    /// Masking paths of the kernel or making them read-only.
    Mask,
    /// Changing into the root file system.
    Pivot,
    /// Changing into the working directory.
    WorkingDirectory,
    /// Setting the host name.
    Hostname,
    /// Bringing up the network.
    Network,
    /// Entering the cgroup.
    Cgroup,
    /// Setting limits.
    Limits,
    /// Taking on user and groups.
    User,
    /// Giving up capabilities.
    Capabilities,
    /// Installing the system call filter.
    Seccomp,
    /// Standard streams and process state.
    Process,
    /// Making a terminal.
    Terminal,
}

/// Why a sandbox could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct SetupFailure {
    /// The part.
    pub stage: Stage,
    /// The path concerned, if one is: of the host, or inside the root, as `message` says.
    pub path: Option<String>,
    /// The kernel's error number, 0 if it is not the kernel that refused.
    pub errno: i32,
    /// What was tried.
    pub message: String,
}

impl std::fmt::Display for SetupFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whose name says it all.
        if self.stage == Stage::Platform && self.errno == 0 {
            return f.write_str(&self.message);
        }
        write!(f, "can't set up the sandbox: {}", self.message)?;
        if let Some(path) = &self.path {
            write!(f, " `{path}`")?;
        }
        if self.errno != 0 {
            write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl SetupFailure {
    /// A failure that names a path.
    pub(super) fn at(
        stage: Stage,
        message: &str,
        path: impl AsRef<[u8]>,
        error: rustix::io::Errno,
    ) -> Self {
        Self {
            stage,
            path: Some(String::from_utf8_lossy(path.as_ref()).into_owned()),
            errno: error.raw_os_error(),
            message: message.to_owned(),
        }
    }

    /// A failure that names no path.
    pub(super) fn new(stage: Stage, message: impl Into<String>, error: rustix::io::Errno) -> Self {
        Self {
            stage,
            path: None,
            errno: error.raw_os_error(),
            message: message.into(),
        }
    }

    /// A request that can't be carried out as it stands.
    pub(super) fn request(message: impl Into<String>) -> Self {
        Self {
            stage: Stage::Request,
            path: None,
            errno: 0,
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_failure_names_what_failed() {
        let failure = SetupFailure::at(
            Stage::Mount,
            "no mount point",
            b"/run/secrets/x",
            rustix::io::Errno::NOENT,
        );
        assert_eq!(
            failure.to_string(),
            "can't set up the sandbox: no mount point `/run/secrets/x`: No such file or directory (os error 2)"
        );
    }
}
