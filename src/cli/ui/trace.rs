//! What has happened in a build so far: events folded into a state that every display reads.
//!
//! Time is given with each event, as the time since the build began, so that a display is a
//! function of what it was told.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use super::terminal::{Colours, neutralise_line, neutralise_text};
use crate::dockerfile::lint::Warning;
use crate::solver::events::{Event, LogStream, Outcome, VertexId};

/// How many of a step's last lines are shown when it fails.
pub(super) const TAIL_LINES: usize = 20;

/// A line longer than this is shown in pieces: a step that never ends its line must not fill
/// the memory.
const LONGEST_LINE: usize = 16 * 1024;

/// One line that a step printed, harmless already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// When it was complete, since the step's start.
    pub(super) at: Duration,
    /// Its text.
    pub(super) text: String,
}

/// A transfer of a vertex.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// What moves.
    pub(super) name: String,
    /// Bytes so far.
    pub(super) current: u64,
    /// Bytes in all, where known.
    pub(super) total: Option<u64>,
    /// When it began.
    pub(super) started: Duration,
    /// When it ended.
    pub(super) ended: Option<Duration>,
}

/// One vertex.
#[derive(Debug, Default)]
pub(super) struct Vertex {
    /// Its name, harmless already.
    pub(super) name: String,
    /// When it began.
    pub(super) started: Option<Duration>,
    /// How it ended, and how long it worked.
    pub(super) ended: Option<(Outcome, Duration)>,
    /// Its transfers, in the order in which they began.
    pub(super) items: Vec<Item>,
    /// Its last lines.
    pub(super) tail: VecDeque<Line>,
    /// Where all of its lines are.
    pub(super) log: Option<PathBuf>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Vertex {
    /// Whether it works just now.
    pub(super) fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// Its last lines that aren't blank, at most `most` of them, without colours; what it is
    /// printing just now among them.
    pub(super) fn last_lines(&self, most: usize) -> Vec<String> {
        let partial = [&self.stderr, &self.stdout]
            .into_iter()
            .map(|partial| neutralise_line(partial, Colours::Drop));
        let whole = self.tail.iter().rev();
        let mut lines: Vec<String> = partial
            .chain(whole.map(|line| neutralise_text(&line.text)))
            .filter(|line| !line.trim().is_empty())
            .take(most)
            .collect();
        lines.reverse();
        lines
    }
}

/// What an event changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// A vertex began.
    Started(VertexId),
    /// A vertex has printed a whole line.
    Line(VertexId, Line),
    /// A transfer (by its place in [`Vertex::items`]) moved.
    Item(VertexId, usize),
    /// A vertex ended.
    Ended(VertexId),
    /// A warning.
    Warning(String),
    /// A build check has found something.
    Finding(String),
}

/// The state of a build.
#[derive(Debug)]
pub(super) struct Trace {
    /// Every vertex announced so far.
    pub(super) vertices: BTreeMap<VertexId, Vertex>,
    /// Warnings so far.
    pub(super) warnings: Vec<String>,
    /// What build checks have found, each with its lines.
    pub(super) findings: Vec<(Warning, String)>,
    colours: Colours,
}

impl Trace {
    /// The state of a build that has not begun. `colours` says whether those of a step's output
    /// are kept.
    pub(super) fn new(colours: Colours) -> Self {
        Self {
            vertices: BTreeMap::new(),
            warnings: Vec::new(),
            findings: Vec::new(),
            colours,
        }
    }

    /// Takes an event that happened at `now` and says what it changed, in order.
    pub(super) fn apply(&mut self, now: Duration, event: Event) -> Vec<Change> {
        match event {
            Event::Announced { id, name, .. } => {
                self.vertices.entry(id).or_default().name =
                    neutralise_text(&name.replace('\n', " "));
                Vec::new()
            }
            Event::Started { id } => {
                self.vertices
                    .entry(id)
                    .or_default()
                    .started
                    .get_or_insert(now);
                vec![Change::Started(id)]
            }
            Event::LogFile { id, path } => {
                self.vertices.entry(id).or_default().log = Some(path);
                Vec::new()
            }
            Event::Log { id, stream, bytes } => self.log(now, id, stream, &bytes),
            Event::Progress {
                id,
                item,
                current,
                total,
            } => self.progress(now, id, item, current, total),
            Event::Ended {
                id,
                outcome,
                elapsed,
            } => self.end(now, id, outcome, elapsed),
            Event::Finding { warning, excerpt } => {
                let text = neutralise_text(&warning.short());
                self.findings.push((warning, excerpt));
                vec![Change::Finding(text)]
            }
            Event::Warning(text) => {
                let text = neutralise_text(&text.replace('\n', " "));
                self.warnings.push(text.clone());
                vec![Change::Warning(text)]
            }
        }
    }

    fn log(&mut self, now: Duration, id: VertexId, stream: LogStream, bytes: &[u8]) -> Vec<Change> {
        let vertex = self.vertices.entry(id).or_default();
        let partial = match stream {
            LogStream::Stdout => &mut vertex.stdout,
            LogStream::Stderr => &mut vertex.stderr,
        };
        partial.extend_from_slice(bytes);
        let lines = take_lines(partial);
        self.add_lines(now, id, lines)
    }

