//! Living with a program in the foreground: its streams or its terminal, signals both ways, and
//! its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::streams::{self, Flow, Pipes};
use super::window::{OutputEnd, RawTerminal, Window, size};
use super::{NOT_RUN, failure, not_run};
use crate::build::run_image::PreparedRun;
use crate::cli::commands::Context;
use crate::cli::error::{ErrorKind, Failure, SIGPIPE};
use crate::cli::signals::ignores;
use crate::sandbox::{LauncherError, Outcome, Running};
use crate::step::container::{RunningContainer, Streams, WantedTerminal};

/// Signals that are passed on and don't ask for an end.
const PASSED_ON: [(u8, SignalKind); 3] = [
    (3, SignalKind::quit()),
    (10, SignalKind::user_defined1()),
    (12, SignalKind::user_defined2()),
];
/// How long the last of the output may take after the program's end.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How rbuild and the program are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli::commands) struct Options {
    /// The program reads what rbuild's standard input has.
    pub(in crate::cli::commands) interactive: bool,
    /// The program has a terminal.
    pub(in crate::cli::commands) terminal: bool,
    /// How long it may take to end after a signal.
    pub(in crate::cli::commands) patience: Duration,
}

/// Starts an image's program and gives its end as the command's.
pub(in crate::cli::commands) async fn run(
    options: &Options,
    prepared: PreparedRun,
    context: &Context,
) -> Result<(), Failure> {
    let start = move |streams, terminal| prepared.start(streams, terminal).map_err(failure);
    finish(live_with(options, start, context).await?)
}

/// Lives with the program that `start` starts, and gives how it ended.
pub(in crate::cli::commands) async fn live_with(
    options: &Options,
    start_program: impl FnOnce(Streams, Option<WantedTerminal>) -> Result<RunningContainer, Failure>
    + Send
    + 'static,
    context: &Context,
) -> Result<Outcome, Failure> {
    // Before the start: a signal that comes in between is for the program.
    let signals = Signals::watch(context).map_err(not_run)?;
    let options = *options;
    let started = tokio::task::spawn_blocking(move || start(options, start_program));
    let (mut container, connection) = started
        .await
        .map_err(|error| Failure::internal("can't start the program").caused_by(&error))
        .and_then(|started| started)
        .map_err(not_run)?;
    let end = live(options, &container, connection, signals).await;
    // Removing what it wrote is not to hold up the restored terminal: that came back before.
    let gone = tokio::task::spawn_blocking(move || {
        let end = container.wait();
        drop(container.terminal());
        drop(container);
        end
    });
    let _ = gone.await;
    end
}

/// What connects rbuild and the program.
enum Connection {
    /// The other side of the program's terminal, where it came to have one.
    Terminal(Option<OwnedFd>),
    Pipes(Pipes),
}

fn start(
    options: Options,
    start: impl FnOnce(Streams, Option<WantedTerminal>) -> Result<RunningContainer, Failure>,
) -> Result<(RunningContainer, Connection), Failure> {
    let failed = |error: io::Error| {
        Failure::internal("can't make the program's standard streams").caused_by(&error)
    };
    if !options.terminal {
        let (streams, pipes) = streams::pipes(options.interactive).map_err(failed)?;
        let container = start(streams, None)?;
        return Ok((container, Connection::Pipes(pipes)));
    }
    let streams = streams::none().map_err(failed)?;
    let terminal = WantedTerminal { size: size() };
    let mut container = start(streams, Some(terminal))?;
    let side = container.terminal().map_err(|error| {
        Failure::internal("can't reach the program's terminal").caused_by(&error)
    })?;
    Ok((container, Connection::Terminal(side)))
}

/// From the start of the program to its end, the user's terminal given back.
async fn live(
    options: Options,
    container: &RunningContainer,
    connection: Connection,
    mut signals: Signals,
) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| {
        Failure::internal("can't connect the terminals")
            .caused_by(&error)
            .exit_with(NOT_RUN)
    };
    let (side, flow) = match connection {
        Connection::Terminal(side) => (side, None),
        Connection::Pipes(pipes) => (None, Some(pipes.open().map_err(failed)?)),
    };
    // A terminal that nobody types into stays as it is, and Ctrl-C a signal.
    let raw = match options.interactive && side.is_some() {
        true => Some(RawTerminal::enter().map_err(failed)?),
        false => None,
    };
    let mut window = side
        .map(|side| Window::open(side, options.interactive))
        .transpose()
        .map_err(failed)?;
    let running = container.handle();
    let waiting = Arc::clone(&running);
    let mut ended = tokio::task::spawn_blocking(move || waiting.wait());
    let mut program = Program::new(running, options.patience);
    let mut reading = window.is_some();
    let outcome = loop {
        tokio::select! {
            outcome = &mut ended => break outcome,
            arrived = signals.next() => match (arrived, &window) {
                (Arrived::Signal(number), _) => program.signal(number),
                (Arrived::Resized, Some(window)) => window.resize(),
                (Arrived::Resized, None) => {}
            },
            end = shown(&mut window), if reading => {
                reading = false;
                if end == OutputEnd::Reader {
                    program.kill();
                    program.reader_is_gone = true;
                }
            }
            () = program.patience_ends() => program.kill(),
        }
    };
    if reading {
        // A terminal that somebody else got hold of is no reason to wait for ever.
        let _ = tokio::time::timeout(LAST_OUTPUT, shown(&mut window)).await;
    }
    if let Some(flow) = flow {
        rest(flow, &mut signals).await;
    }
    drop(raw);
    if program.reader_is_gone {
        return Err(Failure::new(
            ErrorKind::Signal(SIGPIPE),
            "standard output is closed",
        ));
    }
    let outcome: Result<Outcome, LauncherError> = outcome
        .map_err(|error| Failure::internal("can't wait for the program").caused_by(&error))
        .map_err(not_run)?;
    outcome
        .map_err(|error| Failure::from_error(ErrorKind::Internal, &error))
        .map_err(not_run)
}

