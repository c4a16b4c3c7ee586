//! `rbuild tag`.

use clap::Args;

use super::{Context, find_images, parse_reference};
use crate::cli::error::Failure;

/// Options of `rbuild tag`.
#[derive(Args, Debug)]
pub struct TagArguments {
    /// The image: a name, an id or its beginning
    source: String,
    /// The new name: NAME[:TAG]
    target: String,
}

/// Gives an image another name; a name that another image had moves.
///
/// # Errors
/// When a name can't be understood or there's no such image.
pub fn run(arguments: TagArguments, context: &Context) -> Result<(), Failure> {
    let target = parse_reference(&arguments.target)?;
    if target.digest().is_some() {
        return Err(Failure::user(format!(
            "can't tag as `{}`: a name with a digest can't be given to an image",
            arguments.target
        ))
        .hint("leave `@sha256:…` out"));
    }
    let store = context.open_store()?;
    let images = find_images(&store, &arguments.source)?;
    Ok(store.tag_variants(&target, &images)?)
}
