//! Progress on a terminal: ended steps scroll by above, running ones are drawn anew below them.
//!
//! ```text
//!  => [internal] load build definition                                 0.0s
//!  => CACHED 3 steps: [builder 2-4/6]                                  0.0s
//! [+] Building 4.2s (6/9)
//!  => [builder 5/6] RUN go build                                       2.1s
//!  => => # go: downloading golang.org/x/sys v0.1.0
//!  => => # go: downloading golang.org/x/net v0.2.0
//! ```
//!
//! Only relative cursor movements are used and nothing about the terminal is changed for longer
//! than one write, so that nothing is to be restored however rbuild ends.
//!
//! A terminal that becomes smaller moves what it shows: some fold lines that are now too long,
//! others cut them. So all that is shown is then drawn anew, from the first line that may have
//! moved.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use super::display::Display;
use super::style::Style;
use super::terminal::{Size, columns, justify, neutralise_text, truncate};
use super::trace::{Change, Item, Trace, Vertex};
use super::{Phase, format};
use crate::solver::events::Outcome;

/// At most this many transfers are shown of one step.
const MOST_ITEMS: usize = 5;
/// How often the lower part is drawn at most.
const FRAME: Duration = Duration::from_millis(100);
/// So many lines of the upper part can be drawn anew.
const KEPT: usize = 300;

/// Asks the terminal for its size.
pub(super) type AskSize = Box<dyn Fn() -> Size + Send>;

/// The terminal display.
pub(super) struct Tty {
    style: Style,
    phase: Phase,
    ask: AskSize,
    /// How many lines of a running step's output are shown.
    log_lines: usize,
    /// The terminal's size when it was last drawn on.
    size: Size,
    /// The width of each line of the lower part; the cursor stands behind the last.
    drawn: Vec<usize>,
    /// The upper part's last lines, with the width that each took.
    kept: VecDeque<(Line, usize)>,
    /// Steps that the cache answered, since the last line of the upper part.
    folded: Vec<String>,
}

/// A line of either part.
#[derive(Clone)]
struct Line {
    left: String,
    /// What stands at the right end.
    right: Option<String>,
    look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Faint,
    Done,
    Canceled,
    Failed,
    /// Text from elsewhere, with colours of its own and as wide as it likes.
    Foreign,
}

impl Line {
    fn new(left: impl Into<String>, look: Look) -> Self {
        Self {
            left: left.into(),
            right: None,
            look,
        }
    }

    fn with_time(left: impl Into<String>, time: Duration, look: Look) -> Self {
        Self {
            right: Some(format::seconds(time)),
            ..Self::new(left, look)
        }
    }

    /// The line as text, at most `width` columns wide, and its width.
    fn render(&self, style: Style, width: usize) -> (String, usize) {
        if self.look == Look::Foreign {
            return (self.left.clone(), columns(&neutralise_text(&self.left)));
        }
        let text = match &self.right {
            Some(right) => justify(&self.left, right, width),
            None => truncate(&self.left, width),
        };
        let columns = columns(&text);
        let text = match self.look {
            Look::Plain | Look::Foreign => text,
            Look::Faint => style.faint(text),
            Look::Done => style.done(text),
            Look::Canceled => style.warning(text),
            Look::Failed => style.error(text),
        };
        (text, columns)
    }
}

impl Tty {
    /// A display for a terminal whose size `ask` tells, with `log_lines` lines of output for each
    /// running step.
    pub(super) fn new(style: Style, phase: Phase, log_lines: usize, ask: AskSize) -> Self {
        Self {
            style,
            phase,
            size: ask(),
            ask,
            log_lines,
            drawn: Vec::new(),
            kept: VecDeque::new(),
            folded: Vec::new(),
        }
    }

    /// Replaces the lower part: first `above`, which stays for good, then what runs now.
    fn draw(&mut self, above: Vec<Line>, rows: &[Line]) -> String {
        let before = std::mem::replace(&mut self.size, (self.ask)());
        let Size { width, height } = self.size;
        let mut out = if width < before.width || height < before.height {
            self.erase_moved(rows.len())
        } else {
            self.erase()
        };
        for line in above {
            let (text, columns) = line.render(self.style, width);
            let _ = writeln!(out, "{text}");
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((line, columns));
        }
        self.drawn.clear();
        if rows.is_empty() {
            return out;
        }
        // Without automatic wrapping a row stays one row even where the terminal disagrees
        // about a character's width.
        out.push_str("\x1b[?7l");
        for row in rows {
            let (text, columns) = row.render(self.style, width);
            let _ = writeln!(out, "{text}");
            self.drawn.push(columns);
        }
        out.push_str("\x1b[?7h");
        out
    }

    /// Takes the lower part away, and what was typed behind it.
    fn erase(&self) -> String {
        match self.drawn.len() {
            0 => String::new(),
            // Row by row: some terminals take a cleared screen for lines worth keeping in their
            // scrollback.
            rows => {
                let up = format!("\x1b[{rows}A\r");
                format!("\r\x1b[2K{up}{}{up}", "\x1b[2K\n".repeat(rows))
            }
        }
    }

