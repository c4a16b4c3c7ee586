//! Progress for logs and pipes: every line says which step it belongs to.
//!
//! ```text
//! #5 [builder 2/5] RUN make
//! #5 0.123 cc -c main.c
//! #5 DONE 0.3s
//! ```
//!
//! Steps run at once, but one at a time has the floor: lines of the others wait until it ends,
//! falls silent or has held it too long. A step gets its number when it is first shown, so that
//! numbers count upwards through the log.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::display::Display;
use super::format;
use super::style::Style;
use super::trace::{Change, Item, Trace};
use crate::solver::events::{Outcome, VertexId};

/// How long others wait at most for a step that keeps printing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long others wait for a step that prints nothing.
const SILENCE: Duration = Duration::from_secs(1);
/// How much may wait, in bytes, before a step gets its turn early.
const WAITING_ROOM: usize = 256 * 1024;
/// A transfer is shown again after this time…
const ITEM_INTERVAL: Duration = Duration::from_secs(5);
/// …or after this one, when it has moved by…
const ITEM_PAUSE: Duration = Duration::from_secs(1);
/// …this part of it, in percent.
const ITEM_PERCENT: u64 = 10;

#[derive(Debug)]
struct Waiting {
    since: Duration,
    lines: Vec<String>,
    bytes: usize,
}

/// The plain display.
#[derive(Debug)]
pub(super) struct Plain {
    style: Style,
    floor: Option<VertexId>,
    has_spoken: bool,
    last_spoken: Duration,
    numbers: BTreeMap<VertexId, usize>,
    waiting: BTreeMap<VertexId, Waiting>,
    items: BTreeMap<(VertexId, usize), (Duration, u64)>,
}

impl Plain {
    /// A display that has shown nothing.
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            floor: None,
            has_spoken: false,
            last_spoken: Duration::ZERO,
            numbers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            items: BTreeMap::new(),
        }
    }

    fn take(&mut self, trace: &Trace, change: &Change, now: Duration, out: &mut String) {
        match change {
            Change::Started(id) => self.say(trace, *id, None, now, out),
            Change::Line(id, line) => {
                let text = format!("{} {}", format::log_time(line.at), line.text);
                self.say(trace, *id, Some(text), now, out);
            }
            Change::Item(id, place) => {
                let item = trace
                    .vertices
                    .get(id)
                    .and_then(|vertex| vertex.items.get(*place));
                if let Some(item) = item
                    && self.is_news((*id, *place), item, now)
                {
                    self.say(trace, *id, Some(item_line(item, now)), now, out);
                }
            }
            Change::Ended(id) => self.end(trace, *id, now, out),
            Change::Finding(text) => {
                let _ = writeln!(out, "{} {text}", self.style.warning("WARN:"));
            }
            Change::Warning(text) => {
                let _ = writeln!(out, "{} {text}", self.style.warning("warning:"));
            }
        }
    }

    /// Whether a transfer has moved far enough to be shown again.
    fn is_news(&mut self, key: (VertexId, usize), item: &Item, now: Duration) -> bool {
        let news = match (self.items.get(&key), item.ended) {
            (None, _) | (_, Some(_)) => true,
            (Some((shown_at, shown)), None) => {
                let moved = item.current.saturating_sub(*shown);
                let silent = now.saturating_sub(*shown_at);
                let is_far = item.total.is_some_and(|total| {
                    u128::from(moved) * 100 >= u128::from(total) * u128::from(ITEM_PERCENT)
                });
                silent >= ITEM_INTERVAL || (silent >= ITEM_PAUSE && is_far)
            }
        };
        if news {
            self.items.insert(key, (now, item.current));
        }
        news
    }

    /// A step has something to say: at once where it has the floor or nobody has, else later.
    fn say(
        &mut self,
        trace: &Trace,
        id: VertexId,
        line: Option<String>,
        now: Duration,
        out: &mut String,
    ) {
        let waiting = self.waiting.entry(id).or_insert_with(|| Waiting {
            since: now,
            lines: Vec::new(),
            bytes: 0,
        });
        waiting.bytes += line.as_ref().map_or(0, String::len);
        waiting.lines.extend(line);
        let crowded = waiting.bytes > WAITING_ROOM;
        if crowded || self.floor.is_none_or(|floor| floor == id) {
            self.give_floor(trace, id, now, out);
        }
    }

    /// Lets a step print all that it has to say, under its name where it had not the floor.
    fn give_floor(&mut self, trace: &Trace, id: VertexId, now: Duration, out: &mut String) {
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(id).or_insert(next);
        if self.floor != Some(id) {
            if let Some(other) = self.floor.and_then(|floor| self.numbers.get(&floor)) {
                let _ = writeln!(out, "#{other} ...");
            }
            let blank = if self.has_spoken { "\n" } else { "" };
            self.has_spoken = true;
            let name = trace
                .vertices
                .get(&id)
                .map_or("", |vertex| vertex.name.as_str());
            let _ = writeln!(out, "{blank}#{number} {name}");
            self.floor = Some(id);
        }
        for line in self
            .waiting
            .remove(&id)
            .into_iter()
            .flat_map(|waiting| waiting.lines)
        {
            let _ = writeln!(out, "#{number} {line}");
        }
        self.last_spoken = now;
    }

    fn end(&mut self, trace: &Trace, id: VertexId, now: Duration, out: &mut String) {
        let Some(vertex) = trace.vertices.get(&id) else {
            return;
        };
        let Some((outcome, elapsed)) = &vertex.ended else {
            return;
        };
        if *outcome == Outcome::Canceled && vertex.started.is_none() {
            return;
        }
        self.give_floor(trace, id, now, out);
        let number = self.numbers.get(&id).copied().unwrap_or_default();
        let _ = match outcome {
            Outcome::Done => writeln!(out, "#{number} DONE {}", format::seconds(*elapsed)),
            Outcome::Cached => writeln!(out, "#{number} CACHED"),
            Outcome::Canceled => writeln!(out, "#{number} CANCELED"),
            Outcome::Failed(reason) => {
                let reason = super::terminal::neutralise_text(&reason.replace('\n', " "));
                writeln!(out, "#{number} {} {reason}", self.style.error("ERROR:"))
            }
        };
        self.floor = None;
        self.items.retain(|(of, _), _| *of != id);
    }

    /// Gives the floor to whoever has waited longest, where the one that has it has held it long
    /// enough.
    fn take_turns(&mut self, trace: &Trace, now: Duration, out: &mut String) {
        let Some((&id, since)) = self
            .waiting
            .iter()
            .min_by_key(|(_, waiting)| waiting.since)
            .map(|(id, waiting)| (id, waiting.since))
        else {
            return;
        };
        let silent = now.saturating_sub(self.last_spoken) >= SILENCE;
        let waited = now.saturating_sub(since);
        if self.floor.is_none() || waited >= PATIENCE || (silent && waited >= SILENCE) {
            self.give_floor(trace, id, now, out);
        }
    }
}

