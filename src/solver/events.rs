//! What a build tells its watcher while it goes on.
//!
//! Events are facts, in the order in which they happened for one vertex; how they look is the
//! watcher's affair. No event ever carries a secret or a credential.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::dockerfile::lint::Warning;

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
        /// Vertices announced before that it waits for.
        inputs: Vec<VertexId>,
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
    /// All that a vertex prints, from its first byte to its last, goes to this file, too.
    LogFile {
        /// The vertex.
        id: VertexId,
        /// The file's absolute path.
        path: PathBuf,
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
    /// A build check has found something in the Dockerfile.
    Finding {
        /// What.
        warning: Warning,
        /// The lines that it is about, drawn.
        excerpt: String,
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

/// Hands out vertex ids and reports what becomes of the vertices.
pub struct Reporter {
    sink: Arc<dyn EventSink>,
    next: AtomicUsize,
}

impl Reporter {
    /// Reports to `sink`.
    pub fn new(sink: Arc<dyn EventSink>) -> Self {
        Self {
            sink,
            next: AtomicUsize::new(0),
        }
    }

    /// The sink behind it.
    pub fn sink(&self) -> &Arc<dyn EventSink> {
        &self.sink
    }

    /// Announces a vertex that waits for `inputs`.
    pub fn announce(&self, name: &str, inputs: Vec<VertexId>) -> VertexId {
        let id = VertexId(self.next.fetch_add(1, Ordering::Relaxed));
        self.sink.emit(Event::Announced {
            id,
            name: name.to_owned(),
            inputs,
        });
        id
    }

    /// A vertex begins to work.
    pub fn start(&self, id: VertexId) {
        self.sink.emit(Event::Started { id });
    }

    /// A vertex ended.
    pub fn end(&self, id: VertexId, outcome: Outcome, elapsed: Duration) {
        self.sink.emit(Event::Ended {
            id,
            outcome,
            elapsed,
        });
    }

    /// Announces and starts a piece of work that is no step of the graph; it ends as done or
    /// failed with the value given back.
    pub fn begin(self: &Arc<Self>, name: &str) -> Activity {
        let id = self.announce(name, Vec::new());
        self.start(id);
        Activity {
            reporter: Arc::clone(self),
            id,
            started: Instant::now(),
            ended: false,
        }
    }
}

/// A vertex whose inputs are there. It is shown as working from the moment when it begins to do
/// what its name says: looking for its result in the cache and fetching what it stands on come
/// before.
pub struct Working {
    reporter: Arc<Reporter>,
    id: VertexId,
    began: OnceLock<Instant>,
}

impl Working {
    /// A vertex that has not begun.
    pub fn new(reporter: Arc<Reporter>, id: VertexId) -> Self {
        Self {
            reporter,
            id,
            began: OnceLock::new(),
        }
    }

    /// The vertex.
    pub fn id(&self) -> VertexId {
        self.id
    }

    /// It begins. Later calls change nothing.
    pub fn begin(&self) {
        self.began.get_or_init(|| {
            self.reporter.start(self.id);
            Instant::now()
        });
    }

    /// It ended.
    pub fn end(&self, outcome: Outcome) {
        // One that was stopped before it began is not shown at all.
        if outcome != Outcome::Canceled {
            self.begin();
        }
        let elapsed = self.began.get().map_or(Duration::ZERO, Instant::elapsed);
        self.reporter.end(self.id, outcome, elapsed);
    }
}

/// A piece of work that is going on. Dropped without an end, it was canceled.
pub struct Activity {
    reporter: Arc<Reporter>,
    id: VertexId,
    started: Instant,
    ended: bool,
}

impl Activity {
    /// Its vertex.
    pub fn id(&self) -> VertexId {
        self.id
    }

    /// Says how far a part of it is, in bytes.
    pub fn progress(&self, item: &str, current: u64, total: Option<u64>) {
        self.reporter.sink.emit(Event::Progress {
            id: self.id,
            item: item.to_owned(),
            current,
            total,
        });
    }

    /// It ended, as `result` says.
    pub fn end<T, E: std::fmt::Display>(self, result: Result<T, E>) -> Result<T, E> {
        self.end_as(match &result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
        result
    }

    /// It ended, as `outcome` says.
    pub fn end_as(mut self, outcome: Outcome) {
        self.ended = true;
        self.reporter.end(self.id, outcome, self.started.elapsed());
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if !self.ended {
            self.reporter
                .end(self.id, Outcome::Canceled, self.started.elapsed());
        }
    }
}
