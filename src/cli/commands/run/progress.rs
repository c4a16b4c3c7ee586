//! Progress of what comes before a program: shown when an image is pulled or when the wait is long,
//! and not a line of it where the image is there already.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::commands::Context;
use crate::cli::environment::Environment;
use crate::cli::signals::Interrupt;
use crate::cli::ui::{Phase, Progress, ProgressMode, SharedStderr};
use crate::solver::events::{Event, EventSink};

/// So long a user waits without asking why.
const PATIENCE: Duration = Duration::from_secs(1);

/// A display that starts when there is something to wait for.
pub(in crate::cli::commands) struct OnDemand {
    mode: ProgressMode,
    environment: Environment,
    stderr: SharedStderr,
    interrupt: Interrupt,
    state: Mutex<State>,
}

enum State {
    /// With what has happened so far.
    Waiting(Instant, Vec<Event>),
    Shown(Progress),
    Over,
}

impl OnDemand {
    /// One that has nothing to show yet.
    pub(in crate::cli::commands) fn new(mode: ProgressMode, context: &Context) -> Self {
        Self {
            mode,
            environment: context.environment.clone(),
            stderr: context.stderr.clone(),
            interrupt: context.interrupt.clone(),
            state: Mutex::new(State::Waiting(Instant::now(), Vec::new())),
        }
    }

    /// Ends the display. Standard error is the program's afterwards.
    pub(in crate::cli::commands) fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Shown(progress) = std::mem::replace(&mut *state, State::Over) {
            progress.finish();
        }
    }

    fn start(&self) -> State {
        let interrupt = self.interrupt.clone();
        let closed = move |gone| interrupt.output_gone(gone);
        match Progress::start(
            self.mode,
            Phase::Pulling,
            &self.environment,
            &self.stderr,
            closed,
        ) {
            Ok(progress) => State::Shown(progress),
            // No thread is to be had for it; the work goes on without.
            Err(_) => State::Over,
        }
    }
}

impl EventSink for OnDemand {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Waiting(since, events) => {
                let is_long = since.elapsed() > PATIENCE || is_of_a_registry(&event);
                events.push(event);
                if !is_long {
                    return;
                }
                let events = std::mem::take(events);
                *state = self.start();
                if let State::Shown(progress) = &*state {
                    let sink = progress.sink();
                    events.into_iter().for_each(|event| sink.emit(event));
                }
            }
            State::Shown(progress) => progress.sink().emit(event),
            State::Over => {}
        }
    }
}

/// Whether a registry is being asked for something.
fn is_of_a_registry(event: &Event) -> bool {
    let names = ["[internal] load metadata", "[internal] pull"];
    matches!(event, Event::Announced { name, .. } if names.iter().any(|known| name.starts_with(known)))
}
