//! Progress of what comes before a program: shown when there is something to show, and not a line
//! of it where the image is there already.

use std::sync::{Mutex, PoisonError};

use crate::cli::commands::Context;
use crate::cli::environment::Environment;
use crate::cli::signals::Interrupt;
use crate::cli::ui::{Phase, Progress, ProgressMode, SharedStderr};
use crate::solver::events::{Event, EventSink};

/// A display that starts with the first event.
pub(super) struct OnDemand {
    mode: ProgressMode,
    environment: Environment,
    stderr: SharedStderr,
    interrupt: Interrupt,
    state: Mutex<State>,
}

enum State {
    Waiting,
    Shown(Progress),
    Over,
}

impl OnDemand {
    /// One that has nothing to show yet.
    pub(super) fn new(mode: ProgressMode, context: &Context) -> Self {
        Self {
            mode,
            environment: context.environment.clone(),
            stderr: context.stderr.clone(),
            interrupt: context.interrupt.clone(),
            state: Mutex::new(State::Waiting),
        }
    }

    /// Ends the display. Standard error is the program's afterwards.
    pub(super) fn finish(&self) {
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
        if let State::Waiting = *state {
            *state = self.start();
        }
        if let State::Shown(progress) = &*state {
            progress.sink().emit(event);
        }
    }
}