    /// Takes both parts away after the terminal became smaller, and shows again as much of the
    /// upper one as fits above `below` rows.
    fn erase_moved(&mut self, below: usize) -> String {
        let Size { width, height } = self.size;
        let taken = |columns: &usize| columns.div_ceil(width.max(1)).max(1);
        let upper: usize = self.kept.iter().map(|(_, columns)| taken(columns)).sum();
        let lower: usize = self.drawn.iter().map(taken).sum();
        let up = (upper + lower).min(height.saturating_sub(1));
        let mut out = String::from("\r");
        if up > 0 {
            let _ = write!(out, "\x1b[{up}A");
        }
        out.push_str("\x1b[J");
        let mut room = height.saturating_sub(below + 1);
        let mut first = self.kept.len();
        for (place, (line, columns)) in self.kept.iter_mut().enumerate().rev() {
            *columns = line.render(self.style, width).1;
            let Some(left) = room.checked_sub(taken(columns)) else {
                break;
            };
            room = left;
            first = place;
        }
        for (line, _) in self.kept.iter().skip(first) {
            let _ = writeln!(out, "{}", line.render(self.style, width).0);
        }
        out
    }

    /// What the changes add to the upper part.
    fn above(&mut self, trace: &Trace, changes: &[Change]) -> Vec<Line> {
        let mut lines = Vec::new();
        for change in changes {
            match change {
                Change::Ended(id) => {
                    let Some(vertex) = trace.vertices.get(id) else {
                        continue;
                    };
                    match &vertex.ended {
                        Some((Outcome::Cached, _)) => self.folded.push(vertex.name.clone()),
                        Some((outcome, elapsed)) => {
                            if let Some(line) = ended_line(vertex, outcome, *elapsed) {
                                lines.extend(self.unfold());
                                lines.push(line);
                            }
                        }
                        None => {}
                    }
                }
                Change::Warning(text) => {
                    let text = format!("{} {text}", self.style.warning("warning:"));
                    lines.push(Line::new(text, Look::Foreign));
                }
                // what checks find is told at the end
                Change::Started(_) | Change::Line(..) | Change::Item(..) | Change::Finding(_) => {}
            }
        }
        lines
    }

    /// The line of the steps that the cache has answered, which is then complete.
    fn unfold(&mut self) -> Option<Line> {
        let line = folded_line(&self.folded);
        self.folded.clear();
        line
    }

    /// The lower part: the last cached steps, a heading, then every running step with what it
    /// does.
    fn rows(&self, trace: &Trace, now: Duration) -> Vec<Line> {
        let mut rows: Vec<Line> = folded_line(&self.folded).into_iter().collect();
        rows.push(Line::new(heading(self.phase, trace, now, ""), Look::Plain));
        let running: Vec<&Vertex> = trace
            .vertices
            .values()
            .filter(|vertex| vertex.is_running())
            .collect();
        // One row stays free for the cursor.
        let most = (self.ask)().height.saturating_sub(1).max(1);
        let mut spare = most.saturating_sub(rows.len() + running.len());
        for (place, vertex) in running.iter().enumerate() {
            let details = spare / (running.len() - place);
            let step = step_rows(vertex, now, details, self.log_lines);
            spare -= (step.len() - 1).min(spare);
            rows.extend(step);
        }
        if rows.len() > most {
            rows.truncate(most.saturating_sub(1));
            rows.push(Line::new(" => …", Look::Faint));
        }
        rows
    }
}

fn ended_line(vertex: &Vertex, outcome: &Outcome, elapsed: Duration) -> Option<Line> {
    let (word, look) = match outcome {
        Outcome::Done => ("", Look::Done),
        Outcome::Cached => ("CACHED ", Look::Done),
        Outcome::Failed(_) => ("ERROR ", Look::Failed),
        Outcome::Canceled if vertex.started.is_none() => return None,
        Outcome::Canceled => ("CANCELED ", Look::Canceled),
    };
    let left = format!(" => {word}{}", vertex.name);
    Some(Line::with_time(left, elapsed, look))
}

/// One line for any number of cached steps.
fn folded_line(names: &[String]) -> Option<Line> {
    let left = match names {
        [] => return None,
        [one] => format!(" => CACHED {one}"),
        many => format!(" => CACHED {} steps: {}", many.len(), places(many)),
    };
    Some(Line::with_time(left, Duration::ZERO, Look::Done))
}

