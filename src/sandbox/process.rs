//! The processes that must exist before any thread: where trees are needed, this enters the
//! namespaces that were found to work, and forks the launcher and the outside helper.
//!
//! ```text
//! caller's namespaces      rbuild's user and mount namespace        one per step
//! ─────────────────────    ─────────────────────────────────        ────────────────────────
//! outside helper ◀──────── main ────────▶ launcher ────────────────▶ init ────▶ the step
//!   └▶ git, credential       threads        one thread               process 1
//!      helpers, …            begin here
//! ```
//!
//! If main dies, however it dies, the helper and the launcher see the end of their connection and
//! get a signal; each sandbox's init sees the end of a pipe that main holds; and when an init
//! ends, the kernel kills what runs in its sandbox. Mounts exist in these namespaces only, so
//! they go with the last process.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::pipe::PipeFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::channel::Channel;
use super::id_map::{IdMaps, IdRange};
use super::isolation::{self, Found, Isolation, Namespaces, Refusal, Rung};
use super::launcher::{self, Confinement, Launcher};
use super::outside::{self, OutsideHelper};
use super::own_program;
use super::spec::XattrNamespace;
use super::syscall::{self, Fork};

/// What the command at hand needs of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Whether it touches layer trees: runs steps, mounts or extracts layers.
    pub trees: bool,
    /// The rung to use; the strongest that works if none is given.
    pub isolation: Option<Rung>,
    /// Folders in which emulators of other processors are looked for: those of PATH.
    pub emulators: Vec<PathBuf>,
    /// Whether `main` begins with [`resume_launcher`]: then steps can't reach this program's file.
    pub resumes_launcher: bool,
    /// A folder on the file system where trees are, to find out whether overlay can write there.
    pub folder: Option<PathBuf>,
}

/// The processes, and what is known about where this one now is.
#[derive(Debug)]
pub struct Processes {
    /// Starts sandboxes; none where nothing needs trees, or on [`Isolation::None`].
    pub launcher: Option<Launcher>,
    /// Runs foreign programs as the caller.
    pub outside: OutsideHelper,
    /// The isolation in force.
    pub isolation: Isolation,
    /// Stronger rungs that don't work here.
    pub refusals: Vec<Refusal>,
    /// User ids as this process sees them, and what they are for its parent namespace.
    pub uid_map: Vec<IdRange>,
    /// The same for groups.
    pub gid_map: Vec<IdRange>,
    /// Which extended attributes overlay can use here.
    pub xattr_namespace: XattrNamespace,
    /// Why overlay can't write where trees are; `None` where it can, or nobody asked.
    pub overlay_refusal: Option<String>,
}

/// Why the processes can't be had.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// Programming error: a thread exists.
    #[error("namespaces can be entered by a process with one thread only")]
    Threads,
    /// The rung that was asked for doesn't work here.
    #[error("the isolation `{}` doesn't work here: {}: {}{}", .0.rung, .0.tried, .0.reason,
            .0.fix.as_ref().map(|fix| format!("; to fix it: {fix}")).unwrap_or_default())]
    Refused(Box<Refusal>),
    /// A system call failed that had worked in the probe.
    #[error("can't {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl EnterError {
    fn system<E: Into<std::io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::System {
            action,
            source: error.into(),
        }
    }
}

/// Sets up the processes. To be called once, by `main`, before any thread.
///
/// # Errors
/// When threads exist, when the rung asked for doesn't work, or when the system is out of
/// processes, memory or descriptors.
pub fn enter(needs: &Needs) -> Result<Processes, EnterError> {
    if !needs.trees {
        return without_sandbox(Vec::new());
    }
    if has_threads() {
        return Err(EnterError::Threads);
    }
    let (found, refusals) = find(needs.isolation, needs.folder.as_deref())?;
    if found.isolation == Isolation::None {
        return without_sandbox(refusals);
    }
    if found.isolation == Isolation::Chroot {
        return without_namespaces(&found, refusals, needs);
    }
    let outside = match &found.namespaces {
        Some(namespaces) => {
            let outside = start_outside_helper()?;
            join(namespaces)?;
            outside
        }
        None => {
            syscall::unshare(UnshareFlags::NEWNS)
                .map_err(EnterError::system("make a mount namespace"))?;
            OutsideHelper::direct()
        }
    };
    // The host's mounts and unmounts arrive here; ours never leave.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(EnterError::system("make mounts private to this process"))?;
    let launcher = start_launcher(needs, Confinement::Namespaces)?;
    let maps = IdMaps::current().map_err(EnterError::system("read this process's id maps"))?;
    Ok(Processes {
        overlay_refusal: found.overlay_refusal(),
        launcher: Some(launcher),
        outside,
        isolation: found.isolation,
        refusals,
        uid_map: maps.users,
        gid_map: maps.groups,
        xattr_namespace: found.xattr_namespace,
    })
}

/// Steps share this process's namespaces.
fn without_namespaces(
    found: &Found,
    refusals: Vec<Refusal>,
    needs: &Needs,
) -> Result<Processes, EnterError> {
    // Steps are the same user, and the kernel lets that user look into processes like itself.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(EnterError::system("hide this process's memory"))?;
    let maps = IdMaps::current().map_err(EnterError::system("read this process's id maps"))?;
    Ok(Processes {
        overlay_refusal: found.overlay_refusal(),
        launcher: Some(start_launcher(needs, Confinement::Chroot)?),
        outside: OutsideHelper::direct(),
        isolation: Isolation::Chroot,
        refusals,
        uid_map: maps.users,
        gid_map: maps.groups,
        xattr_namespace: found.xattr_namespace,
    })
}

