//! `rbuild push`.

use clap::Args;

use super::{Context, parse_reference};
use crate::build;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::ui::{Phase, ProgressMode};
use crate::export::registry::Pushed;
use crate::reference::Reference;

/// Options of `rbuild push`.
#[derive(Args, Debug)]
pub struct PushArguments {
    /// The image's name, which says where it goes: [HOST/]NAME[:TAG]
    #[arg(value_name = "NAME")]
    name: String,

    /// Print nothing but the name
    #[arg(short, long)]
    quiet: bool,
}

/// Uploads an image to the registry of its name.
///
/// # Errors
/// When there's no such image or the registry refuses it.
pub async fn run(arguments: PushArguments, context: &Context) -> Result<(), Failure> {
    let reference = parse_reference(&arguments.name)?;
    if reference.digest().is_some() {
        return Err(Failure::user(format!(
            "can't push `{}`: a push needs a tag, not a digest",
            arguments.name
        ))
        .hint("leave `@sha256:…` out"));
    }
    let pushed = push(&reference, arguments.quiet, context).await?;
    output::print(&result_line(&reference, &pushed, arguments.quiet))
}

/// Uploads the image that has this name in the store.
async fn push(reference: &Reference, quiet: bool, context: &Context) -> Result<Pushed, Failure> {
    let environment = context.build_environment(None)?;
    let mode = if quiet {
        ProgressMode::Quiet
    } else {
        ProgressMode::of_environment(&context.environment)?
    };
    let progress = context.progress(mode, Phase::Pushing)?;
    let pushed = build::push(reference, &environment, progress.sink()).await;
    progress.finish();
    pushed.map_err(|error| Failure::of_build(error, context.style))
}

/// The line that `docker push` ends with, which scripts read.
fn result_line(reference: &Reference, pushed: &Pushed, quiet: bool) -> String {
    if quiet {
        format!("{reference}\n")
    } else {
        let tag = reference.tag().unwrap_or("latest");
        let manifest = &pushed.manifest;
        format!(
            "{tag}: digest: {} size: {}\n",
            manifest.digest, manifest.size
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{BlobDigest, Digest};
    use crate::image::manifest::{Descriptor, media_type};

    #[test]
    fn the_result_is_what_docker_prints() {
        let reference = "localhost:5000/app:v1".parse().unwrap();
        let digest = BlobDigest(Digest::of(b""));
        let pushed = Pushed {
            manifest: Descriptor::new(media_type::OCI_MANIFEST, digest, 528),
        };
        assert_eq!(
            result_line(&reference, &pushed, false),
            format!("v1: digest: {} size: 528\n", Digest::of(b""))
        );
        assert_eq!(
            result_line(&reference, &pushed, true),
            "localhost:5000/app:v1\n"
        );
    }
}
