//! Progress on a terminal: ended steps scroll by above, running ones are drawn anew below them.
//!
//! ```text
//!  => CACHED [builder 1/3] FROM docker.io/library/golang:latest        0.0s
//!  => [builder 2/3] COPY . .                                           0.1s
//! [+] building 4.2s (3/7)
//!  => [builder 3/3] RUN go build                                       2.1s
//!  => => go: downloading golang.org/x/sys v0.1.0
//! ```
//!
//! Only relative cursor movements are used and nothing about the terminal is changed for longer
//! than one write, so that nothing is to be restored however rbuild ends.

use std::fmt::Write as _;
use std::time::Duration;

use super::display::Display;
use super::format;
use super::style::Style;
use super::terminal::{Size, justify, truncate};
use super::trace::{Change, Item, Trace, Vertex};
use crate::solver::events::{Outcome, VertexId};

/// At most this many transfers are shown of one step.
const MOST_ITEMS: usize = 5;
/// How often the lower part is drawn at most.
const FRAME: Duration = Duration::from_millis(100);

/// Asks the terminal for its size.
pub(super) type AskSize = Box<dyn Fn() -> Size + Send>;

/// The terminal display.
pub(super) struct Tty {
    style: Style,
    size: AskSize,
    /// Lines drawn below the ended steps; the cursor stands behind the last.
    drawn: usize,
}

/// A line of the lower part: its text (at most as wide as the terminal), and whether it is of
/// less interest.
struct Row {
    text: String,
    faint: bool,
}

impl Tty {
    /// A display for a terminal whose size `size` tells.
    pub(super) fn new(style: Style, size: AskSize) -> Self {
        Self {
            style,
            size,
            drawn: 0,
        }
    }

    /// Replaces the lower part: first `above`, which stays for good, then what runs now.
    fn draw(&mut self, above: &str, rows: &[Row]) -> String {
        let mut out = String::new();
        if self.drawn > 0 {
            // Row by row: some terminals take a cleared screen for lines worth keeping in their
            // scrollback.
            let up = format!("\x1b[{}A\r", self.drawn);
            let _ = write!(out, "{up}{}{up}", "\x1b[2K\n".repeat(self.drawn));
        }
        out.push_str(above);
        // Without automatic wrapping a row stays one row even where the terminal disagrees
        // about a character's width.
        if !rows.is_empty() {
            out.push_str("\x1b[?7l");
            for row in rows {
                let text = if row.faint {
                    self.style.faint(&row.text)
                } else {
                    row.text.clone()
                };
                let _ = writeln!(out, "{text}");
            }
            out.push_str("\x1b[?7h");
        }
        self.drawn = rows.len();
        out
    }

    fn ended_line(
        &self,
        vertex: &Vertex,
        outcome: &Outcome,
        elapsed: Duration,
        width: usize,
    ) -> Option<String> {
        let (word, name) = match outcome {
            Outcome::Done => ("", &vertex.name),
            Outcome::Cached => ("CACHED ", &vertex.name),
            Outcome::Failed(_) => ("ERROR ", &vertex.name),
            Outcome::Canceled if vertex.started.is_none() => return None,
            Outcome::Canceled => ("CANCELED ", &vertex.name),
        };
        let line = justify(
            &format!(" => {word}{name}"),
            &format::seconds(elapsed),
            width,
        );
        Some(match outcome {
            Outcome::Failed(_) => self.style.error(line),
            Outcome::Canceled => self.style.warning(line),
            Outcome::Done | Outcome::Cached => self.style.done(line),
        })
    }

    fn above(&self, trace: &Trace, changes: &[Change], width: usize) -> String {
        let mut out = String::new();
        for change in changes {
            match change {
                Change::Ended(id) => {
                    let ended = trace.vertices.get(id).and_then(|vertex| {
                        let (outcome, elapsed) = vertex.ended.as_ref()?;
                        self.ended_line(vertex, outcome, *elapsed, width)
                    });
                    if let Some(line) = ended {
                        let _ = writeln!(out, "{line}");
                    }
                }
                Change::Warning(text) => {
                    let _ = writeln!(out, "{} {text}", self.style.warning("warning:"));
                }
                Change::Started(_) | Change::Line(..) | Change::Item(..) => {}
            }
        }
        out
    }
}

