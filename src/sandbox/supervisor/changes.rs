//! The folder that takes a step's changes, and what a file of the step's root file system is there.
//!
//! Looks only. The folder's path is nothing to the step, which sees it through its own mount.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::stat::Shown;
use crate::sandbox::spec::{SandboxSpec, SetupFailure, Stage};

/// Opens the folder, where a supervisor will look there.
pub(in crate::sandbox) fn open(spec: &SandboxSpec) -> Result<Option<OwnedFd>, SetupFailure> {
    if spec.owners.is_none() {
        return Ok(None);
    }
    let folder = spec.folder.as_ref().unwrap_or(&spec.writable.upper);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder.as_path(), flags, Mode::empty())
        .map(Some)
        .map_err(|errno| {
            let path = folder.as_path().as_os_str().as_encoded_bytes();
            SetupFailure::at(Stage::Root, "can't open the directory", path, errno)
        })
}

/// What the file `name`, which is `shown`, is in the folder `changes`; `None` if it isn't of the root
/// file system, whose device is `root`, or not there.
pub(super) fn stored_file(
    changes: &OwnedFd,
    root: (u32, u32),
    name: &CStr,
    shown: &Shown,
) -> Option<OwnedFd> {
    if shown.device() != root {
        return None;
    }
    let path = rustix::fs::readlinkat(rustix::fs::CWD, name, Vec::new()).ok()?;
    let path = match path.to_bytes().strip_prefix(b"/")? {
        b"" => b".",
        path => path,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::IN_ROOT;
    match rustix::fs::openat2(changes, path, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or hidden by a filter.
        Err(Errno::NOSYS | Errno::PERM) => {
            let root = crate::fs::Root::new(rustix::io::dup(changes).ok()?);
            root.open_at(path, flags).ok()
        }
        opened => opened.ok(),
    }
}
