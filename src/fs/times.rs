//! When a directory was read and changed, so that it can be put back after a change of one's own.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// The times of a directory.
///
/// # Errors
/// When the system doesn't tell.
pub fn times(directory: BorrowedFd<'_>) -> Result<Timestamps, Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok(Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    })
}

/// Gives a directory, which may be open as a path only, these times.
///
/// # Errors
/// When it is another user's.
pub fn set_times(directory: BorrowedFd<'_>, times: &Timestamps) -> Result<(), Errno> {
    rustix::fs::utimensat(directory, ".", times, AtFlags::empty())
}
