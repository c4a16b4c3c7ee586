//! The command line: arguments and environment in, a request to the rooms below, and what comes
//! of it shown to the user.
//!
//! A command goes through three hands. [`arguments`] turns the words of the command line into an
//! [`Invocation`] and touches nothing: it runs before the processes that must exist before any
//! thread. [`commands`] holds one file per command: its options, and what it asks of the rooms
//! below. [`ui`] shows progress; [`error`] shows failures and decides the exit code.
//!
//! Only this room knows the environment, the terminal and Docker's way of writing things. It
//! decides nothing about a build.

pub mod arguments;
pub mod commands;
pub mod docker_flags;
pub mod environment;
pub mod error;
pub mod filter;
pub mod logging;
pub mod output;
pub mod settings;
pub mod signals;
pub mod template;
pub mod ui;

mod csv;
mod docker_config;
mod limits;
mod prompt;
mod run_settings;
mod spelling;

use std::process::ExitCode;

pub use self::arguments::{Invocation, Stop, parse};
pub use self::environment::Environment;
use self::error::Failure;
use self::signals::Interrupt;
use self::ui::{SharedStderr, stderr_style};
use crate::sandbox::{Processes, Rung};

/// What a step is not kept apart from where nothing can be unshared.
pub(crate) const CHROOT_LOSES: &str =
    "chroot: steps share this container's processes, network and users";

/// Bytes of stack of each thread.
const STACK: usize = 16 << 20;

/// Runs a command that has to be a process with one thread, if it is one of those, and gives the
/// exit code.
pub fn run_alone(invocation: &Invocation, environment: &Environment) -> Option<ExitCode> {
    let (command, settings) = (&invocation.command, &invocation.settings);
    let result = commands::run_alone(command, settings, environment)?;
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(stderr_style(environment)),
    })
}

/// Runs a command to its end and gives the exit code. Threads are started here, none before.
pub fn run(invocation: Invocation, environment: Environment, processes: Processes) -> ExitCode {
    let stderr = SharedStderr::default();
    logging::start(&invocation.settings, &environment, &stderr);
    let style = stderr_style(&environment);
    if invocation.needs(&environment).trees {
        tracing::info!("isolation: {}", processes.isolation.rung());
        if processes.isolation.rung() == Rung::Chroot {
            tracing::info!("{CHROOT_LOSES}");
        }
        for refusal in &processes.refusals {
            tracing::info!("isolation {refusal}");
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        // Walks go as deep as a layer's folders may. Only what is used of it takes memory.
        .thread_stack_size(STACK)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure =
                Failure::internal("can't start the asynchronous runtime").caused_by(&error);
            return failure.report(style);
        }
    };
    let result = runtime.block_on(async {
        let interrupt = Interrupt::watch()?;
        let context = commands::Context {
            settings: invocation.settings,
            environment,
            processes,
            stderr,
            style,
            interrupt: interrupt.clone(),
        };
        let result = commands::run(invocation.command, &context).await;
        // What fails because a signal has stopped it is no failure of its own.
        match (result, interrupt.signal()) {
            (Err(_), Some(number)) => Err(Failure::signal(number)),
            (result, _) => result,
        }
    });
    // A step that is still being stopped doesn't keep the user waiting.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(style),
    }
}
