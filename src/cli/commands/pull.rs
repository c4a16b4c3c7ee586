//! `rbuild pull`.

use clap::Args;

use super::{Context, parse_reference};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::platform::Platform;
use crate::reference::Reference;

/// Options of `rbuild pull`.
#[derive(Args, Debug)]
pub struct PullArguments {
    /// The image: [HOST/]NAME[:TAG|@DIGEST]
    #[arg(value_name = "NAME")]
    name: String,

    /// The platform to take where the image has several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Downloads an image and gives it its name in the store.
///
/// # Errors
/// When the registry doesn't have it or can't be reached.
pub async fn run(arguments: PullArguments, context: &Context) -> Result<(), Failure> {
    let reference = parse_reference(&arguments.name)?;
    pull(
        &reference,
        arguments.platform.as_ref(),
        arguments.quiet,
        context,
    )
    .await?;
    output::print(&format!("{reference}\n"))
}

/// Brings the image into the store.
async fn pull(
    _reference: &Reference,
    _platform: Option<&Platform>,
    _quiet: bool,
    _context: &Context,
) -> Result<(), Failure> {
    Err(Failure::internal("this version of rbuild can't pull yet"))
}