/// Waits for the last of the output: its reader may be slow. Whoever doesn't want to wait sends a
/// signal, for the program isn't there any more.
async fn rest(mut flow: Flow, signals: &mut Signals) {
    loop {
        tokio::select! {
            () = flow.shown() => return,
            arrived = signals.next() => match arrived {
                Arrived::Signal(_) => return,
                Arrived::Resized => {}
            },
        }
    }
}

async fn shown(window: &mut Option<Window>) -> OutputEnd {
    match window {
        Some(window) => window.shown().await,
        None => std::future::pending().await,
    }
}

/// The program, as far as signals are concerned.
struct Program {
    running: Arc<Running>,
    patience: Duration,
    /// When it is killed.
    deadline: Option<Instant>,
    reader_is_gone: bool,
}

impl Program {
    fn new(running: Arc<Running>, patience: Duration) -> Self {
        Self {
            running,
            patience,
            deadline: None,
            reader_is_gone: false,
        }
    }

    /// Passes a signal on. A second one that asks for the end brings it.
    fn signal(&mut self, number: u8) {
        if PASSED_ON.iter().any(|(passed_on, _)| *passed_on == number) {
            return self.running.signal(number);
        }
        match self.deadline {
            Some(_) => self.kill(),
            None => {
                self.running.signal(number);
                self.deadline = Instant::now().checked_add(self.patience);
            }
        }
    }

    fn kill(&mut self) {
        self.running.kill();
        self.deadline = None;
    }

    async fn patience_ends(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}

/// The signals that come to rbuild while a program runs.
struct Signals {
    ending: UnboundedReceiver<u8>,
    passed_on: Vec<(u8, Signal)>,
    resized: Signal,
}

impl Signals {
    fn watch(context: &Context) -> Result<Self, Failure> {
        let watch = |kind| {
            signal(kind)
                .map_err(|error| Failure::internal("can't watch for signals").caused_by(&error))
        };
        let passed_on = PASSED_ON
            .into_iter()
            .filter(|(number, _)| !ignores(*number))
            .map(|(number, kind)| Ok((number, watch(kind)?)))
            .collect::<Result<_, Failure>>()?;
        Ok(Self {
            passed_on,
            resized: watch(SignalKind::window_change())?,
            ending: context.interrupt.take(),
        })
    }

    /// The next one. Safe to be canceled.
    async fn next(&mut self) -> Arrived {
        std::future::poll_fn(|cx| {
            if self.resized.poll_recv(cx).is_ready() {
                return Poll::Ready(Arrived::Resized);
            }
            for (number, signal) in &mut self.passed_on {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready(Arrived::Signal(*number));
                }
            }
            match self.ending.poll_recv(cx) {
                Poll::Ready(Some(number)) => Poll::Ready(Arrived::Signal(number)),
                _ => Poll::Pending,
            }
        })
        .await
    }
}

/// What a signal says.
enum Arrived {
    /// Something for the program, by its number.
    Signal(u8),
    /// The user's terminal has another size.
    Resized,
}

/// The program's end as the command's.
fn finish(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::Exited { code: 0 } => Ok(()),
        Outcome::Exited { code } => Err(Failure::program(u8::try_from(code).unwrap_or(u8::MAX))),
        Outcome::Signaled { signal } => {
            let code = u8::try_from(signal).unwrap_or(0);
            Err(Failure::program(128_u8.saturating_add(code)))
        }
        Outcome::NotExecutable { code, message } => {
            let code = u8::try_from(code).unwrap_or(NOT_RUN);
            Err(Failure::user(message).exit_with(code))
        }
        Outcome::SetupFailed(failure) => {
            Err(Failure::from_error(ErrorKind::Internal, &failure).exit_with(NOT_RUN))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_s_end_is_the_command_s() {
        let code = |outcome| finish(outcome).map_err(|failure| failure.exit_code());
        assert_eq!(code(Outcome::Exited { code: 0 }), Ok(()));
        assert_eq!(code(Outcome::Exited { code: 3 }), Err(3));
        assert_eq!(code(Outcome::Signaled { signal: 9 }), Err(137));
        let missing = Outcome::NotExecutable {
            code: 127,
            message: "exec: \"x\": executable file not found in $PATH".to_owned(),
        };
        assert_eq!(code(missing), Err(127));
    }
}
