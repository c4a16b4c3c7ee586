//! A terminal of a sandbox's own.
//!
//! It is made by the sandbox's init, in the sandbox's own `/dev/pts`: only there has it a name that
//! programs inside can find. Its other side, what a terminal's window is to a program, goes to the
//! main process through a line made beforehand. Nothing here knows the user's own terminal.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::fs::Root;

use super::channel::Channel;
use super::launcher::StepFiles;
use super::spec::{SetupFailure, Stage, TerminalSpec};
use super::{in_root, mount};

/// The main process's end of a line.
#[derive(Debug)]
pub struct Line(Channel);

/// A line: the end to listen at, and the one to be passed with the spec.
///
/// # Errors
/// When the system is out of descriptors.
pub fn line() -> std::io::Result<(Line, OwnedFd)> {
    let (near, far) = Channel::pair()?;
    Ok((Line(near), far.into()))
}

impl Line {
    /// Waits for the terminal's other side. `None` where the sandbox ended before it had one; its
    /// outcome says why.
    ///
    /// # Errors
    /// When the line fails.
    pub fn receive(self) -> std::io::Result<Option<OwnedFd>> {
        let received = self.0.receive::<()>()?;
        Ok(received.and_then(|received| received.descriptors.into_iter().next()))
    }
}

/// Makes the terminal, puts it in place of the standard streams and sends its other side. Comes
/// right after `/dev`, before any mount of the spec's can put something else in its place.
pub(super) fn open(
    root: &Root,
    wanted: &TerminalSpec,
    uid: u32,
    files: &mut StepFiles,
) -> Result<(), SetupFailure> {
    let failed =
        |message: &'static str| move |errno| SetupFailure::new(Stage::Terminal, message, errno);
    let (window, terminal) = open_pair(root).map_err(failed("can't make a terminal"))?;
    if let Some((rows, columns)) = wanted.size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&terminal, size)
            .map_err(failed("can't set the terminal's size"))?;
    }
    rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(uid)), None)
        .map_err(failed("can't give the terminal to the step's user"))?;
    // Where programs look for the terminal that the sandbox was started with.
    in_root::open_real_directory(root, "dev")
        .and_then(|dev| mount::make_file(dev.as_fd(), "console"))
        .and_then(|console| {
            let copy = mount::clone_tree(terminal.as_fd(), false)?;
            mount::attach(copy.as_fd(), console.as_fd())
        })
        .map_err(failed("can't make `/dev/console`"))?;
    let stream = || {
        terminal.try_clone().map_err(|_| {
            SetupFailure::new(Stage::Terminal, "can't copy the terminal", Errno::MFILE)
        })
    };
    files.stdin = Some(stream()?);
    files.stdout = stream()?;
    files.stderr = stream()?;
    let line = files
        .passed
        .get(wanted.line)
        .ok_or_else(|| SetupFailure::request("the terminal's line was not passed"))?;
    // Nothing else was passed for the line to be mounted or read.
    let line = line
        .try_clone()
        .map_err(|_| SetupFailure::new(Stage::Terminal, "can't copy the line", Errno::MFILE))?;
    Channel::from(line)
        .send(&(), &[window.as_fd()])
        .map_err(failed("can't send the terminal's other side"))
}

/// A new terminal: its window's side and the side of the programs.
fn open_pair(root: &Root) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let window = root
        .open_at(b"dev/pts/ptmx", flags)
        .map_err(|error| Errno::from_io_error(&error.source).unwrap_or(Errno::IO))?;
    rustix::pty::unlockpt(&window)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&window, flags)?;
    Ok((window, terminal))
}
