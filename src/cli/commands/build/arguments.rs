//! The options of `rbuild build`, as clap reads them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::build::{NetworkMode, OnError};
use crate::cli::run_settings::RunSettingsArguments;
use crate::platform::{InvalidPlatform, Platform};

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
    /// One of its own
    Private,
}

impl From<NetworkChoice> for NetworkMode {
    fn from(choice: NetworkChoice) -> Self {
        match choice {
            NetworkChoice::Default | NetworkChoice::Host => Self::Host,
            NetworkChoice::None => Self::None,
            NetworkChoice::Private => Self::Private,
        }
    }
}

/// `--on-error`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum OnErrorChoice {
    /// Nothing is left of the step
    #[default]
    Fail,
    /// A shell in the step's sandbox
    #[value(alias = "debug")]
    Shell,
    /// The step's file system is kept
    Keep,
}

impl From<OnErrorChoice> for OnError {
    fn from(choice: OnErrorChoice) -> Self {
        match choice {
            OnErrorChoice::Fail => Self::Remove,
            OnErrorChoice::Shell => Self::HandOver,
            OnErrorChoice::Keep => Self::Keep,
        }
    }
}

/// Reads `--platform`.
pub(super) fn platform(text: &str) -> Result<Platform, InvalidPlatform> {
    match text {
        "local" => Ok(Platform::host()),
        text => text.parse(),
    }
}

/// Options of `rbuild build`.
#[derive(Args, Debug, Default)]
#[command(
    override_usage = "rbuild [build] [OPTIONS] CONTEXT",
    after_help = "Examples:\n  \
        rbuild -t myapp .                          build the folder's Dockerfile\n  \
        rbuild -t registry.example/myapp --push .  build and upload\n  \
        rbuild -t myapp --load .                   hand the image to Docker or Podman\n  \
        rbuild --target build -o out .             copy a stage's files into the folder `out`\n  \
        rbuild -o type=oci,dest=myapp.tar .        write an OCI archive\n  \
        tar c . | rbuild -t myapp -                read the context from a tar stream\n  \
        rbuild -t myapp https://HOST/app.git#v1    build a git repository, at a tag"
)]
pub struct BuildArguments {
    /// What COPY and ADD read: a folder, a git repository, a URL, or `-`: a tar archive or a Dockerfile on standard input
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

    /// Let a name in FROM and --from stand for something else: NAME=FOLDER,
    /// NAME=docker-image://IMAGE, NAME=oci-layout://PATH[:TAG] (folder or archive),
    /// NAME=docker-archive://PATH; may be repeated
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    pub(super) contexts: Vec<String>,

    /// Give RUN --mount=type=secret a value: id=ID,src=FILE or id=ID,env=NAME; may be repeated
    #[arg(long = "secret", value_name = "id=ID,…")]
    pub(super) secrets: Vec<String>,

    /// Let RUN --mount=type=ssh sign with an agent [default: that of SSH_AUTH_SOCK] or with keys:
    /// ID[=SOCKET|KEY[,KEY]], ID is mostly `default`; may be repeated
    #[arg(long = "ssh", value_name = "ID[=PATH]")]
    pub(super) ssh: Vec<String>,

    /// Let the Dockerfile ask for privileges: security.insecure, network.host; may be repeated
    #[arg(long = "allow", value_name = "PRIVILEGE")]
    pub(super) allow: Vec<String>,

    /// Run every step even where the cache has its result
    #[arg(long)]
    pub(super) no_cache: bool,

    /// Run every step of this stage even where the cache has its result; may be repeated
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,

    /// Ask the registry for newer base images even where the store has them
    #[arg(long)]
    pub(super) pull: bool,

    /// Where the result goes: a folder for the image's files, `-` for a tar of them, or
    /// type=image|registry|oci|docker|local|tar[,dest=PATH][,KEY=VALUE…]; may be repeated
    #[arg(short, long = "output", value_name = "DEST")]
    pub(super) outputs: Vec<String>,

    /// Upload the image to the registries of its names
    #[arg(long)]
    pub(super) push: bool,

    /// Hand the image to the container engine that is there: docker, podman or containerd, to be
    /// chosen with --load=ENGINE [env: RBUILD_LOAD]; it stays in rbuild's own store, too
    #[arg(long, value_name = "ENGINE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) load: Option<String>,

    /// Annotate the image's manifest: [TYPE:]KEY=VALUE; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub(super) annotations: Vec<String>,

    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,

    /// Write what was built as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,

    /// Check the Dockerfile and build nothing: the same as --call=check
    #[arg(long)]
    pub(super) check: bool,

    /// Answer a question instead of building: check, outline or
    /// targets[,format=json][,ignorestatus=true]
    #[arg(long, value_name = "QUESTION")]
    pub(super) call: Option<String>,

    /// How --check and --call answer: text or json
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,

    /// How progress is shown: auto, tty, plain, quiet, rawjson, none [env: BUILDKIT_PROGRESS]
    #[arg(long, value_name = "HOW")]
    pub(super) progress: Option<String>,

    /// Show no progress, print the image's id
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// What becomes of a RUN step that fails: it is removed (fail), entered with a shell (shell), or
    /// kept for `rbuild debug` (keep) [default: fail]
    #[arg(long, value_name = "WHAT", value_enum, hide_possible_values = true)]
    pub(super) on_error: Option<OnErrorChoice>,

    /// The network of RUN steps: default and host are the host's, none has loopback only
    #[arg(long, value_name = "NET", value_enum, hide_possible_values = true)]
    #[arg(
        help = "The network of RUN steps: default and host are the host's, none has loopback only, private reaches others but not this machine's loopback (needs pasta or slirp4netns)"
    )]
    pub(super) network: Option<NetworkChoice>,

    #[command(flatten)]
    pub(super) run: RunSettingsArguments,

    /// Limit what steps use, as buildx has it: memory=2g, cpu-quota=50000, …; may be repeated
    #[arg(long = "resource", value_name = "KEY=VALUE")]
    pub(super) resources: Vec<String>,

    /// The platform to build for, `local` for this machine's [default: local] [env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',', value_parser = platform)]
    pub(super) platform: Vec<Platform>,
}

impl BuildArguments {
    /// Whether nothing is built: then no namespace is needed.
    pub fn is_question(&self) -> bool {
        let mut words = self.call.iter().flat_map(|call| call.split(','));
        self.check || words.any(|word| !word.contains('=') && !matches!(word, "" | "build"))
    }
}
