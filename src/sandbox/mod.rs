//! Sandboxes: each RUN step in namespaces of its own, made directly, without a daemon and
//! without another program.
//!
//! | file | what |
//! |---|---|
//! | [`isolation`] | which kind of isolation works on this machine, and why a better one doesn't |
//! | [`process`] | the processes that exist before any thread, and how they end together |
//! | `own_program` | rbuild's own program, out of the reach of steps |
//! | [`spec`], [`limits`] | what a step wants: plain data |
//! | [`emulation`] | programs of other processors: whether they run here, and making them |
//! | [`cgroup`] | a step's own cgroup below one that the user names |
//! | `launcher` | starts, kills and reaps sandboxes on request |
//! | `init` | process 1 of a sandbox |
//! | `root_filesystem`, `standard_mounts`, `mount`, `in_root` | what a step sees as `/` |
//! | `chroot` | sandboxes without namespaces and mounts |
//! | `step` | user, groups, capabilities, and the program |
//! | [`terminal`] | a terminal of a sandbox's own, and its way out to the main process |
//! | `seccomp` | the system calls that a step may make |
//! | `supervisor` | answers some of them, where the kernel can't keep owners |
//! | `note` | what it writes down |
//! | [`outside`] | other programs, run as the caller |
//! | `id_map` | ids in user namespaces |
//! | `syscall` | the project's unsafe code |
//!
//! This room resolves no user names, makes no mount points in layers, and knows neither the store
//! nor what a layer is: it gets directories and numbers.

pub mod cgroup;
mod cgroup_limits;
mod channel;
mod chroot;
pub mod emulation;
mod id_map;
mod in_root;
mod init;
pub mod isolation;
mod launcher;
pub mod limits;
mod mount;
mod note;
pub mod outside;
mod own_program;
mod private_network;
pub mod process;
mod root_filesystem;
mod seccomp;
pub mod spec;
mod standard_mounts;
mod step;
mod supervisor;
mod syscall;
pub mod terminal;

pub use cgroup::{CgroupError, StepCgroup};
pub use cgroup_limits::{CgroupLimits, Swap};
pub use chroot::fill_dev;
pub use emulation::{Means, PlatformReport, Unavailable};
pub use id_map::IdRange;
pub use isolation::{Isolation, Refusal, Rung};
pub use launcher::{Launcher, LauncherError, Running, SandboxFiles};
pub use limits::{LimitKind, Ulimit, UnknownLimit};
pub use note::Note;
pub use outside::{OutsideError, OutsideHelper, OutsideOutput, OutsideProgram};
pub use private_network::{PrivateNetwork, PrivateNetworkError};
pub use process::{EnterError, Needs, Processes, enter, enter_alone};
pub use spec::{
    FileNames, HighestIds, HostPath, MountSource, Network, NotedOwners, NotedPath, Outcome,
    Resources, STANDARD_MOUNT_POINTS, SandboxMount, SandboxSpec, Security, SetupFailure, Stage,
    StandIn, TerminalSpec, Writable, XattrNamespace,
};