/// The lower part: a heading, then every running step with what it does.
fn rows(trace: &Trace, now: Duration, size: Size) -> Vec<Row> {
    let mut rows = vec![Row {
        text: truncate(&heading(trace, now, ""), size.width),
        faint: false,
    }];
    let running: Vec<(&VertexId, &Vertex)> = trace
        .vertices
        .iter()
        .filter(|(_, vertex)| vertex.is_running())
        .collect();
    // One row stays free for the cursor, one is the heading.
    let room = size.height.saturating_sub(2);
    let details = room.saturating_sub(running.len()) / running.len().max(1);
    for (_, vertex) in &running {
        rows.extend(step_rows(vertex, now, size.width, details));
    }
    if rows.len() > room + 1 {
        rows.truncate(room);
        rows.push(Row {
            text: truncate(" => …", size.width),
            faint: true,
        });
    }
    rows
}

fn heading(trace: &Trace, now: Duration, suffix: &str) -> String {
    let ended = trace
        .vertices
        .values()
        .filter(|vertex| vertex.ended.is_some())
        .count();
    let all = trace.vertices.len();
    format!(
        "[+] building {} ({ended}/{all}){suffix}",
        format::seconds(now)
    )
}

/// A running step: its name and time, then at most `details` rows about its transfers and output.
fn step_rows(vertex: &Vertex, now: Duration, width: usize, details: usize) -> Vec<Row> {
    let elapsed = now.saturating_sub(vertex.started.unwrap_or(now));
    let mut rows = vec![Row {
        text: justify(
            &format!(" => {}", vertex.name),
            &format::seconds(elapsed),
            width,
        ),
        faint: false,
    }];
    let moving = vertex.items.iter().filter(|item| item.ended.is_none());
    rows.extend(moving.take(details.min(MOST_ITEMS)).map(|item| Row {
        text: item_text(item, now, width),
        faint: true,
    }));
    let line = vertex.last_line();
    if rows.len() <= details && !line.is_empty() {
        rows.push(Row {
            text: truncate(&format!(" => => {line}"), width),
            faint: true,
        });
    }
    rows
}

fn item_text(item: &Item, now: Duration, width: usize) -> String {
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
    justify(
        &format!(" => => {name}{amount}{rate}"),
        &format::seconds(elapsed),
        width,
    )
}

impl Display for Tty {
    fn show(&mut self, trace: &Trace, changes: &[Change], now: Duration) -> String {
        let size = (self.size)();
        let above = self.above(trace, changes, size.width);
        self.draw(&above, &rows(trace, now, size))
    }

    fn note(&mut self, trace: &Trace, text: &str, now: Duration) -> String {
        let size = (self.size)();
        self.draw(text, &rows(trace, now, size))
    }

    fn finish(&mut self, trace: &Trace, now: Duration) -> String {
        let size = (self.size)();
        let mut unfinished = String::new();
        for vertex in trace.vertices.values().filter(|vertex| vertex.is_running()) {
            let elapsed = now.saturating_sub(vertex.started.unwrap_or(now));
            if let Some(line) = self.ended_line(vertex, &Outcome::Canceled, elapsed, size.width) {
                let _ = writeln!(unfinished, "{line}");
            }
        }
        let failed = trace
            .vertices
            .values()
            .any(|vertex| !matches!(vertex.ended, Some((Outcome::Done | Outcome::Cached, _))));
        let suffix = if failed { " FAILED" } else { " FINISHED" };
        let heading = truncate(&heading(trace, now, suffix), size.width);
        self.draw(&format!("{unfinished}{heading}\n"), &[])
    }

