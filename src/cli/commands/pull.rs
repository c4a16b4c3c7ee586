//! `rbuild pull`.

use clap::Args;

use super::{Context, parse_reference};
use crate::build;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::ui::{Phase, ProgressMode};
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
    reference: &Reference,
    platform: Option<&Platform>,
    quiet: bool,
    context: &Context,
) -> Result<(), Failure> {
    let environment = context.build_environment(None)?;
    let mode = if quiet {
        ProgressMode::Quiet
    } else {
        ProgressMode::of_environment(&context.environment)?
    };
    let progress = context.progress(mode, Phase::Pulling)?;
    let platform = platform.cloned().unwrap_or_else(Platform::host);
    let pulled = build::pull(reference, &platform, &environment, progress.sink()).await;
    progress.finish();
    pulled.map_err(|error| Failure::of_build(error, context.style))?;
    Ok(())
}