    fn add_lines(&mut self, now: Duration, id: VertexId, lines: Vec<Vec<u8>>) -> Vec<Change> {
        let vertex = self.vertices.entry(id).or_default();
        let at = now.saturating_sub(vertex.started.unwrap_or(now));
        let mut changes = Vec::with_capacity(lines.len());
        for line in lines {
            let line = Line {
                at,
                text: neutralise_line(&line, self.colours),
            };
            if vertex.tail.len() == TAIL_LINES {
                vertex.tail.pop_front();
            }
            vertex.tail.push_back(line.clone());
            changes.push(Change::Line(id, line));
        }
        changes
    }

    fn progress(
        &mut self,
        now: Duration,
        id: VertexId,
        name: String,
        current: u64,
        total: Option<u64>,
    ) -> Vec<Change> {
        let vertex = self.vertices.entry(id).or_default();
        let name = neutralise_text(&name);
        let place = vertex.items.iter().position(|item| item.name == name);
        let place = place.unwrap_or_else(|| {
            vertex.items.push(Item {
                name,
                current: 0,
                total: None,
                started: now,
                ended: None,
            });
            vertex.items.len() - 1
        });
        let item = &mut vertex.items[place];
        item.current = current;
        item.total = total.or(item.total);
        item.ended = (item.total == Some(current)).then(|| item.ended.unwrap_or(now));
        vec![Change::Item(id, place)]
    }

    fn end(
        &mut self,
        now: Duration,
        id: VertexId,
        outcome: Outcome,
        elapsed: Duration,
    ) -> Vec<Change> {
        let vertex = self.vertices.entry(id).or_default();
        let rest: Vec<Vec<u8>> = [&mut vertex.stdout, &mut vertex.stderr]
            .into_iter()
            .map(std::mem::take)
            .filter(|partial| !partial.is_empty())
            .collect();
        let mut changes = self.add_lines(now, id, rest);
        let vertex = self.vertices.entry(id).or_default();
        if outcome == Outcome::Done {
            for (place, item) in vertex.items.iter_mut().enumerate() {
                if item.ended.is_none() {
                    item.ended = Some(now);
                    changes.push(Change::Item(id, place));
                }
            }
        }
        vertex.ended = Some((outcome, elapsed));
        changes.push(Change::Ended(id));
        changes
    }
}

/// Takes the complete lines out of `buffer`, without their newlines; also the beginning of a
/// line that grows too long, up to a whole character.
fn take_lines(buffer: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut start = 0;
    loop {
        let rest = &buffer[start..];
        if let Some(length) = rest
            .iter()
            .take(LONGEST_LINE)
            .position(|&byte| byte == b'\n')
        {
            lines.push(rest[..length].to_vec());
            start += length + 1;
        } else if rest.len() >= LONGEST_LINE {
            let cut = (LONGEST_LINE - 3..=LONGEST_LINE)
                .rev()
                .find(|&at| rest.get(at).is_none_or(|byte| byte & 0xc0 != 0x80))
                .unwrap_or(LONGEST_LINE);
            lines.push(rest[..cut].to_vec());
            start += cut;
        } else {
            break;
        }
    }
    buffer.drain(..start);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: VertexId = VertexId(0);

    fn log(trace: &mut Trace, stream: LogStream, bytes: &[u8]) -> Vec<String> {
        let event = Event::Log {
            id: ID,
            stream,
            bytes: bytes.to_vec(),
        };
        lines(trace.apply(Duration::ZERO, event))
    }

    fn lines(changes: Vec<Change>) -> Vec<String> {
        changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Line(_, line) => Some(line.text),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn lines_are_whole_and_streams_do_not_mix() {
        let mut trace = Trace::new(Colours::Drop);
        assert!(log(&mut trace, LogStream::Stdout, b"out ").is_empty());
        assert_eq!(log(&mut trace, LogStream::Stderr, b"err\n"), ["err"]);
        assert_eq!(
            log(&mut trace, LogStream::Stdout, b"1\nout 2\nou"),
            ["out 1", "out 2"]
        );
        let end = Event::Ended {
            id: ID,
            outcome: Outcome::Done,
            elapsed: Duration::ZERO,
        };
        assert_eq!(lines(trace.apply(Duration::ZERO, end)), ["ou"]);
    }

    #[test]
    fn a_character_split_between_pieces_stays_whole() {
        let mut trace = Trace::new(Colours::Drop);
        assert!(log(&mut trace, LogStream::Stdout, &"größe".as_bytes()[..3]).is_empty());
        let rest = [&"größe".as_bytes()[3..], b"\n"].concat();
        assert_eq!(log(&mut trace, LogStream::Stdout, &rest), ["größe"]);
    }

    #[test]
    fn an_endless_line_comes_in_pieces_of_whole_characters() {
        let mut trace = Trace::new(Colours::Drop);
        let text = "x".to_owned() + &"ß".repeat(LONGEST_LINE);
        let mut shown = log(&mut trace, LogStream::Stdout, text.as_bytes());
        shown.extend(log(&mut trace, LogStream::Stdout, b"\n"));
        assert!(shown.iter().all(|line| line.len() <= LONGEST_LINE));
        assert_eq!(shown.concat(), text);
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut trace = Trace::new(Colours::Drop);
        for n in 0..100 {
            log(
                &mut trace,
                LogStream::Stdout,
                format!("line {n}\n").as_bytes(),
            );
        }
        let vertex = &trace.vertices[&ID];
        assert_eq!(vertex.tail.len(), TAIL_LINES);
        assert_eq!(vertex.last_lines(2), ["line 98", "line 99"]);
        log(&mut trace, LogStream::Stderr, b"\n \n50%\r60%");
        assert_eq!(trace.vertices[&ID].last_lines(2), ["line 99", "60%"]);
    }
}
