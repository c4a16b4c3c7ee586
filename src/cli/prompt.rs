//! Asking the person at the terminal.
//!
//! What is asked for is read from standard input, byte by byte, so that nothing behind its line
//! is swallowed. A terminal that doesn't echo a password is put back in order however the command
//! ends, short of a kill.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{LocalModes, OptionalActions, Termios};

use super::error::Failure;
use crate::registry::Secret;

/// Longer lines are no answer.
const MAX_LINE: usize = 64 << 10;

/// Whether somebody can be asked.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal()
}

/// Asks for a line.
pub(super) async fn line(question: &str) -> Result<String, Failure> {
    ask(question)?;
    read_line().await
}

/// Asks for a line that isn't shown while it is typed.
pub(super) async fn password(question: &str) -> Result<Secret, Failure> {
    // Before the question: what is typed after it must not show.
    let silence = Silence::begin().map_err(|error| {
        Failure::internal("can't keep the terminal from showing the password").caused_by(&error)
    })?;
    ask(question)?;
    let line = read_line().await;
    drop(silence);
    // The end of the line was not shown either.
    ask("\n")?;
    line.map(Secret::new)
}

/// Everything on standard input but one line ending at its end.
pub(super) async fn secret_on_stdin() -> Result<Secret, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        io::stdin().take(MAX_LINE as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    Ok(Secret::new(without_line_end(text(flatten(read.await)?)?)))
}

fn ask(question: &str) -> Result<(), Failure> {
    let mut stderr = io::stderr().lock();
    stderr
        .write_all(question.as_bytes())
        .and_then(|()| stderr.flush())
        .map_err(|error| Failure::internal("can't write to the terminal").caused_by(&error))
}

/// Reads on a thread of its own, which an interrupt doesn't wait for.
async fn read_line() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < MAX_LINE && stdin.read(&mut byte)? == 1 {
            line.push(byte[0]);
            if byte[0] == b'\n' {
                break;
            }
        }
        Ok(line)
    });
    Ok(without_line_end(text(flatten(read.await)?)?))
}

fn flatten(read: Result<io::Result<Vec<u8>>, tokio::task::JoinError>) -> Result<Vec<u8>, Failure> {
    read.map_err(io::Error::other)
        .and_then(|read| read)
        .map_err(|error| Failure::user("can't read standard input").caused_by(&error))
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    // The error would hold the bytes.
    String::from_utf8(bytes).map_err(|_| Failure::user("standard input is not text"))
}

fn without_line_end(mut text: String) -> String {
    for end in ["\r\n", "\n", "\r"] {
        if text.ends_with(end) {
            text.truncate(text.len() - end.len());
            break;
        }
    }
    text
}

/// A terminal without echo, until this is dropped: by the end of the question, or with the
/// command that a signal ends.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The terminal may be gone by now.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_no_part_of_an_answer() {
        for (text, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\r", "a"),
            ("a", "a"),
            (" a \n\n", " a \n"),
            ("", ""),
        ] {
            assert_eq!(without_line_end(text.to_owned()), expected);
        }
    }
}
