//! `rbuild version`.

use clap::Args;

use crate::cli::error::Failure;
use crate::cli::output;
use crate::platform::Platform;

/// Options of `rbuild version`.
#[derive(Args, Debug)]
pub struct VersionArguments {}

/// Shows the version and the platform that images are built for by default.
///
/// # Errors
/// When standard output can't be written.
pub fn run(_: VersionArguments) -> Result<(), Failure> {
    output::print(&format!(
        "rbuild {} ({})\n",
        env!("CARGO_PKG_VERSION"),
        Platform::host()
    ))
}
