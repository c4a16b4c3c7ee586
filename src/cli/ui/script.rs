//! A made-up build for tests of displays: events at given times.

use std::time::Duration;

use super::display::Display;
use super::terminal::Colours;
use super::trace::Trace;
use crate::dockerfile::lint::{Rule, Warning};
use crate::solver::events::{Event, LogStream, Outcome, VertexId};

pub(super) struct Script {
    now: Duration,
    steps: Vec<(Duration, Option<Event>)>,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            steps: Vec::new(),
        }
    }

    /// Everything behind this happens so many milliseconds after the build's begin.
    pub(super) fn at(mut self, millis: u64) -> Self {
        self.now = Duration::from_millis(millis);
        self
    }

    fn add(mut self, event: Event) -> Self {
        self.steps.push((self.now, Some(event)));
        self
    }

    pub(super) fn tick(mut self) -> Self {
        self.steps.push((self.now, None));
        self
    }

    pub(super) fn announce(self, id: usize, name: &str) -> Self {
        self.announce_after(id, name, &[])
    }

    pub(super) fn announce_after(self, id: usize, name: &str, inputs: &[usize]) -> Self {
        self.add(Event::Announced {
            id: VertexId(id),
            name: name.to_owned(),
            inputs: inputs.iter().copied().map(VertexId).collect(),
        })
    }

    pub(super) fn start(self, id: usize) -> Self {
        self.add(Event::Started { id: VertexId(id) })
    }

    pub(super) fn log(self, id: usize, text: &str) -> Self {
        self.add(Event::Log {
            id: VertexId(id),
            stream: LogStream::Stdout,
            bytes: text.as_bytes().to_vec(),
        })
    }

    pub(super) fn log_file(self, id: usize, path: &str) -> Self {
        self.add(Event::LogFile {
            id: VertexId(id),
            path: path.into(),
        })
    }

    pub(super) fn progress(self, id: usize, item: &str, current: u64, total: Option<u64>) -> Self {
        self.add(Event::Progress {
            id: VertexId(id),
            item: item.to_owned(),
            current,
            total,
        })
    }

    fn end(self, id: usize, outcome: Outcome, millis: u64) -> Self {
        self.add(Event::Ended {
            id: VertexId(id),
            outcome,
            elapsed: Duration::from_millis(millis),
        })
    }

    pub(super) fn done(self, id: usize, millis: u64) -> Self {
        self.end(id, Outcome::Done, millis)
    }

    pub(super) fn cached(self, id: usize) -> Self {
        self.end(id, Outcome::Cached, 0)
    }

    pub(super) fn canceled(self, id: usize) -> Self {
        self.end(id, Outcome::Canceled, 0)
    }

    pub(super) fn failed(self, id: usize, reason: &str, millis: u64) -> Self {
        self.end(id, Outcome::Failed(reason.to_owned()), millis)
    }

    pub(super) fn warning(self, text: &str) -> Self {
        self.add(Event::Warning(text.to_owned()))
    }

    /// A build check finds a stage `Odd` on line 3.
    pub(super) fn finding(self) -> Self {
        let warning = Warning {
            rule: Rule::StageNameCasing,
            detail: "Stage name 'Odd' should be lowercase".to_owned(),
            first_line: 3,
            last_line: 3,
        };
        self.add(Event::Finding {
            warning,
            excerpt: "the lines\n".to_owned(),
        })
    }

    /// All that the display writes, each event shown by itself.
    pub(super) fn play(self, display: &mut dyn Display) -> String {
        let end = self.now;
        let mut trace = Trace::new(Colours::Keep);
        let mut text = self.play_open(&mut trace, display);
        text.push_str(&display.finish(&trace, end));
        text
    }

    /// The same, without an end.
    pub(super) fn play_open(self, trace: &mut Trace, display: &mut dyn Display) -> String {
        let mut text = String::new();
        for (now, event) in self.steps {
            if let Some(event) = &event {
                text.push_str(&display.event(event, now));
            }
            let changes = event.map_or_else(Vec::new, |event| trace.apply(now, event));
            text.push_str(&display.show(trace, &changes, now));
        }
        text
    }
}
