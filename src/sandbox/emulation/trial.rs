//! Whether a program of some processor runs here, found by running one: the smallest there is, in a
//! root folder that holds nothing else, as a step's root may hold nothing of this machine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, WaitOptions};
use tempfile::TempDir;

use super::instance;
use super::machine::{EXIT_CODE, Machine};
use crate::sandbox::channel::retry;
use crate::sandbox::mount;
use crate::sandbox::syscall::{self, Fork};

/// No emulator may take longer to end a program that does nothing, in seconds of its own time.
const LONGEST: u64 = 10;

/// Runs a program of the machine, in this user namespace where one is given. Its folder is in memory,
/// or where nothing can be mounted in `place`.
///
/// An emulator that does not know what to do with a program's first argument takes it for the
/// program: it names nothing here, so that shows.
pub(super) fn runs(
    machine: &Machine,
    inside: Option<BorrowedFd<'_>>,
    place: Option<&Path>,
) -> Result<bool, Errno> {
    // Goes when the program has ended.
    let (folder, _temporary) = match (mount::private_tmpfs(), place) {
        (Ok(folder), _) => (folder, None),
        (Err(_), Some(place)) => {
            let (folder, temporary) = folder_in(place)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            (folder, Some(temporary))
        }
        (Err(error), None) => return Err(error.errno),
    };
    put(&folder, &machine.program())?;
    match syscall::fork()? {
        Fork::Child => {
            // What went wrong says no more than that it did.
            let _ = run(&folder, inside);
            syscall::exit(1)
        }
        Fork::Parent(pid) => {
            let ended = retry(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))?;
            Ok(ended.is_some_and(|(_, status)| status.exit_status() == Some(EXIT_CODE)))
        }
    }
}

fn folder_in(place: &Path) -> io::Result<(OwnedFd, TempDir)> {
    let temporary = tempfile::Builder::new().prefix("trial").tempdir_in(place)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(temporary.path(), flags, Mode::empty())?;
    Ok((folder, temporary))
}

fn put(folder: &OwnedFd, program: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, "program", flags, Mode::from(0o755))?;
    let mut rest = program;
    while !rest.is_empty() {
        let written = retry(|| rustix::io::write(&file, rest))?;
        rest = &rest[written..];
    }
    rustix::fs::fchmod(&file, Mode::from(0o755))
}

fn run(folder: &OwnedFd, inside: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let quiet = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .or_else(|_| rustix::fs::memfd_create("null", rustix::fs::MemfdFlags::CLOEXEC))?;
    rustix::stdio::dup2_stdin(&quiet)?;
    rustix::stdio::dup2_stdout(&quiet)?;
    rustix::stdio::dup2_stderr(&quiet)?;
    for (resource, limit) in [(Resource::Core, 0), (Resource::Cpu, LONGEST)] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        rustix::process::setrlimit(resource, limit)?;
    }
    if let Some(namespace) = inside {
        instance::join(namespace)?;
    }
    rustix::process::fchdir(folder.as_fd())?;
    rustix::process::chroot(".")?;
    syscall::exec(c"/program", &[c"no-program".to_owned()], &[]).map(|never| match never {})
}
