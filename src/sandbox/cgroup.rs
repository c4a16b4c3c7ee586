//! A step's own cgroup below one that the user names (`--cgroup-parent`), so that the limits and
//! accounts of that one hold for the step.
//!
//! Version 2 only: there a step's processes belong to one group of one tree. Nothing is limited
//! here; whoever made the parent has said what it may use.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

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
}

impl StepCgroup {
    /// Makes one below `parent`: a path from the top of the cgroup tree, or the name of a slice
    /// as systemd takes it. Parents that don't exist are made, and stay.
    ///
    /// # Errors
    /// When this machine has another version of cgroups or the user may not write there.
    pub fn create(parent: &str) -> Result<Self, CgroupError> {
        if !matches!(mount::filesystem_type(MOUNT), Ok(CGROUP2_MAGIC)) {
            return Err(CgroupError::Version {
                parent: parent.to_owned(),
            });
        }
        let names = components(parent).ok_or_else(|| CgroupError::Name {
            parent: parent.to_owned(),
        })?;
        let mut path = PathBuf::from(MOUNT);
        let mut directory = open(rustix::fs::CWD, Path::new(MOUNT))
            .map_err(|errno| refused("open", &path, errno))?;
        for name in names {
            path.push(&name);
            make(directory.as_fd(), &name).map_err(|errno| refused("make", &path, errno))?;
            directory = open(directory.as_fd(), Path::new(&name))
                .map_err(|errno| refused("open", &path, errno))?;
        }
        let name = own_name(&directory, &path)?;
        path.push(&name);
        let processes = open(directory.as_fd(), Path::new(&name)).and_then(|group| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&group, "cgroup.procs", flags, Mode::empty())
        });
        match processes {
            Ok(processes) => Ok(Self {
                parent: directory,
                name,
                processes,
            }),
            Err(errno) => {
                let _ = rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::REMOVEDIR);
                Err(refused("put processes into", &path, errno))
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

/// A new group of a name that nobody else has.
fn own_name(parent: &OwnedFd, path: &Path) -> Result<String, CgroupError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = std::process::id();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rbuild-{process}-{number}");
        match rustix::fs::mkdirat(parent, name.as_str(), Mode::from(0o755)) {
            Ok(()) => return Ok(name),
            // Of an rbuild in another process id namespace, or one that was killed.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(refused("make", &path.join(name), errno)),
        }
    }
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
