//! How a build looks while it goes on: plain lines, a terminal, or nothing.
//!
//! A thread of its own takes the events of the build, folds them into a trace and writes
//! what the chosen display makes of them to standard error. The displays are pure: time and size
//! are given to them. Standard output is never touched here.

pub(crate) mod format;
pub mod style;
pub(crate) mod terminal;

mod display;
mod plain;
mod quiet;
mod trace;
mod tty;

#[cfg(test)]
mod script;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::display::Display;
use self::style::Style;
use self::terminal::{Colours, Size};
use self::trace::Trace;
use super::environment::Environment;
use super::error::Failure;
use crate::solver::events::{Event, EventSink, Outcome};

/// How many events may wait for the display before steps have to.
const QUEUE: usize = 4096;
/// How often the display is asked for news when nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// Terminals narrower or lower than this get plain progress.
const SMALLEST: Size = Size {
    width: 30,
    height: 6,
};

/// `--progress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProgressMode {
    /// A terminal display where standard error is a terminal that can show it, else plain.
    #[default]
    Auto,
    /// The terminal display.
    Tty,
    /// Lines for logs.
    Plain,
    /// Nothing but warnings and errors.
    Quiet,
}

/// How messages of rbuild look on standard error, by `NO_COLOR` and what standard error is.
pub fn stderr_style(environment: &Environment) -> Style {
    Style::new(
        io::stderr().is_terminal()
            && !environment.contains("NO_COLOR")
            && environment.get("TERM").is_none_or(|term| term != "dumb"),
    )
}

/// The same for results on standard output.
pub fn stdout_style(environment: &Environment) -> Style {
    Style::new(
        io::stdout().is_terminal()
            && !environment.contains("NO_COLOR")
            && environment.get("TERM").is_none_or(|term| term != "dumb"),
    )
}

enum Message {
    Event(Event),
    Note(String),
    Finish,
}

/// Where the progress of a build is sent.
struct Sink {
    begin: Instant,
    sender: SyncSender<(Duration, Message)>,
}

impl EventSink for Sink {
    fn emit(&self, event: Event) {
        // After the end nobody listens; a step that is still being stopped may talk on.
        let _ = self
            .sender
            .send((self.begin.elapsed(), Message::Event(event)));
    }
}

/// A progress display that is running.
pub struct Progress {
    sink: Arc<Sink>,
    thread: JoinHandle<Trace>,
    stderr: SharedStderr,
}

impl Progress {
    /// Starts a display on standard error. `closed` is called when nobody reads standard error
    /// any more.
    ///
    /// # Errors
    /// When `--progress tty` was asked for and standard error is no terminal, or no thread can
    /// be started.
    pub fn start(
        mode: ProgressMode,
        environment: &Environment,
        stderr: &SharedStderr,
        closed: impl Fn() + Send + 'static,
    ) -> Result<Self, Failure> {
        let (display, colours) = choose(mode, environment)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let sink = Arc::new(Sink {
            begin: Instant::now(),
            sender: sender.clone(),
        });
        let begin = sink.begin;
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                let mut screen = Screen {
                    display,
                    trace: Trace::new(colours),
                    closed: Box::new(closed),
                };
                screen.run(begin, &receiver);
                screen.trace
            })
            .map_err(|error| {
                Failure::internal("can't start the progress display").caused_by(&error)
            })?;
        stderr.attach(begin, sender);
        Ok(Self {
            sink,
            thread,
            stderr: stderr.clone(),
        })
    }

    /// Where the build sends its events.
    pub fn sink(&self) -> Arc<dyn EventSink> {
        self.sink.clone()
    }

    /// Ends the display and says what happened. Standard error is free again afterwards.
    pub fn finish(self) -> Report {
        self.stderr.detach();
        let _ = self
            .sink
            .sender
            .send((self.sink.begin.elapsed(), Message::Finish));
        let elapsed = self.sink.begin.elapsed();
        // A display that has panicked has shown nothing wrong; the build's result still stands.
        let trace = self
            .thread
            .join()
            .unwrap_or_else(|_| Trace::new(Colours::Drop));
        Report { elapsed, trace }
    }
}

fn choose(
    mode: ProgressMode,
    environment: &Environment,
) -> Result<(Box<dyn Display>, Colours), Failure> {
    let size = terminal::size_of(io::stderr());
    let dumb = environment.get("TERM").is_none_or(|term| term == "dumb");
    if mode == ProgressMode::Tty && !io::stderr().is_terminal() {
        return Err(
            Failure::user("`--progress tty` needs a terminal on standard error")
                .hint("use `--progress plain`, or `auto`, which finds out"),
        );
    }
    let fits =
        size.is_some_and(|size| size.width >= SMALLEST.width && size.height >= SMALLEST.height);
    let style = stderr_style(environment);
    let colours = if environment.contains("NO_COLOR") {
        Colours::Drop
    } else {
        Colours::Keep
    };
    let display: Box<dyn Display> = match mode {
        ProgressMode::Quiet => Box::new(quiet::Quiet::new(style)),
        ProgressMode::Auto | ProgressMode::Tty if fits && !dumb => {
            let first = size.unwrap_or(SMALLEST);
            let ask = move || terminal::size_of(io::stderr()).unwrap_or(first);
            Box::new(tty::Tty::new(style, Box::new(ask)))
        }
        ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
            Box::new(plain::Plain::new(style))
        }
    };
    Ok((display, colours))
}

