//! `--on-error=shell`: the user's terminal in the sandbox of the step that failed.
//!
//! It comes after the build: every other step has ended and no progress is shown any more.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use crate::build::{BuildError, ContextSource, DockerfileSource, LeftStep, OnError};
use crate::cli::commands::Context;
use crate::cli::commands::run::session::{self, Options};
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::ui::format;
use crate::sandbox::Outcome;
use crate::step::FailedStep;

/// How long the shell has to end after a signal.
const PATIENCE: Duration = Duration::from_secs(10);

/// So much of a step's name is said once it has been shown.
const NAME: usize = 40;

/// Whether a shell could be opened, asked before anything is built.
pub(super) fn check(
    on_error: OnError,
    context: &ContextSource,
    dockerfile: &DockerfileSource,
) -> Result<(), Failure> {
    if on_error != OnError::HandOver {
        return Ok(());
    }
    if *context == ContextSource::Stdin || *dockerfile == DockerfileSource::Stdin {
        return Err(Failure::user(
            "`--on-error=shell` reads standard input, and so does the build",
        )
        .hint("`--on-error=keep` keeps the step, to be entered with `rbuild debug`"));
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::user(
            "`--on-error=shell` needs a terminal on standard input and standard output",
        )
        .hint(
            "`--on-error=keep` needs none: it keeps the step, to be entered with `rbuild debug`",
        ));
    }
    Ok(())
}

/// The step that an error has left open.
pub(super) fn take(error: &mut BuildError) -> Option<Box<FailedStep>> {
    let BuildError::Step { left, .. } = error else {
        return None;
    };
    match std::mem::take(left) {
        LeftStep::Open(step) => Some(step),
        other => {
            *left = other;
            None
        }
    }
}

/// Shows why the build failed, and opens a shell in the step. Gives what is left to be said: the
/// build has failed, however the shell ends.
pub(super) async fn enter(step: FailedStep, failure: Failure, context: &Context) -> Failure {
    let about = step.about();
    let end = Failure::new(
        failure.kind(),
        format!(
            "failed to build: {}: {}",
            format::shortened(&about.name, NAME),
            about.reason
        ),
    )
    .exit_with(failure.exit_code());
    let shell = about.shell.clone();
    context.stderr.write_lines(&failure.render(context.style));
    context.note(&format!(
        "this is `{shell}` in the failed step, as it ended; leave it with `exit`"
    ));
    let options = Options {
        interactive: true,
        terminal: true,
        patience: PATIENCE,
    };
    let start = move |streams, terminal: Option<_>| {
        let terminal = terminal.ok_or_else(|| Failure::internal("the terminal has gone"))?;
        let entered = step.enter(streams, terminal);
        entered.map_err(|error| Failure::from_error(ErrorKind::Internal, &error))
    };
    let problem = match session::live_with(&options, start, context).await {
        Ok(Outcome::Exited { .. } | Outcome::Signaled { .. }) => return end,
        Ok(Outcome::NotExecutable { message, .. }) => {
            Failure::user(format!("there is no shell to look around with: {message}"))
                .hint("SHELL in the Dockerfile names another one")
        }
        Ok(Outcome::SetupFailed(failure)) => Failure::from_error(ErrorKind::Internal, &failure),
        Err(failure) => failure,
    };
    context.stderr.write_lines(&problem.render(context.style));
    end
}