fn item_line(item: &Item, now: Duration) -> String {
    let mut line = item.name.clone();
    let has_bytes = item.current > 0 || item.total.is_some_and(|total| total > 0);
    if has_bytes && !item.name.contains("sha256:") {
        line.push(':');
    }
    if has_bytes {
        let _ = write!(line, " {}", format::bytes(item.current));
        if let Some(total) = item
            .total
            .filter(|total| *total != item.current || item.ended.is_none())
        {
            let _ = write!(line, " / {}", format::bytes(total));
        }
    }
    let elapsed = item.ended.unwrap_or(now).saturating_sub(item.started);
    if elapsed >= Duration::from_millis(100) {
        let _ = write!(line, " {}", format::seconds(elapsed));
    }
    if item.ended.is_some() {
        line.push_str(" done");
    }
    line
}

impl Display for Plain {
    fn show(&mut self, trace: &Trace, changes: &[Change], now: Duration) -> String {
        let mut out = String::new();
        for change in changes {
            self.take(trace, change, now, &mut out);
        }
        self.take_turns(trace, now, &mut out);
        out
    }

    fn note(&mut self, _: &Trace, text: &str, _: Duration) -> String {
        text.to_owned()
    }

    fn finish(&mut self, trace: &Trace, now: Duration) -> String {
        let mut out = String::new();
        let waiting: Vec<VertexId> = self.waiting.keys().copied().collect();
        for id in waiting {
            self.give_floor(trace, id, now, &mut out);
        }
        out
    }

    fn frame_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    fn plain(script: Script) -> String {
        script.play(&mut Plain::new(Style::PLAIN))
    }

    #[test]
    fn one_step_after_the_other() {
        let script = Script::new()
            .announce(0, "[internal] load build definition from Dockerfile")
            .announce(1, "[1/3] FROM docker.io/library/alpine:latest")
            .announce(2, "[2/3] RUN make")
            .announce(3, "[3/3] RUN false")
            .announce(4, "exporting to image")
            .at(0)
            .start(0)
            .progress(0, "transferring dockerfile", 48, None)
            .at(10)
            .done(0, 10)
            .cached(1)
            .start(2)
            .at(133)
            .log(2, "cc main.c\nwarn")
            .at(1500)
            .log(2, "ing: x\n")
            .at(1600)
            .log(2, "no newline")
            .done(2, 1590)
            .start(3)
            .at(1800)
            .failed(
                3,
                "process `/bin/sh -c false` did not complete successfully: exit code: 1",
                200,
            )
            .canceled(4);
        assert_eq!(
            plain(script),
            "\
#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 48B
#1 transferring dockerfile: 48B done
#1 DONE 0.0s

#2 [1/3] FROM docker.io/library/alpine:latest
#2 CACHED

#3 [2/3] RUN make
#3 0.123 cc main.c
#3 1.490 warning: x
#3 1.590 no newline
#3 DONE 1.6s

#4 [3/3] RUN false
#4 ERROR: process `/bin/sh -c false` did not complete successfully: exit code: 1
"
        );
    }

