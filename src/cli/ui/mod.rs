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
mod rawjson;
mod trace;
mod tty;

#[cfg(test)]
mod script;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::display::Display;
use self::style::Style;
use self::terminal::{Colours, Size};
use self::trace::{Trace, Vertex};
use super::environment::Environment;
use super::error::Failure;
use crate::solver::events::{Event, EventSink, Outcome};

/// How many events may wait for the display before steps have to: a terminal that was stopped
/// (Ctrl-S) must not fill the memory.
const QUEUE: usize = 512;
/// How often the display is asked for news when nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// So many lines of a running step's output are shown on a terminal, as by BuildKit.
const LOG_LINES: usize = 6;
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
    /// Nothing but warnings and errors; the image's id is the result.
    Quiet,
    /// The same without a result.
    Nothing,
    /// One JSON object a line, for programs.
    RawJson,
}

impl ProgressMode {
    /// The words for `--progress`, for messages.
    pub const NAMES: &'static str = "auto, plain, tty, quiet, rawjson, none";

    /// The mode that `--progress` names so.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "auto" | "" => Self::Auto,
            "plain" => Self::Plain,
            "tty" => Self::Tty,
            "quiet" => Self::Quiet,
            "none" => Self::Nothing,
            "rawjson" => Self::RawJson,
            _ => return None,
        })
    }

    /// Whether somebody is to read more than warnings and errors.
    pub const fn is_for_people(self) -> bool {
        matches!(self, Self::Auto | Self::Tty | Self::Plain)
    }

    /// The mode that `BUILDKIT_PROGRESS` names.
    ///
    /// # Errors
    /// When it names none.
    pub fn of_environment(environment: &Environment) -> Result<Self, Failure> {
        let name = environment.get("BUILDKIT_PROGRESS").unwrap_or_default();
        match Self::named(&name) {
            // A variable is set for a whole session, with and without terminals.
            Some(Self::Tty) => Ok(Self::Auto),
            Some(mode) => Ok(mode),
            None => Err(
                Failure::user(format!("invalid value `{name}` for `BUILDKIT_PROGRESS`"))
                    .hint(format!("it is one of {}", Self::NAMES)),
            ),
        }
    }
}

/// What is going on, as the heading of a terminal's display has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// A build.
    Building,
    /// A look at a Dockerfile.
    Checking,
    /// An upload.
    Pushing,
    /// A download.
    Pulling,
    /// An archive is written.
    Saving,
    /// An archive is read.
    Loading,
}

impl Phase {
    const fn word(self) -> &'static str {
        match self {
            Self::Building => "Building",
            Self::Checking => "Checking",
            Self::Pushing => "Pushing",
            Self::Pulling => "Pulling",
            Self::Saving => "Saving",
            Self::Loading => "Loading",
        }
    }
}

/// Why nothing can be shown any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// Nobody reads the pipe.
    Pipe,
    /// The terminal was closed.
    Terminal,
}

