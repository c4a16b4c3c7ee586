//! The user's terminal while a program has it: raw, and always given back as it was.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios};
use tokio::sync::oneshot;

/// The size of the user's terminal: rows and columns. `None` where neither standard input nor
/// output is one.
pub(super) fn size() -> Option<(u16, u16)> {
    rustix::termios::tcgetwinsize(io::stdin())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stdout()))
        .ok()
        .map(|size| (size.ws_row, size.ws_col))
}

/// Standard input's terminal in raw mode: every key goes to the program, Ctrl-C included. Dropped,
/// it is as it was before.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes it raw.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub(super) fn enter() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // What the program has written is shown under the old rules: `Drain` waits for that. A
        // terminal that went away has nothing to restore.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// How the output of a program came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OutputEnd {
    /// The program, and all that it started, closed its terminal.
    Program,
    /// Nobody reads our output any more.
    Reader,
}

/// The side of a program's terminal that a window is on.
pub(super) struct Window {
    side: OwnedFd,
    output: oneshot::Receiver<OutputEnd>,
}

impl Window {
    /// Shows the program's output, and with `input` gives it what the user types.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn open(side: OwnedFd, input: bool) -> io::Result<Self> {
        let (ended, output) = oneshot::channel();
        let from = File::from(side.try_clone()?);
        std::thread::Builder::new()
            .name("terminal-output".to_owned())
            .spawn(move || {
                let _ = ended.send(show(from));
            })?;
        if input {
            let to = File::from(side.try_clone()?);
            std::thread::Builder::new()
                .name("terminal-input".to_owned())
                .spawn(move || type_into(to))?;
        }
        Ok(Self { side, output })
    }

    /// Gives the program's terminal the size of the user's.
    pub(super) fn resize(&self) {
        if let Some((rows, columns)) = size() {
            let size = rustix::termios::Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // The program may just have ended.
            let _ = rustix::termios::tcsetwinsize(self.side.as_fd(), size);
        }
    }

    /// Waits until all of the program's output is shown. Safe to be asked again after it was
    /// canceled, not after it has answered.
    pub(super) async fn shown(&mut self) -> OutputEnd {
        (&mut self.output).await.unwrap_or(OutputEnd::Program)
    }
}

fn show(mut from: File) -> OutputEnd {
    let mut buffer = [0; 1 << 14];
    let mut stdout = io::stdout().lock();
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // EIO: nobody has the terminal open any more.
            Ok(0) | Err(_) => return OutputEnd::Program,
            Ok(count) => {
                let shown = stdout
                    .write_all(&buffer[..count])
                    .and_then(|()| stdout.flush());
                if shown.is_err() {
                    return OutputEnd::Reader;
                }
            }
        }
    }
}

fn type_into(mut to: File) {
    let mut buffer = [0; 1 << 12];
    let mut stdin = io::stdin().lock();
    loop {
        match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        }
    }
}
