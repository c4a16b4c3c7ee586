//! What a build tells its watcher while it goes on.
//!
//! Events are facts, in the order in which they happened for one vertex; how they look is the
//! watcher's affair. No event ever carries a secret or a credential.

use std::time::Duration;

/// Names one vertex (one step) of one build, in the order in which steps were announced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VertexId(pub usize);

/// Which stream of a step a piece of output came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a vertex ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It ran and succeeded.
    Done,
    /// The cache had its result; nothing ran.
    Cached,
    /// It failed, with a one-line reason.
    Failed(String),
    /// It was stopped because another vertex failed or the build was interrupted.
    Canceled,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A vertex exists and may run later. `name` is what `docker build` shows, for example
    /// `[builder 2/5] RUN go build`.
    Announced {
        /// The vertex.
        id: VertexId,
        /// Its name.
        name: String,
    },
    /// A vertex began to work.
    Started {
        /// The vertex.
        id: VertexId,
    },
    /// A vertex printed something. Pieces may end in the middle of a line or of a character.
    Log {
        /// The vertex.
        id: VertexId,
        /// Where it was printed.
        stream: LogStream,
        /// The bytes as printed.
        bytes: Vec<u8>,
    },
    /// A transfer or other measurable part of a vertex moved on, or (when `current` equals
    /// `total`) ended. The first event of an `item` begins it.
    Progress {
        /// The vertex.
        id: VertexId,
        /// What moves: `sha256:1234…`, `transferring context`, `exporting layers`.
        item: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A vertex ended.
    Ended {
        /// The vertex.
        id: VertexId,
        /// How.
        outcome: Outcome,
        /// How long it worked (zero where it never started).
        elapsed: Duration,
    },
    /// Something the user should know that does not end the build; one line, no trailing newline.
    Warning(String),
}

/// Receives the events of a build, from any thread. It must return soon: a slow sink slows the build.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

/// A sink that drops everything.
#[derive(Clone, Copy, Debug)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn emit(&self, _: Event) {}
}