/// Where steps stand, in few words: `[builder 2-5/6] [2/3]`.
fn places(names: &[String]) -> String {
    let mut stages: Vec<(&str, &str, Vec<usize>)> = Vec::new();
    let mut others: Vec<&str> = Vec::new();
    for name in names {
        let Some((stage, number, total)) = place(name) else {
            others.push(name);
            continue;
        };
        match stages
            .iter_mut()
            .find(|known| known.0 == stage && known.1 == total)
        {
            Some(known) => known.2.push(number),
            None => stages.push((stage, total, vec![number])),
        }
    }
    let mut words: Vec<String> = Vec::new();
    for (stage, total, mut numbers) in stages {
        numbers.sort_unstable();
        let stage = if stage.is_empty() {
            String::new()
        } else {
            format!("{stage} ")
        };
        words.push(format!("[{stage}{}/{total}]", ranges(&numbers)));
    }
    words.extend(others.into_iter().map(str::to_owned));
    words.join(" ")
}

/// The parts of `[stage 2/5] …`.
fn place(name: &str) -> Option<(&str, usize, &str)> {
    let inside = name.strip_prefix('[')?.split_once(']')?.0;
    let (stage, count) = inside.rsplit_once(' ').unwrap_or(("", inside));
    let (number, total) = count.split_once('/')?;
    Some((stage.trim_end(), number.parse().ok()?, total))
}

/// Ascending numbers with neighbours joined: `2-4,6`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let texts: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            _ => format!("{first}-{last}"),
        })
        .collect();
    texts.join(",")
}

fn heading(phase: Phase, trace: &Trace, now: Duration, suffix: &str) -> String {
    let ended = trace
        .vertices
        .values()
        .filter(|vertex| vertex.ended.is_some())
        .count();
    let all = trace.vertices.len();
    format!(
        "[+] {} {} ({ended}/{all}){suffix}",
        phase.word(),
        format::seconds(now)
    )
}

/// A running step: its name and time, then at most `details` rows about its transfers and at most
/// `log_lines` of its output.
fn step_rows(vertex: &Vertex, now: Duration, details: usize, log_lines: usize) -> Vec<Line> {
    let elapsed = now.saturating_sub(vertex.started.unwrap_or(now));
    let name = format!(" => {}", vertex.name);
    let mut rows = vec![Line::with_time(name, elapsed, Look::Plain)];
    let moving = vertex.items.iter().filter(|item| item.ended.is_none());
    let items = moving.take(details.min(MOST_ITEMS));
    rows.extend(items.map(|item| item_line(item, now)));
    let room = (details + 1 - rows.len()).min(log_lines);
    let lines = vertex.last_lines(room).into_iter();
    rows.extend(lines.map(|line| Line::new(format!(" => => # {line}"), Look::Faint)));
    rows
}

fn item_line(item: &Item, now: Duration) -> Line {
    // A digest is recognised by its beginning; all of it would leave no room for the numbers.
    let name: String = match item.name.split_once("sha256:") {
        Some((before, hex)) if hex.len() > 12 => {
            format!(
                "{before}sha256:{}",
                hex.chars().take(12).collect::<String>()
            )
        }
        _ => item.name.clone(),
    };
    let amount = match item.total.filter(|total| *total > 0) {
        Some(total) => format!(
            " {} / {}",
            format::bytes(item.current),
            format::bytes(total)
        ),
        None if item.current > 0 => format!(" {}", format::bytes(item.current)),
        None => String::new(),
    };
    let elapsed = now.saturating_sub(item.started);
    let rate = if item.current > 0 && elapsed >= Duration::from_secs(1) {
        let per_second = item.current as f64 / elapsed.as_secs_f64();
        format!("  {}/s", format::bytes(per_second as u64))
    } else {
        String::new()
    };
    let left = format!(" => => {name}{amount}{rate}");
    Line::with_time(left, elapsed, Look::Faint)
}

impl Display for Tty {
    fn show(&mut self, trace: &Trace, changes: &[Change], now: Duration) -> String {
        let above = self.above(trace, changes);
        let rows = self.rows(trace, now);
        self.draw(above, &rows)
    }

    fn note(&mut self, trace: &Trace, text: &str, now: Duration) -> String {
        let lines = text.lines().map(|line| Line::new(line, Look::Foreign));
        let rows = self.rows(trace, now);
        self.draw(lines.collect(), &rows)
    }

    fn finish(&mut self, trace: &Trace, now: Duration) -> String {
        let mut lines: Vec<Line> = self.unfold().into_iter().collect();
        for vertex in trace.vertices.values().filter(|vertex| vertex.is_running()) {
            let elapsed = now.saturating_sub(vertex.started.unwrap_or(now));
            lines.extend(ended_line(vertex, &Outcome::Canceled, elapsed));
        }
        let failed = trace
            .vertices
            .values()
            .any(|vertex| !matches!(vertex.ended, Some((Outcome::Done | Outcome::Cached, _))));
        let suffix = if failed { " FAILED" } else { " FINISHED" };
        lines.push(Line::new(
            heading(self.phase, trace, now, suffix),
            Look::Plain,
        ));
        self.draw(lines, &[])
    }

    fn frame_time(&self) -> Duration {
        FRAME
    }
}

#[cfg(test)]
#[path = "tty_tests.rs"]
mod tests;
