//! The options of `rbuild build`, as clap reads them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::docker_flags::DockerFlags;
use crate::build::NetworkMode;
use crate::platform::Platform;

/// `--network`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum NetworkChoice {
    /// The host's network
    #[default]
    Default,
    /// The host's network
    Host,
    /// Loopback only
    None,
}

impl From<NetworkChoice> for NetworkMode {
    fn from(choice: NetworkChoice) -> Self {
        match choice {
            NetworkChoice::Default | NetworkChoice::Host => Self::Host,
            NetworkChoice::None => Self::None,
        }
    }
}

/// Options of `rbuild build`.
#[derive(Args, Debug, Default)]
#[command(
    override_usage = "rbuild [build] [OPTIONS] CONTEXT",
    after_help = "Examples:\n  \
        rbuild -t myapp .                          build the folder's Dockerfile\n  \
        rbuild -t registry.example/myapp --push .  build and upload\n  \
        rbuild -o type=oci,dest=myapp.tar .        write an OCI archive\n  \
        tar c . | rbuild -t myapp -                read the context from a tar stream"
)]
pub struct BuildArguments {
    /// The folder that COPY and ADD read from, or `-`: a tar archive or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT")]
    pub(super) context: Option<PathBuf>,

    /// Name the image: [HOST/]NAME[:TAG]; may be repeated
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(super) tags: Vec<String>,

    /// The Dockerfile, `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,

    /// Build this stage and what it needs [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,

    /// Set a build argument: NAME=VALUE, or NAME for the value in the environment; may be repeated
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(super) build_args: Vec<String>,

    /// Label the image; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(super) labels: Vec<String>,

    /// Let a name in FROM and --from stand for something else: NAME=docker-image://IMAGE,
    /// NAME=oci-layout://PATH[:TAG] (folder or archive), NAME=docker-archive://PATH; may be repeated
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    pub(super) contexts: Vec<String>,

    /// Give RUN --mount=type=secret a value: id=ID,src=FILE or id=ID,env=NAME; may be repeated
    #[arg(long = "secret", value_name = "id=ID,…")]
    pub(super) secrets: Vec<String>,

    /// Run every step even where the cache has its result
    #[arg(long)]
    pub(super) no_cache: bool,

    /// Ask the registry for newer base images even where the store has them
    #[arg(long)]
    pub(super) pull: bool,

    /// Write the image: type=oci,dest=FILE (`-` for standard output)[,tar=false][,rewrite-timestamp=true]; may be repeated
    #[arg(short, long = "output", value_name = "type=oci,…")]
    pub(super) outputs: Vec<String>,

    /// Upload the image to the registries of its names
    #[arg(long)]
    pub(super) push: bool,

    /// Keep the image in rbuild's own store, beside other outputs (without outputs that's the default)
    #[arg(long)]
    pub(super) load: bool,

    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,

    /// Write what was built as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,

    /// How progress is shown: auto, tty, plain, quiet, rawjson, none [env: BUILDKIT_PROGRESS]
    #[arg(long, value_name = "HOW")]
    pub(super) progress: Option<String>,

    /// Show no progress, print the image's id
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// The network of RUN steps: default and host are the host's, none has loopback only
    #[arg(long, value_name = "NET", value_enum, hide_possible_values = true)]
    #[arg(
        help = "The network of RUN steps: default and host are the host's, none has loopback only"
    )]
    pub(super) network: Option<NetworkChoice>,

    /// The platform to build for [default: this machine's] [env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub(super) platform: Vec<Platform>,

    #[command(flatten)]
    pub(super) docker: DockerFlags,
}
