//! A step's own cgroup: below one that the user names (`--cgroup-parent`), so that the limits and
//! accounts of that one hold for the step, or with limits of its own (`--memory`, `--cpus`).
//!
//! Version 2 only: there a step's processes belong to one group of one tree, and a group that has
//! processes gives its controllers to none below it. So without a parent the step's group lies
//! beside one of those that rbuild itself lies in, the nearest that this user may write to and that
//! has the controllers: on most machines what systemd has delegated to the user.
//!
//! A group belongs to the process that holds its lock. What a killed one leaves behind, the next one
//! that makes a group at the same place removes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::cgroup_limits::CgroupLimits;
use super::mount;

const MOUNT: &str = "/sys/fs/cgroup";
/// The magic number of cgroup version 2's file system.
pub(super) const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Why a step can't have its own cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no version 2 at the usual place.
    #[error(
        "`{parent}` can't be the parent of a step's cgroup: this machine has not just cgroup version 2 on {MOUNT}"
    )]
    Version {
        /// The parent that was asked for.
        parent: String,
    },
    /// The parent's name leads out of the tree.
    #[error("`{parent}` can't be the parent of a step's cgroup: it is no path below {MOUNT}")]
    Name {
        /// The parent that was asked for.
        parent: String,
    },
    /// The same, where no parent was named.
    #[error("this machine has not just cgroup version 2 on {MOUNT}")]
    NoVersion2,
    /// A controller that the limits need and the group hasn't got.
    #[error("the cgroup `{}` has no controller `{controller}`: the group above it must hand it on (with systemd, by `Delegate=` of the unit)", path.display())]
    NoController {
        /// The controller.
        controller: &'static str,
        /// The group.
        path: PathBuf,
    },
    /// The group has processes, and so none below it may have limits.
    #[error("the cgroup `{}` has processes of its own, so none below it can be limited: move them into a group below it, or name another by `--cgroup-parent`", path.display())]
    Occupied {
        /// The group.
        path: PathBuf,
    },
    /// Groups below it are for threads alone.
    #[error("the cgroup `{}` divides the threads of processes, and none below it takes whole ones: name another by `--cgroup-parent`", path.display())]
    Threaded {
        /// The group.
        path: PathBuf,
    },
    /// A value that the kernel doesn't take.
    #[error("the kernel refuses `{value}` for `{}`", path.display())]
    Value {
        /// What was written.
        value: String,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The kernel refuses.
    #[error("can't {action} the cgroup `{}`: it has to be writable for the user who builds", path.display())]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The group.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// An empty cgroup for one step. It is removed when this is dropped, which is to be after the
/// step's end.
#[derive(Debug)]
pub struct StepCgroup {
    parent: OwnedFd,
    name: String,
    processes: OwnedFd,
    /// Holds the lock that says whose it is.
    _group: OwnedFd,
}

impl StepCgroup {
    /// Makes one below `parent`: a path from the top of the cgroup tree, or the name of a slice
    /// as systemd takes it. Parents that don't exist are made, and stay. Without a parent one is
    /// found.
    ///
    /// # Errors
    /// When this machine has another version of cgroups, the user may not write there, or the
    /// limits can't be had.
    pub fn create(parent: Option<&str>, limits: &CgroupLimits) -> Result<Self, CgroupError> {
        let is_version_2 = matches!(mount::filesystem_type(MOUNT), Ok(CGROUP2_MAGIC));
        let Some(parent) = parent else {
            return match is_version_2 {
                true => Self::beside_own(limits),
                false => Err(CgroupError::NoVersion2),
            };
        };
        if !is_version_2 {
            return Err(CgroupError::Version {
                parent: parent.to_owned(),
            });
        }
        let names = components(parent).ok_or_else(|| CgroupError::Name {
            parent: parent.to_owned(),
        })?;
        Self::below(&names, true, limits)
    }

    /// Makes one below the nearest group around rbuild's own where that is possible; else says why
    /// it isn't in the nearest.
    fn beside_own(limits: &CgroupLimits) -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/cgroup");
        let own = std::fs::read_to_string(path).map_err(|source| CgroupError::Refused {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let mut names = own.and_then(components).unwrap_or_default();
        let mut first = None;
        loop {
            // Its own group has at least this process in it; only the topmost may have both.
            names.pop();
            match Self::below(&names, false, limits) {
                Ok(made) => return Ok(made),
                Err(error) => first = first.or(Some(error)),
            }
            if names.is_empty() {
                return Err(first.unwrap_or(CgroupError::NoVersion2));
            }
        }
    }

    /// Makes one below the group of these names.
    fn below(names: &[String], makes: bool, limits: &CgroupLimits) -> Result<Self, CgroupError> {
        let controllers = limits.controllers();
        let mut path = PathBuf::from(MOUNT);
        let mut directory = open(rustix::fs::CWD, Path::new(MOUNT))
            .map_err(|errno| refused("open", &path, errno))?;
        for name in names {
            if makes {
                hand_on(&directory, &path, &controllers)?;
                make(directory.as_fd(), name)
                    .map_err(|errno| refused("make", &path.join(name), errno))?;
            }
            path.push(name);
            directory = open(directory.as_fd(), Path::new(name))
                .map_err(|errno| refused("open", &path, errno))?;
        }
        hand_on(&directory, &path, &controllers)?;
        remove_left_behind(&directory);
        let (name, group) = own_group(&directory, &path)?;
        match set_up(&group, &name, &path, limits) {
            Ok(processes) => Ok(Self {
                parent: directory,
                name,
                processes,
                _group: group,
            }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    /// The open file through which a process enters.
    ///
    /// # Errors
    /// When this process has too many open files.
    pub fn processes(&self) -> std::io::Result<OwnedFd> {
        self.processes.try_clone()
    }
}

impl Drop for StepCgroup {
    fn drop(&mut self) {
        // Should a process of it live on, an empty group stays behind and hurts nobody.
        let _ = rustix::fs::unlinkat(&self.parent, self.name.as_str(), AtFlags::REMOVEDIR);
    }
}

/// Moves this process into a group.
pub(super) fn enter(processes: &OwnedFd) -> Result<(), Errno> {
    rustix::io::write(processes, b"0").map(drop)
}

/// Sets a new group's limits and opens the file by which it is entered.
fn set_up(
    group: &OwnedFd,
    name: &str,
    parent: &Path,
    limits: &CgroupLimits,
) -> Result<OwnedFd, CgroupError> {
    let path = &parent.join(name);
    let kind = read(group, "cgroup.type").map_err(|errno| refused("read the type of", path, errno));
    if kind?.trim() != "domain" {
        return Err(CgroupError::Threaded {
            path: parent.to_owned(),
        });
    }
    for setting in limits.settings() {
        match write(group, setting.file, setting.value.as_bytes()) {
            // A kernel may count no swap.
            Err(Errno::NOENT) if !setting.is_asked_for => {}
            other => other.map_err(|errno| CgroupError::Value {
                path: path.join(setting.file),
                value: setting.value,
                source: errno.into(),
            })?,
        }
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(group, "cgroup.procs", flags, Mode::empty())
        .map_err(|errno| refused("put processes into", path, errno))
}

/// Has a group hand controllers on to those below it.
fn hand_on(group: &OwnedFd, path: &Path, controllers: &[&'static str]) -> Result<(), CgroupError> {
    if controllers.is_empty() {
        return Ok(());
    }
    let read = |file: &str| {
        read(group, file).map_err(|errno| refused("read the controllers of", path, errno))
    };
    let (there, given) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let has = |list: &str, controller: &str| list.split_whitespace().any(|one| one == controller);
    for &controller in controllers {
        if has(&given, controller) {
            continue;
        }
        if !has(&there, controller) {
            return Err(CgroupError::NoController {
                controller,
                path: path.to_owned(),
            });
        }
        let occupied = || CgroupError::Occupied {
            path: path.to_owned(),
        };
        // For some controllers the kernel would make of it a group that divides threads.
        if is_occupied(group) {
            return Err(occupied());
        }
        let line = format!("+{controller}");
        write(group, "cgroup.subtree_control", line.as_bytes()).map_err(|errno| match errno {
            Errno::BUSY => occupied(),
            errno => refused("hand controllers on from", path, errno),
        })?;
    }
    Ok(())
}

/// Whether a group has processes and may not have both them and limited groups below it: the
/// topmost one, which has no type, may.
fn is_occupied(group: &OwnedFd) -> bool {
    let has_type = rustix::fs::accessat(group, "cgroup.type", Access::EXISTS, AtFlags::empty());
    has_type.is_ok() && read(group, "cgroup.procs").is_ok_and(|list| !list.is_empty())
}

fn read(group: &OwnedFd, file: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(group, file, flags, Mode::empty())?;
    // A line of a dozen names, or the first of a list.
    let mut content = [0; 4096];
    let length = rustix::io::read(&file, &mut content)?;
    Ok(String::from_utf8_lossy(&content[..length]).into_owned())
}

fn write(group: &OwnedFd, file: &str, content: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(group, file, flags, Mode::empty())?;
    rustix::io::write(&file, content).map(drop)
}

/// A new group of a name that nobody else has, and locked.
fn own_group(parent: &OwnedFd, path: &Path) -> Result<(String, OwnedFd), CgroupError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = std::process::id();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{process}-{number}");
        match rustix::fs::mkdirat(parent, name.as_str(), Mode::from(0o755)) {
            // Until it was locked, another process could take it for one that is left behind.
            Ok(()) => match lock(parent, &name) {
                Ok(group) if is_there(parent, &name, &group) => return Ok((name, group)),
                Ok(_) | Err(Errno::NOENT | Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(refused("lock", &path.join(name), errno)),
            },
            // Of an rbuild in another process id namespace, or one that was killed.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(refused("make", &path.join(name), errno)),
        }
    }
}

const PREFIX: &str = "rbuild-";

fn lock(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let group = open(parent.as_fd(), Path::new(name))?;
    rustix::fs::flock(&group, FlockOperation::NonBlockingLockExclusive)?;
    Ok(group)
}

fn is_there(parent: &OwnedFd, name: &str, group: &OwnedFd) -> bool {
    let named = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let opened = rustix::fs::fstat(group);
    matches!((named, opened), (Ok(named), Ok(opened)) if named.st_ino == opened.st_ino)
}

/// Removes the groups of processes that were killed. What can't be removed hurts nobody.
fn remove_left_behind(parent: &OwnedFd) {
    let Ok(entries) = Dir::read_from(parent) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let Some(name) = entry.file_name().to_str().ok().filter(|name| is_own(name)) else {
            continue;
        };
        if let Ok(_locked) = lock(parent, name) {
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Whether a name is of the kind that groups of steps have.
fn is_own(name: &str) -> bool {
    let numbers = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

fn make(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::from(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn open(parent: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, path, flags, Mode::empty())
}

fn refused(action: &'static str, path: &Path, errno: Errno) -> CgroupError {
    CgroupError::Refused {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// The groups on the way to `parent`. The slice `a-b.slice` lies in `a.slice`, as systemd lays
/// slices out.
fn components(parent: &str) -> Option<Vec<String>> {
    if let Some(slice) = parent.strip_suffix(".slice")
        && !parent.contains('/')
        && !slice.is_empty()
    {
        let ends = slice.match_indices('-').map(|(end, _)| end);
        let ends = ends.chain([slice.len()]);
        return Some(ends.map(|end| format!("{}.slice", &slice[..end])).collect());
    }
    let names: Vec<String> = parent
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .map(str::to_owned)
        .collect();
    let is_below = !names.is_empty() && names.iter().all(|name| name != "..");
    (is_below && !parent.contains('\0')).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_steps_are_taken_for_some() {
        for (name, expected) in [
            ("rbuild-12-0", true),
            ("rbuild-12", false),
            ("rbuild-12-", false),
            ("rbuild--1", false),
            ("rbuild-12-0-1", false),
            ("rbuild-ci-1", false),
            ("my-rbuild-12-0", false),
        ] {
            assert_eq!(is_own(name), expected, "{name}");
        }
    }

    #[test]
    fn a_parent_is_a_path_or_a_slice() {
        for (parent, expected) in [
            ("/ci/builds", Some("ci/builds")),
            ("ci", Some("ci")),
            ("./ci//builds/", Some("ci/builds")),
            ("ci.slice", Some("ci.slice")),
            (
                "ci-builds-x.slice",
                Some("ci.slice/ci-builds.slice/ci-builds-x.slice"),
            ),
            ("/ci.slice/a-b.slice", Some("ci.slice/a-b.slice")),
            ("/", None),
            ("", None),
            ("../ci", None),
            ("ci/..", None),
        ] {
            let found = components(parent).map(|names| names.join("/"));
            assert_eq!(found.as_deref(), expected, "{parent}");
        }
    }
}
