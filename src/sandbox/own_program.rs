//! The file of rbuild's own program, kept out of the reach of steps.
//!
//! The process that becomes a step is a copy of the launcher, so until then `/proc/self/exe` names
//! its program: an image that says `RUN ["/proc/self/exe"]`, or begins a script with it, gets that
//! run, and what steps run beside it may open the file for writing where the step's user owns it (the
//! hole that runc had as CVE-2019-5736). So the launcher, before it starts its first sandbox, becomes
//! a sealed copy of its program in memory, which is nobody's file. A build that runs no step pays
//! nothing.
//!
//! Nothing here decides whether a build goes on: where programs in memory are forbidden, there is no
//! copy.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags};

use super::launcher::Confinement;
use super::syscall;

const OWN: &str = "/proc/self/exe";

/// The first word of a launcher's command line, by which the program knows that it is one.
const LAUNCHER: &[u8] = b"rbuild-launcher";

/// What a launcher goes on with.
pub(super) struct Resumed {
    /// To the main process.
    pub(super) channel: OwnedFd,
    /// Readable when that is gone.
    pub(super) lifeline: OwnedFd,
    pub(super) confinement: Confinement,
    pub(super) emulators: Vec<PathBuf>,
}

/// Becomes a copy of this program in memory, which goes on with what is given. Returns where that
/// can't be.
pub(super) fn become_copy(
    channel: BorrowedFd<'_>,
    lifeline: BorrowedFd<'_>,
    confinement: Confinement,
    emulators: &[PathBuf],
) -> io::Error {
    let kept = [channel, lifeline];
    let tried = copy_of_program().and_then(|copy| {
        let mut words = vec![
            LAUNCHER.to_vec(),
            channel.as_raw_fd().to_string().into_bytes(),
            lifeline.as_raw_fd().to_string().into_bytes(),
            confinement.word().to_vec(),
        ];
        words.extend(
            emulators
                .iter()
                .map(|path| path.as_os_str().as_bytes().to_vec()),
        );
        let words = c_strings(words)?;
        let environment = std::env::vars_os()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let environment = c_strings(environment)?;
        let program = CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))?;
        for descriptor in kept {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        let Err(errno) = syscall::exec(&program, &words, &environment);
        Err::<std::convert::Infallible, io::Error>(errno.into())
    });
    for descriptor in kept {
        let _ = rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
    let Err(error) = tried;
    error
}

fn c_strings(words: impl IntoIterator<Item = Vec<u8>>) -> io::Result<Vec<CString>> {
    let words = words.into_iter().map(CString::new);
    Ok(words.collect::<Result<_, _>>()?)
}

fn copy_of_program() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("rbuild", flags | MemfdFlags::EXEC)
        // Before Linux 6.3 every such file can be run.
        .or_else(|_| rustix::fs::memfd_create("rbuild", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(OWN)?, &mut copy)?;
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, all)?;
    Ok(copy)
}

/// What this process goes on with, if it is a launcher that has become a copy. To be asked once,
/// before anything else.
pub(super) fn resumed() -> Option<Resumed> {
    let mut words = std::env::args_os();
    if words.next()?.as_bytes() != LAUNCHER || !runs_from_copy() {
        return None;
    }
    let mut descriptor = || -> Option<OwnedFd> {
        let number = words.next()?.to_str()?.parse().ok()?;
        let descriptor = syscall::take_inherited(number).ok()?;
        rustix::io::fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC).ok()?;
        Some(descriptor)
    };
    let (channel, lifeline) = (descriptor()?, descriptor()?);
    let confinement = Confinement::of_word(words.next()?.as_bytes())?;
    // The kernel has named it after a descriptor.
    let _ = rustix::thread::set_name(c"rbuild");
    Some(Resumed {
        channel,
        lifeline,
        confinement,
        emulators: words.map(PathBuf::from).collect(),
    })
}

fn runs_from_copy() -> bool {
    File::open(OWN)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .and_then(rustix::fs::fcntl_get_seals)
        .is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}