    #[test]
    fn steps_that_run_at_once_take_turns() {
        let script = Script::new()
            .announce(0, "[a 1/1] RUN a")
            .announce(1, "[b 1/1] RUN b")
            .at(0)
            .start(0)
            .start(1)
            .at(100)
            .log(0, "a 1\n")
            .at(200)
            .log(1, "b 1\n")
            .at(300)
            .log(0, "a 2\n")
            // `a` is silent for a second: `b` has its turn.
            .at(1400)
            .tick()
            .at(1500)
            .log(0, "a 3\n")
            .at(1600)
            .log(1, "b 2\n")
            .done(0, 1600)
            .at(1700)
            .log(1, "b 3\n")
            .done(1, 1700);
        assert_eq!(
            plain(script),
            "\
#1 [a 1/1] RUN a
#1 0.100 a 1
#1 0.300 a 2
#1 ...

#2 [b 1/1] RUN b
#2 0.200 b 1
#2 1.600 b 2
#2 ...

#1 [a 1/1] RUN a
#1 1.500 a 3
#1 DONE 1.6s

#2 [b 1/1] RUN b
#2 1.700 b 3
#2 DONE 1.7s
"
        );
    }

    #[test]
    fn a_step_that_never_falls_silent_gives_way() {
        let mut script = Script::new()
            .announce(0, "a")
            .announce(1, "b")
            .start(0)
            .start(1);
        for half_seconds in 1..12 {
            script = script.at(half_seconds * 500).log(0, "a\n");
            if half_seconds == 1 {
                script = script.log(1, "b\n");
            }
        }
        let text = plain(script);
        let waited = text.lines().take_while(|line| *line != "#2 b").count();
        assert_eq!(text.lines().nth(waited + 1), Some("#2 0.500 b"));
        assert!(waited < 15, "{text}");
    }

    #[test]
    fn a_crowd_of_waiting_lines_does_not_wait() {
        let mut script = Script::new()
            .announce(0, "a")
            .announce(1, "b")
            .start(0)
            .start(1);
        let line = "x".repeat(1023) + "\n";
        for _ in 0..300 {
            script = script.log(1, &line);
        }
        assert!(plain(script).contains("#2 b\n#2 0.000 xxx"));
    }

    #[test]
    fn transfers_are_shown_now_and_then() {
        let mut script = Script::new().announce(0, "[1/1] FROM x").start(0);
        for percent in 0..=100 {
            script = script.at(percent * 20).progress(
                0,
                "sha256:1234",
                percent * 10_000,
                Some(1_000_000),
            );
        }
        assert_eq!(
            plain(script.done(0, 2000)),
            "\
#1 [1/1] FROM x
#1 sha256:1234 0B / 1.00MB
#1 sha256:1234 500.00kB / 1.00MB 1.0s
#1 sha256:1234 1.00MB 2.0s done
#1 DONE 2.0s
"
        );
        let mut slow = Script::new().announce(0, "[1/1] FROM x").start(0);
        for second in 0..=12 {
            slow = slow
                .at(second * 1000)
                .progress(0, "sha256:1234", second, Some(1_000_000));
        }
        // Every five seconds, however little has come.
        assert_eq!(plain(slow).lines().count(), 4);
    }

    #[test]
    fn what_build_checks_find_is_listed() {
        assert_eq!(
            plain(Script::new().finding()),
            "WARN: StageNameCasing: Stage name 'Odd' should be lowercase (line 3)\n"
        );
    }

    #[test]
    fn warnings_and_hostile_output_are_harmless() {
        let script = Script::new()
            .announce(0, "[1/1] RUN evil \x1b[2J")
            .start(0)
            .log(0, "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x1b[0m\r\n")
            .warning("careful\nnow")
            .failed(0, "bad\x1b[H\nreason", 0);
        assert_eq!(
            plain(script),
            "#1 [1/1] RUN evil \n#1 0.000 \x1b[31mred\x1b[0m\nwarning: careful now\n#1 ERROR: bad reason\n"
        );
    }
}