/// How messages of rbuild look on standard error, by `NO_COLOR` (<https://no-color.org>) and what
/// standard error is.
pub fn stderr_style(environment: &Environment) -> Style {
    Style::new(
        io::stderr().is_terminal()
            && environment.get("NO_COLOR").is_none()
            && environment.get("TERM").is_some_and(|term| term != "dumb"),
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

/// How many lines of a running step's output a terminal shows: `BUILDKIT_TTY_LOG_LINES`.
fn log_lines(environment: &Environment) -> usize {
    let lines = environment.get("BUILDKIT_TTY_LOG_LINES");
    let lines = lines.and_then(|lines| lines.trim().parse().ok());
    lines.map_or(LOG_LINES, |lines: usize| lines.min(trace::TAIL_LINES))
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
    /// Starts a display on standard error. `closed` is called (once or more) when nobody reads
    /// standard error any more.
    ///
    /// # Errors
    /// When `--progress tty` was asked for and standard error is no terminal, or no thread can
    /// be started.
    pub fn start(
        mode: ProgressMode,
        phase: Phase,
        environment: &Environment,
        stderr: &SharedStderr,
        closed: impl Fn(Gone) + Send + 'static,
    ) -> Result<Self, Failure> {
        let (display, colours) = choose(mode, phase, environment)?;
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
                    is_terminal: io::stderr().is_terminal(),
                    is_lost: false,
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
    phase: Phase,
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
    // Colours of a step's output are for eyes: a log file or a pipe gets plain text.
    let colours = if style.colours() {
        Colours::Keep
    } else {
        Colours::Drop
    };
    let display: Box<dyn Display> = match mode {
        ProgressMode::Quiet | ProgressMode::Nothing => Box::new(quiet::Quiet::new(style)),
        ProgressMode::RawJson => Box::new(rawjson::RawJson::new(jiff::Timestamp::now())),
        ProgressMode::Auto | ProgressMode::Tty if fits && !dumb => {
            let first = size.unwrap_or(SMALLEST);
            let ask = move || terminal::size_of(io::stderr()).unwrap_or(first);
            Box::new(tty::Tty::new(
                style,
                phase,
                log_lines(environment),
                Box::new(ask),
            ))
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
    closed: Box<dyn Fn(Gone) + Send>,
    is_terminal: bool,
    /// Nobody reads any more.
    is_lost: bool,
}

impl Screen {
    fn run(&mut self, begin: Instant, messages: &Receiver<(Duration, Message)>) {
        let mut next_frame = Duration::ZERO;
        let mut changes = Vec::new();
        let mut text = String::new();
        loop {
            let now = begin.elapsed();
            let wait = if changes.is_empty() {
                TICK
            } else {
                next_frame.saturating_sub(now)
            };
            match messages.recv_timeout(wait) {
                Ok((at, Message::Event(event))) => {
                    text.push_str(&self.display.event(&event, at));
                    changes.extend(self.trace.apply(at, event));
                    // Gather until the frame's time has come, not beyond.
                    if begin.elapsed() < next_frame {
                        continue;
                    }
                }
                Ok((_, Message::Note(note))) => {
                    let shown = self.display.note(&self.trace, &note, now);
                    self.write(&shown);
                    continue;
                }
                Ok((at, Message::Finish)) => {
                    text.push_str(&self.display.show(&self.trace, &changes, at));
                    text.push_str(&self.display.finish(&self.trace, at));
                    self.write(&text);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.look_for_reader(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = begin.elapsed();
            text.push_str(&self.display.show(&self.trace, &changes, now));
            changes.clear();
            next_frame = now + self.display.frame_time();
            self.write(&text);
            text.clear();
        }
    }

    fn write(&mut self, text: &str) {
        if text.is_empty() || self.is_lost {
            return;
        }
        if let Err(error) = terminal::write_all(io::stderr(), text.as_bytes()) {
            // What a closed terminal answers, else a full disk behind a log file: the build is
            // worth more than its log.
            let is_hung_up = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
            if error.kind() == io::ErrorKind::BrokenPipe || (self.is_terminal && is_hung_up) {
                self.lose();
            }
        }
    }

    /// A step that prints nothing for an hour is stopped, too, when nobody watches any more.
    fn look_for_reader(&mut self) {
        if !self.is_lost && terminal::is_abandoned(io::stderr()) {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.is_lost = true;
        (self.closed)(if self.is_terminal {
            Gone::Terminal
        } else {
            Gone::Pipe
        });
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
            let _ = terminal::write_all(io::stderr(), text.as_bytes());
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

    /// What build checks have found, as buildx tells it after a build; empty where that is
    /// nothing. With `expand`, each with its page and its lines.
    pub fn findings(&self, style: Style, expand: bool) -> String {
        let findings = &self.trace.findings;
        let mut heading = match findings.len() {
            0 => return String::new(),
            1 => "1 warning found".to_owned(),
            many => format!("{many} warnings found"),
        };
        if !expand {
            heading.push_str(" (use --debug to expand)");
        }
        let mut out = format!("\n {}\n", style.warning(format!("{heading}:")));
        for (warning, excerpt) in findings {
            let _ = writeln!(out, " - {}", terminal::neutralise_text(&warning.short()));
            if !expand {
                continue;
            }
            let _ = writeln!(out, "{}", warning.rule.description());
            if let Some(url) = warning.rule.url() {
                let _ = writeln!(out, "More info: {url}");
            }
            let _ = writeln!(out, "{excerpt}");
        }
        out
    }

    /// The last lines of every step that failed, under its name, and where all of them are, as
    /// text for the error; empty where none has failed.
    pub fn failed_output(&self, style: Style) -> String {
        let mut out = String::new();
        for vertex in self.failed().filter(|vertex| !vertex.tail.is_empty()) {
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
        out + &self.failed_logs()
    }

    /// Where the whole output of every step that failed is, as text for the error.
    pub fn failed_logs(&self) -> String {
        let logs = self.failed().filter_map(|vertex| vertex.log.as_ref());
        let lines = logs.map(|path| {
            let path = terminal::neutralise_text(&path.display().to_string());
            format!("full log: {path}\n")
        });
        lines.collect()
    }

    fn failed(&self) -> impl Iterator<Item = &Vertex> {
        let vertices = self.trace.vertices.values();
        vertices.filter(|vertex| matches!(vertex.ended, Some((Outcome::Failed(_), _))))
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
            .log_file(1, "/store/logs/x/1-2-2-run.log")
            .log(1, "\x1b[31mmain.c:1: no\x1b[0m\nmake: *** failed")
            .failed(1, "exit code: 2", 250);
        script.play_open(&mut trace, &mut quiet::Quiet::new(Style::PLAIN));
        let report = Report {
            elapsed: Duration::ZERO,
            trace,
        };
        assert_eq!(
            report.failed_output(Style::PLAIN),
            "------\n > [2/2] RUN make:\n0.250 main.c:1: no\n0.250 make: *** failed\n------\n\
             full log: /store/logs/x/1-2-2-run.log\n"
        );
        assert!(
            report
                .failed_output(Style::COLOURED)
                .contains("\x1b[31mmain.c")
        );
    }
}
