//! `rbuild doctor`: what works on this machine, what doesn't, what refused it, and how to mend it.
//!
//! Nothing is changed but for a folder made for a moment where the store is or would be, to see
//! whether overlay can write there. Runs in a process with one thread: probes enter namespaces.

mod facts;
mod report;

use clap::Args;

use self::facts::Facts;
use super::store_root;
use crate::cli::environment::Environment;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::settings::Settings;
use crate::cli::ui::stdout_style;
use crate::sandbox::{emulation, isolation};

/// Options of `rbuild doctor`.
#[derive(Args, Debug)]
#[command(after_help = "Exit code: 0 where RUN steps work, 1 where they don't.")]
pub struct DoctorArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks at the machine and tells.
///
/// # Errors
/// With exit code 1 where RUN steps don't work; what to do about it is in the report.
pub fn run(
    arguments: &DoctorArguments,
    settings: &Settings,
    environment: &Environment,
) -> Result<(), Failure> {
    let choice = store_root(settings, environment)?;
    let store = facts::Place::of(choice)?;
    let tried = store.tried.clone();
    let attempts = isolation::diagnose(&tried);
    let mut facts = Facts::new(attempts, store, settings);
    if let Some(rung) = facts.chosen {
        facts.platforms = emulation::diagnose(rung, &settings.programs, &tried);
    }
    let text = match arguments.json {
        true => report::json(&facts),
        false => report::text(&facts, stdout_style(environment)),
    };
    output::print(&text)?;
    match facts.chosen {
        Some(_) => Ok(()),
        None => Err(Failure::program(1)),
    }
}