/// Enters rbuild's user and mount namespace with this very process, which is to become another
/// program: no other process is started. Gives the isolation, for which nothing is entered where
/// it needs no user namespace, and the stronger ones that don't work here.
///
/// # Errors
/// When threads exist, when the rung asked for doesn't work, or when the system is out of
/// processes, memory or descriptors.
pub fn enter_alone(wanted: Option<Rung>) -> Result<(Isolation, Vec<Refusal>), EnterError> {
    if has_threads() {
        return Err(EnterError::Threads);
    }
    let (found, refusals) = find(wanted, None)?;
    if let Some(namespaces) = &found.namespaces {
        join(namespaces)?;
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(EnterError::system("make mounts private to this process"))?;
    }
    Ok((found.isolation, refusals))
}

/// Enters what was found to work, for a process that ends with what it tries there.
pub(super) fn enter_found(found: &Found) -> Result<(), EnterError> {
    found.namespaces.as_ref().map_or(Ok(()), join)
}

fn without_sandbox(refusals: Vec<Refusal>) -> Result<Processes, EnterError> {
    let maps = IdMaps::current().map_err(EnterError::system("read this process's id maps"))?;
    Ok(Processes {
        launcher: None,
        outside: OutsideHelper::direct(),
        isolation: Isolation::None,
        refusals,
        uid_map: maps.users,
        gid_map: maps.groups,
        xattr_namespace: XattrNamespace::User,
        overlay_refusal: None,
    })
}

fn has_threads() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1)
}

/// The strongest rung that works, or the one asked for, and those that were refused before it.
fn find(wanted: Option<Rung>, folder: Option<&Path>) -> Result<(Found, Vec<Refusal>), EnterError> {
    if let Some(rung) = wanted {
        return match isolation::attempt(rung, folder) {
            Ok(found) => Ok((found, Vec::new())),
            Err(refusal) => Err(EnterError::Refused(Box::new(refusal))),
        };
    }
    let mut refusals = Vec::new();
    for rung in Rung::SANDBOXES {
        match isolation::attempt(rung, folder) {
            Ok(found) => return Ok((found, refusals)),
            Err(refusal) => refusals.push(refusal),
        }
    }
    let none = isolation::attempt(Rung::None, None)
        .map_err(|refusal| EnterError::Refused(Box::new(refusal)))?;
    Ok((none, refusals))
}

/// Enters namespaces that a probe made and tried.
fn join(namespaces: &Namespaces) -> Result<(), EnterError> {
    let cwd = std::env::current_dir();
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespaces.user),
        Some(LinkNameSpaceType::User),
    )
    .map_err(EnterError::system("enter a user namespace"))?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespaces.mount),
        Some(LinkNameSpaceType::Mount),
    )
    .map_err(EnterError::system("enter a mount namespace"))?;
    // Entering a mount namespace leads to its root.
    cwd.and_then(std::env::set_current_dir)
        .map_err(EnterError::system("return to the working directory"))
}

fn start_outside_helper() -> Result<OutsideHelper, EnterError> {
    let failed = || EnterError::system("start the process that runs other programs");
    let (near, far) = Channel::pair().map_err(failed())?;
    match syscall::fork().map_err(failed())? {
        Fork::Child => {
            if launcher::become_helper(&[&std::os::fd::AsFd::as_fd(&far)]).is_err() {
                syscall::exit(1);
            }
            never_return(move || outside::serve(far))
        }
        Fork::Parent(pid) => Ok(OutsideHelper::remote(pid, near)),
    }
}

fn start_launcher(needs: &Needs, confinement: Confinement) -> Result<Launcher, EnterError> {
    let (emulators, resumes) = (needs.emulators.clone(), needs.resumes_launcher);
    let failed = || EnterError::system("start the process that starts sandboxes");
    let (near, far) = Channel::pair().map_err(failed())?;
    let (lifeline, held): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed())?;
    match syscall::fork().map_err(failed())? {
        Fork::Child => {
            if launcher::become_helper(&[&std::os::fd::AsFd::as_fd(&far), &lifeline]).is_err() {
                syscall::exit(1);
            }
            // Every step can read the command line of its process 1, which is a copy of this one:
            // no build argument, no path of a secret is a step's to know.
            syscall::replace_command_line(b"rbuild");
            never_return(move || {
                if resumes {
                    launcher::serve_as_copy(&far, &lifeline, &emulators, confinement);
                }
                launcher::serve(far, lifeline, emulators, confinement)
            })
        }
        Fork::Parent(pid) => Ok(Launcher::new(pid, near, held, confinement)),
    }
}

/// Goes on as a launcher where this process is one that has become a copy of its program; returns in
/// every other. To be called first by a `main` whose [`Needs`] say so.
pub fn resume_launcher() {
    let Some(resumed) = own_program::resumed() else {
        return;
    };
    syscall::replace_command_line(b"rbuild");
    if resumed.confinement == Confinement::Chroot {
        // As before: another program is looked into like any other.
        let hidden = rustix::process::DumpableBehavior::NotDumpable;
        if rustix::process::set_dumpable_behavior(hidden).is_err() {
            syscall::exit(1);
        }
    }
    never_return(move || {
        launcher::serve(
            resumed.channel.into(),
            resumed.lifeline,
            resumed.emulators,
            resumed.confinement,
        )
    })
}

/// Keeps a forked process from ever getting back into the code of the one it was forked from.
fn never_return(serve: impl FnOnce() -> std::convert::Infallible + std::panic::UnwindSafe) -> ! {
    let _ = std::panic::catch_unwind(serve);
    syscall::exit(101)
}

impl From<Errno> for EnterError {
    fn from(errno: Errno) -> Self {
        Self::System {
            action: "set up processes",
            source: errno.into(),
        }
    }
}
