//! The standard streams of a program without a terminal: pipes, with rbuild's own streams at their
//! other ends.
//!
//! The program must never get those themselves. At a terminal it could read what the user types,
//! into whichever program, and change how the terminal behaves; a file it could open once more,
//! empty it, or give it another owner and mode.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use tokio::sync::oneshot;

use crate::step::container::Streams;

/// How much is passed on at once.
const PIECE: usize = 1 << 16;

/// Rbuild's ends of the pipes.
pub(super) struct Pipes {
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: OwnedFd,
}

/// Makes the pipes: the program's ends, and rbuild's. With `input` the program reads, too.
///
/// # Errors
/// When the system is out of descriptors.
pub(super) fn pipes(input: bool) -> io::Result<(Streams, Pipes)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (stdin, to) = match input {
        true => pipe().map(|(stdin, to)| (Some(stdin), Some(to)))?,
        false => (None, None),
    };
    let (output, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    let streams = Streams {
        stdin,
        stdout,
        stderr,
    };
    let pipes = Pipes {
        input: to,
        output,
        errors,
    };
    Ok((streams, pipes))
}

/// Streams for a program that gets a terminal in their place.
///
/// # Errors
/// When there is no `/dev/null`.
pub(super) fn none() -> io::Result<Streams> {
    let null = || {
        let file = File::options().write(true).open("/dev/null");
        file.map(OwnedFd::from)
    };
    Ok(Streams {
        stdin: None,
        stdout: null()?,
        stderr: null()?,
    })
}

/// Pipes that are being passed on.
pub(super) struct Flow {
    shown: [oneshot::Receiver<()>; 2],
}

impl Pipes {
    /// Passes on what comes, on threads of their own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn open(self) -> io::Result<Flow> {
        let output = forward(self.output, "program-output", io::stdout)?;
        let errors = forward(self.errors, "program-errors", io::stderr)?;
        if let Some(to) = self.input {
            std::thread::Builder::new()
                .name("program-input".to_owned())
                .spawn(move || give(File::from(to)))?;
        }
        Ok(Flow {
            shown: [output, errors],
        })
    }
}

impl Flow {
    /// Waits until all that was written is passed on, or nobody wants it. Safe to be asked again
    /// after it was canceled, not after it has answered.
    pub(super) async fn shown(&mut self) {
        for shown in &mut self.shown {
            if !shown.is_terminated() {
                let _ = shown.await;
            }
        }
    }
}

/// Copies until the pipe's end. Where nobody reads any more, the pipe is closed, and whoever
/// writes to it learns of that as it would have without rbuild.
fn forward<W: io::Write + 'static>(
    from: OwnedFd,
    name: &str,
    to: fn() -> W,
) -> io::Result<oneshot::Receiver<()>> {
    let (ended, shown) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            copy(File::from(from), to());
            let _ = ended.send(());
        })?;
    Ok(shown)
}

fn copy(mut from: File, mut to: impl io::Write) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let written = to.write_all(&buffer[..count]).and_then(|()| to.flush());
                if written.is_err() {
                    return;
                }
            }
        }
    }
}

/// Gives the program what rbuild's standard input has, up to its end.
fn give(mut to: File) {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; PIECE];
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