/// The display's thread.
struct Screen {
    display: Box<dyn Display>,
    trace: Trace,
    closed: Box<dyn Fn() + Send>,
}

impl Screen {
    fn run(&mut self, begin: Instant, messages: &Receiver<(Duration, Message)>) {
        let mut next_frame = Duration::ZERO;
        let mut changes = Vec::new();
        loop {
            let now = begin.elapsed();
            let wait = if changes.is_empty() {
                TICK
            } else {
                next_frame.saturating_sub(now)
            };
            let received = messages.recv_timeout(wait);
            match received {
                Ok((at, Message::Event(event))) => {
                    changes.extend(self.trace.apply(at, event));
                    // Gather until the frame's time has come, not beyond.
                    if begin.elapsed() < next_frame {
                        continue;
                    }
                }
                Ok((_, Message::Note(text))) => {
                    let shown = self.display.note(&self.trace, &text, now);
                    self.write(&shown);
                    continue;
                }
                Ok((at, Message::Finish)) => {
                    let mut text = self.display.show(&self.trace, &changes, at);
                    text.push_str(&self.display.finish(&self.trace, at));
                    self.write(&text);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = begin.elapsed();
            let text = self.display.show(&self.trace, &changes, now);
            changes.clear();
            next_frame = now + self.display.frame_time();
            self.write(&text);
        }
    }

    /// Writes to standard error. A closed pipe ends the build; a terminal that went away is
    /// told by SIGHUP.
    fn write(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Err(error) = io::stderr().write_all(text.as_bytes())
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            (self.closed)();
        }
    }
}

/// Standard error as log messages see it: while a display is running they go through it, so
/// that they stand between its lines and not in the middle of one.
#[derive(Clone, Default)]
pub struct SharedStderr(Arc<Mutex<Option<Attached>>>);

#[derive(Clone)]
struct Attached {
    begin: Instant,
    sender: SyncSender<(Duration, Message)>,
}

impl SharedStderr {
    fn attach(&self, begin: Instant, sender: SyncSender<(Duration, Message)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Attached { begin, sender });
    }

    fn detach(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Shows whole lines: through the display where one is running.
    pub fn write_lines(&self, text: &str) {
        let attached = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let direct = match attached {
            Some(Attached { begin, sender }) => sender
                .send((begin.elapsed(), Message::Note(text.to_owned())))
                .is_err(),
            None => true,
        };
        if direct {
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }
}

/// What a display saw, for the summary and for errors.
#[derive(Debug)]
pub struct Report {
    elapsed: Duration,
    trace: Trace,
}

impl Report {
    /// How long it took.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The last lines of every step that failed, under its name, as text for the error; empty
    /// where none has failed.
    pub fn failed_output(&self, style: Style) -> String {
        let mut out = String::new();
        for vertex in self.trace.vertices.values() {
            if !matches!(vertex.ended, Some((Outcome::Failed(_), _))) || vertex.tail.is_empty() {
                continue;
            }
            let _ = writeln!(out, "------\n > {}:", vertex.name);
            for line in &vertex.tail {
                let text = if style.colours() {
                    line.text.clone()
                } else {
                    terminal::neutralise_text(&line.text)
                };
                let _ = writeln!(out, "{} {text}", format::log_time(line.at));
            }
            let _ = writeln!(out, "------");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::script::Script;
    use super::*;

    #[test]
    fn a_failed_step_shows_its_last_lines() {
        let mut trace = Trace::new(Colours::Keep);
        let script = Script::new()
            .announce(0, "[1/2] RUN true")
            .announce(1, "[2/2] RUN make")
            .start(0)
            .log(0, "fine\n")
            .done(0, 1)
            .start(1)
            .at(250)
            .log(1, "\x1b[31mmain.c:1: no\x1b[0m\nmake: *** failed")
            .failed(1, "exit code: 2", 250);
        script.play_open(&mut trace, &mut quiet::Quiet::new(Style::PLAIN));
        let report = Report {
            elapsed: Duration::ZERO,
            trace,
        };
        assert_eq!(
            report.failed_output(Style::PLAIN),
            "------\n > [2/2] RUN make:\n0.250 main.c:1: no\n0.250 make: *** failed\n------\n"
        );
        assert!(
            report
                .failed_output(Style::COLOURED)
                .contains("\x1b[31mmain.c")
        );
    }
}
