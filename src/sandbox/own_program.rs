//! The file of rbuild's own program, kept out of the reach of steps.
//!
//! The process that becomes a step is a copy of rbuild, so until then `/proc/self/exe` names rbuild's
//! program: an image that says `RUN ["/proc/self/exe"]`, or begins a script with it, gets it run with
//! the image's own dynamic loader, which may change the file's mode and owner where the step's user
//! has them (the hole that runc had as CVE-2019-5736). So the program that touches trees runs from a
//! sealed copy in memory, which is nobody's file.
//!
//! It must happen before any thread, and nothing here decides whether a build goes on: where programs
//! in memory are forbidden, there is no copy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::process::Needs;

const OWN: &str = "/proc/self/exe";

/// Has this process run from a copy of its program that no file system holds, if the command starts
/// steps: it begins anew then, with the same arguments and environment. Does nothing the second time.
pub fn leave(needs: &Needs) {
    if !needs.trees {
        return;
    }
    let is_copy = File::open(OWN)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .and_then(rustix::fs::fcntl_get_seals)
        .is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    if is_copy {
        // The kernel has named it after a descriptor.
        let _ = rustix::thread::set_name(c"rbuild");
    } else {
        // Where the machine allows no such program, rbuild runs from its file.
        let _ = become_copy();
    }
}

fn become_copy() -> io::Result<std::convert::Infallible> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("rbuild", flags | MemfdFlags::EXEC)
        // Before Linux 6.3 every such file can be run.
        .or_else(|_| rustix::fs::memfd_create("rbuild", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(OWN)?, &mut copy)?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    let mut words = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    Err(command.args(words).exec())
}