    fn frame_time(&self) -> Duration {
        FRAME
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::super::terminal::Colours;
    use super::*;

    /// A terminal just good enough to see what [`Tty`] draws. Anything else that it is sent
    /// fails the test.
    struct Screen {
        lines: Vec<String>,
        row: usize,
        column: usize,
        width: usize,
    }

    impl Screen {
        fn of(text: &str, width: usize) -> Vec<String> {
            let mut screen = Self {
                lines: vec![String::new()],
                row: 0,
                column: 0,
                width,
            };
            screen.write(text);
            while screen.lines.last().is_some_and(String::is_empty) {
                screen.lines.pop();
            }
            screen.lines
        }

        fn write(&mut self, mut text: &str) {
            while let Some(c) = text.chars().next() {
                let mut length = c.len_utf8();
                match c {
                    '\n' => {
                        self.row += 1;
                        if self.row == self.lines.len() {
                            self.lines.push(String::new());
                        }
                        self.column = 0;
                    }
                    '\r' => self.column = 0,
                    '\x1b' => length = self.control(text),
                    c => {
                        let columns = self.lines[self.row].chars().count();
                        assert_eq!(columns, self.column, "a row is written over");
                        self.lines[self.row].push(c);
                        self.column += 1;
                        assert!(
                            self.column <= self.width,
                            "too wide: {}",
                            self.lines[self.row]
                        );
                    }
                }
                text = &text[length..];
            }
        }

        fn control(&mut self, text: &str) -> usize {
            let end = text
                .find(|c: char| c.is_ascii_alphabetic())
                .expect("a final byte");
            match &text[2..=end] {
                "2K" => self.lines[self.row].clear(),
                "?7l" | "?7h" => {}
                up => {
                    let rows: usize = up.strip_suffix('A').expect("known").parse().expect("rows");
                    self.row -= rows;
                }
            }
            end + 1
        }
    }

    fn tty(width: usize, height: usize) -> Tty {
        Tty::new(Style::PLAIN, Box::new(move || Size { width, height }))
    }

    fn open(script: Script, width: usize, height: usize) -> Vec<String> {
        let mut trace = Trace::new(Colours::Drop);
        Screen::of(
            &script.play_open(&mut trace, &mut tty(width, height)),
            width,
        )
    }

    fn build() -> Script {
        Script::new()
            .announce(0, "[1/3] FROM docker.io/library/golang:latest")
            .announce(1, "[2/3] COPY . .")
            .announce(2, "[3/3] RUN go build")
            .start(0)
            .start(1)
            .at(1500)
            .progress(0, "sha256:0123456789abcdef", 1_000_000, Some(4_000_000))
            .at(3500)
            .progress(0, "sha256:0123456789abcdef", 2_000_000, Some(4_000_000))
    }

    #[test]
    fn running_steps_are_drawn_below_ended_ones() {
        assert_eq!(
            open(build().done(1, 100), 60, 24),
            [
                " => [2/3] COPY . .                                      0.1s",
                "[+] building 3.5s (1/3)",
                " => [1/3] FROM docker.io/library/golang:latest          3.5s",
                " => => sha256:0123456789ab 2.00MB / 4.00MB  1.00MB/s    2.0s",
            ]
        );
        let script = build()
            .done(1, 100)
            .cached(0)
            .start(2)
            .log(2, "downloading…\rdownloading modules")
            .at(4000)
            .tick();
        assert_eq!(
            open(script, 60, 24),
            [
                " => [2/3] COPY . .                                      0.1s",
                " => CACHED [1/3] FROM docker.io/library/golang:latest   0.0s",
                "[+] building 4.0s (2/3)",
                " => [3/3] RUN go build                                  0.5s",
                " => => downloading modules",
            ]
        );
    }

    #[test]
    fn the_end_leaves_only_lines_that_stay() {
        let script = build()
            .done(0, 3500)
            .done(1, 100)
            .start(2)
            .log(2, "a\n")
            .at(5000)
            .failed(2, "exit code: 1", 1500);
        assert_eq!(
            Screen::of(&script.play(&mut tty(50, 24)), 50),
            [
                " => [1/3] FROM docker.io/library/golang:late… 3.5s",
                " => [2/3] COPY . .                            0.1s",
                " => ERROR [3/3] RUN go build                  1.5s",
                "[+] building 5.0s (3/3) FAILED",
            ]
        );
        let script = Script::new()
            .announce(0, "[1/1] COPY . .")
            .start(0)
            .done(0, 10);
        assert_eq!(
            Screen::of(&script.play(&mut tty(40, 24)), 40),
            [
                " => [1/1] COPY . .                  0.0s",
                "[+] building 0.0s (1/1) FINISHED"
            ]
        );
    }

    #[test]
    fn warnings_and_notes_stand_above() {
        let mut trace = Trace::new(Colours::Drop);
        let mut tty = tty(40, 24);
        let mut text = build().warning("careful").play_open(&mut trace, &mut tty);
        text.push_str(&tty.note(&trace, "a log message\n", Duration::from_secs(4)));
        let screen = Screen::of(&text, 40);
        assert_eq!(
            screen[..3],
            [
                "warning: careful",
                "a log message",
                "[+] building 4.0s (0/3)"
            ]
        );
    }

    #[test]
    fn nothing_is_taller_or_wider_than_the_terminal() {
        for (width, height) in [(1, 1), (10, 3), (20, 5), (40, 8)] {
            let mut script = Script::new();
            for id in 0..30 {
                script = script
                    .announce(id, "[stage 1/1] RUN something long enough to be cut")
                    .start(id)
                    .log(id, "and a line of output that is also rather long\n")
                    .progress(id, "sha256:0123456789abcdef", 1, Some(2));
            }
            // The screen of the test refuses what is too wide.
            let lines = open(script.at(1000).tick(), width, height);
            assert!(lines.len() <= height.max(2), "{lines:?}");
        }
    }
}
