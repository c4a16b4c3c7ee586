//! One file per command: its options, and what it asks of the rooms below.

pub mod build;
pub mod images;
pub mod pull;
pub mod push;
pub mod tag;
pub mod version;

use super::arguments::Command;
use super::environment::Environment;
use super::error::Failure;
use super::settings::Settings;
use super::signals::Interrupt;
use super::ui::SharedStderr;
use super::ui::style::Style;
use crate::reference::Reference;

/// What every command is given.
pub struct Context {
    /// Global options.
    pub settings: Settings,
    /// Environment variables.
    pub environment: Environment,
    /// Standard error, shared with the progress display.
    pub stderr: SharedStderr,
    /// How messages look on standard error.
    pub style: Style,
    /// Tells when to end.
    pub interrupt: Interrupt,
}

/// Runs a command.
///
/// # Errors
/// Whatever the command failed with, ready to be shown.
pub async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Build(arguments) => build::run(*arguments, context).await,
        Command::Push(arguments) => push::run(arguments, context).await,
        Command::Pull(arguments) => pull::run(arguments, context).await,
        Command::Tag(arguments) => tag::run(arguments, context).await,
        Command::Images(arguments) => images::run(arguments, context).await,
        Command::Version(arguments) => version::run(arguments),
    }
}

/// A name that the user wrote, `:latest` added where it has neither tag nor digest.
pub(super) fn parse_reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|error| Failure::user(error.to_string()))
}
