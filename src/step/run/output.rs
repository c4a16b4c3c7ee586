//! What a step prints, on its way to whoever watches the build and to the step's log.
//!
//! The log holds every byte, secrets masked, as it came; nothing is gathered but what one read
//! gives. A log that can't be written is told once and is no reason to fail.

use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::redact::{Redactor, Values};
use crate::solver::events::{Event, EventSink, LogStream, VertexId};
use crate::store::BuildLogs;

/// How much is read at once.
const PIECE: usize = 1 << 14;

/// The output of one step.
pub(super) struct Output {
    pub(super) id: VertexId,
    pub(super) events: Arc<dyn EventSink>,
    pub(super) logs: Arc<BuildLogs>,
    /// The name of its log.
    pub(super) file_name: String,
    /// What must not be seen.
    pub(super) secrets: Option<Arc<Values>>,
    pub(super) log: Mutex<Log>,
}

/// Where the step's log stands.
#[derive(Default)]
pub(super) enum Log {
    /// Nothing was printed yet.
    #[default]
    Empty,
    /// It is being written.
    Open(File),
    /// It can't be written.
    Lost,
}

impl Output {
    /// Passes on what comes out of `from`, on a thread of its own, until its end.
    pub(super) fn forward(self: &Arc<Self>, from: OwnedFd, stream: LogStream) -> JoinHandle<()> {
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            let mut from = File::from(from);
            let mut redactor = output.secrets.clone().map(Redactor::new);
            let mut buffer = vec![0; PIECE];
            while let Ok(n) = from.read(&mut buffer) {
                let piece = match (&mut redactor, n) {
                    (Some(redactor), 0) => redactor.finish(),
                    (Some(redactor), n) => redactor.take(&buffer[..n]),
                    (None, n) => buffer[..n].to_vec(),
                };
                output.show(piece, stream);
                if n == 0 {
                    break;
                }
            }
        })
    }

    fn show(&self, bytes: Vec<u8>, stream: LogStream) {
        if bytes.is_empty() {
            return;
        }
        let id = self.id;
        self.write(&bytes);
        self.events.emit(Event::Log { id, stream, bytes });
    }

    fn write(&self, bytes: &[u8]) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*log, Log::Empty) {
            *log = match self.logs.create(&self.file_name) {
                Ok((path, file)) => {
                    self.events.emit(Event::LogFile { id: self.id, path });
                    Log::Open(file)
                }
                Err(error) => self.lost(&error),
            };
        }
        if let Log::Open(file) = &mut *log
            && let Err(error) = file.write_all(bytes)
        {
            *log = self.lost(&error);
        }
    }

    fn lost(&self, error: &dyn Display) -> Log {
        let text = format!("can't keep the log `{}`: {error}", self.file_name);
        self.events.emit(Event::Warning(text));
        Log::Lost
    }
}

/// The name of a step's log: its number, its place and its instruction, `7-builder-2-5-run.log`.
/// Nothing of its arguments, which may be long and anybody's.
pub(super) fn file_name(id: VertexId, step: &str) -> String {
    let (place, instruction) = step.split_once(']').unwrap_or(("", step));
    let mut words = vec![id.0.to_string()];
    let place = place.split(|c: char| !c.is_ascii_alphanumeric());
    let instruction = instruction.split_whitespace();
    let instruction = instruction.take_while(|word| *word == "ONBUILD" || *word == "RUN");
    for word in place.chain(instruction).filter(|word| !word.is_empty()) {
        words.push(word.chars().take(40).collect::<String>().to_lowercase());
    }
    format!("{}.log", words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_named_after_their_step() {
        for (step, name) in [
            ("[builder 2/5] RUN make", "7-builder-2-5-run.log"),
            ("[ 3/12] RUN rm ../x", "7-3-12-run.log"),
            ("[../e 1/2] ONBUILD RUN a", "7-e-1-2-onbuild-run.log"),
            ("RUN", "7-run.log"),
        ] {
            assert_eq!(file_name(VertexId(7), step), name);
        }
    }
}
