//! `rbuild load`.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use crate::build::{self, LoadedImage};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::ui::{Phase, ProgressMode};
use crate::platform::Platform;
use crate::store::ImageFile;

/// Options of `rbuild load`.
#[derive(Args, Debug)]
pub struct LoadArguments {
    /// The archive, compressed or not, or the folder of an OCI layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// The platform to take where an image has several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Brings the images of an archive into the store, under their names.
///
/// # Errors
/// When it can't be read or holds no image that can be used.
pub async fn run(arguments: LoadArguments, context: &Context) -> Result<(), Failure> {
    let from = match arguments.input.filter(|input| input != Path::new("-")) {
        Some(path) => ImageFile::Path(path),
        None => ImageFile::Stdin(stdin()?),
    };
    let environment = context.build_environment(None)?;
    let mode = if arguments.quiet {
        ProgressMode::Quiet
    } else {
        ProgressMode::of_environment(&context.environment)?
    };
    let progress = context.progress(mode, Phase::Loading)?;
    let loaded = build::load(from, arguments.platform, &environment, progress.sink()).await;
    progress.finish();
    let loaded = loaded.map_err(|error| Failure::of_build(error, context.style))?;
    output::print(&loaded.iter().map(lines).collect::<String>())
}

/// Standard input as a file: the archive may have to be read here and there.
fn stdin() -> Result<File, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(
            Failure::user("standard input is a terminal, not an archive")
                .hint("name a file with `-i FILE`, or redirect standard input"),
        );
    }
    let owned = stdin.as_fd().try_clone_to_owned();
    owned
        .map(File::from)
        .map_err(|error| Failure::user("can't read standard input").caused_by(&error))
}

/// What `docker load` prints, which scripts read.
fn lines(image: &LoadedImage) -> String {
    if image.names.is_empty() {
        return format!("Loaded image ID: {}\n", image.id);
    }
    let names = image.names.iter();
    names
        .map(|name| format!("Loaded image: {}\n", name.familiar()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, ImageId};

    #[test]
    fn the_result_is_what_docker_prints() {
        let id = ImageId(Digest::of(b""));
        let image = |names: &[&str]| LoadedImage {
            id,
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
        };
        assert_eq!(
            lines(&image(&["docker.io/library/app:1", "example.org/app:1"])),
            "Loaded image: app:1\nLoaded image: example.org/app:1\n"
        );
        assert_eq!(lines(&image(&[])), format!("Loaded image ID: {id}\n"));
    }
}
