//! `rbuild man`: manual pages, for whoever makes packages.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments;
use crate::cli::error::Failure;

/// Options of `rbuild man`.
#[derive(Args, Debug)]
pub struct ManArguments {
    /// Write rbuild.1, rbuild-build.1 and so on into this folder
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Writes one page for rbuild and one for each command.
///
/// # Errors
/// When the folder can't be made or written.
pub fn run(arguments: ManArguments) -> Result<(), Failure> {
    let folder = &arguments.output;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(arguments::definition(), folder))
        .map_err(|error| {
            let message = format!("can't write manual pages to `{}`", folder.display());
            Failure::user(message).caused_by(&error)
        })
}
