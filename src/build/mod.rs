//! A build from its request to its result: the one entry point that the command line calls.
//!
//! A [`BuildRequest`] is plain data. It knows no environment variable and no terminal; whoever
//! makes one has read those already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::digest::ImageId;
use crate::export::engine::Engine;
use crate::export::{ArchiveFormat, Packaging};
use crate::image::manifest::Descriptor;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::time::Timestamp;

mod assemble;
mod check;
pub mod debug;
mod dockerfile;
mod error;
mod explain;
mod fetch;
mod inputs;
mod load;
mod outputs;
mod planned;
pub mod publish;
mod remote;
mod resolve;
mod run;
pub mod run_image;
mod save;
mod transfer;

pub use crate::graph::{Allowance, NetworkMode, RemoteSource, RunSettings};
pub use check::{Answer, Checked, check, outline, targets};
pub use error::{BuildError, LeftStep, Located};
pub use load::{LoadedImage, load};
pub use resolve::ResolveError;
pub use run::{BuildEnvironment, Variables, build};
pub use save::{SavedArchive, save};
pub use transfer::{image_tree, pull, push};

/// Where the build context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A folder on this machine.
    Directory(PathBuf),
    /// A tar stream (plain, gzip, bzip2, xz or zstd) on standard input: `rbuild -`.
    Stdin,
    /// From elsewhere. A file is an archive, or else the Dockerfile.
    Remote(RemoteSource),
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` at the root of the context.
    Default,
    /// `-f FILE`, as the user wrote it: a path on this machine when the context is a folder,
    /// a path inside the context when that is a tar stream or comes from elsewhere; there, an
    /// absolute path is one on this machine.
    File(PathBuf),
    /// `-f URL`.
    Url(String),
    /// `-f -`: standard input.
    Stdin,
}

/// `--secret id=ID,src=FILE` or `id=ID,env=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource {
    /// The id that `RUN --mount=type=secret,id=…` names.
    pub id: String,
    /// Where its value is.
    pub from: SecretFrom,
}

/// Where a secret's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// A file on this machine.
    File(PathBuf),
    /// An environment variable of rbuild.
    Environment(String),
}

/// `--ssh ID[=SOCKET|KEY[,KEY]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSource {
    /// The id that `RUN --mount=type=ssh,id=…` names.
    pub id: String,
    /// The socket of an agent, or files of keys; the agent of `SSH_AUTH_SOCK` where empty.
    pub paths: Vec<PathBuf>,
}

/// One `--output`, or what `-t`, `--push`, `--load` and `-o` amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub target: OutputTarget,
    /// `name=`: names beside the request's tags. Plain files have none.
    pub names: Vec<Reference>,
    /// How the image is packed. Plain files aren't.
    pub packaging: Packaging,
    /// Whether plain files go into a folder named after their platform; where nobody says, those of
    /// several platforms do.
    pub platform_split: Option<bool>,
}

/// Where an image, or what is in it, goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// Into rbuild's own store, under its names. The default.
    Store,
    /// To the registries of its names (`--push`).
    Registry {
        /// Without a tag: only whoever knows the digest finds it.
        by_digest: bool,
    },
    /// A tar archive of an image.
    Archive {
        /// Which kind.
        format: ArchiveFormat,
        /// The file; `-` is standard output.
        dest: PathBuf,
    },
    /// An OCI image layout as a folder; what is in it stays.
    Layout {
        /// The folder.
        dest: PathBuf,
    },
    /// A container engine of this machine (`--load`).
    Engine(Engine),
    /// The image's files as a tar archive.
    Tar {
        /// The file; `-` is standard output.
        dest: PathBuf,
    },
    /// The image's files in a folder; what is in it stays where nothing comes in its place.
    Folder {
        /// The folder.
        dest: PathBuf,
    },
}

impl Output {
    /// An output of the usual packaging, without names of its own.
    pub fn new(target: OutputTarget) -> Self {
        Self {
            target,
            names: Vec::new(),
            packaging: Packaging::default(),
            platform_split: None,
        }
    }
}

impl OutputTarget {
    /// Whether an image goes there, not just its files.
    pub fn is_image(&self) -> bool {
        !matches!(self, Self::Tar { .. } | Self::Folder { .. })
    }

    /// The file or folder, where it is one.
    pub fn dest(&self) -> Option<&Path> {
        match self {
            Self::Archive { dest, .. }
            | Self::Layout { dest }
            | Self::Tar { dest }
            | Self::Folder { dest } => Some(dest),
            Self::Store | Self::Registry { .. } | Self::Engine(_) => None,
        }
    }

    /// Whether standard output is where it goes.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Archive { dest, .. } | Self::Tar { dest } if dest == Path::new("-"))
    }
}

/// `--build-context NAME=…`: what a name in FROM, `--from` and `from=` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// `docker-image://REFERENCE`: another image.
    Image(Reference),
    /// `docker-image://scratch`: nothing.
    Scratch,
    /// `oci-layout://PATH[:TAG|@DIGEST]`, a folder or an archive; `docker-archive://PATH` too.
    File {
        /// The folder or archive.
        path: PathBuf,
        /// The image in it, where it holds several.
        name: Option<String>,
    },
    /// A folder of this machine.
    Folder(PathBuf),
    /// From elsewhere.
    Remote(RemoteSource),
}

/// Everything that decides what a build does.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The build context.
    pub context: ContextSource,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// `-t`: names for the image.
    pub tags: Vec<Reference>,
    /// `--target`: a stage's name or number; the last stage where `None`.
    pub target: Option<String>,
    /// `--build-arg NAME=VALUE`; a name without a value has been looked up in the environment
    /// already and is left out where it wasn't there.
    pub build_args: BTreeMap<String, String>,
    /// `--label NAME=VALUE`.
    pub labels: BTreeMap<String, String>,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--secret`.
    pub secrets: Vec<SecretSource>,
    /// `--ssh`, each id once.
    pub ssh: Vec<SshSource>,
    /// `--no-cache`: run every step.
    pub no_cache: bool,
    /// `--no-cache-filter`: names or numbers of stages whose steps all run.
    pub fresh_stages: Vec<String>,
    /// `--pull`: ask the registry for every base image even where the store has one.
    pub pull: bool,
    /// `--allow`.
    pub allowed: Allowance,
    /// `--network`: for RUN steps that don't say otherwise.
    pub network: NetworkMode,
    /// `--add-host`, `--ulimit`, `--shm-size`, `--cgroup-parent`.
    pub run: RunSettings,
    /// The target platforms, each once; this machine's where there is none.
    pub platforms: Vec<Platform>,
    /// Where the image goes. Never empty.
    pub outputs: Vec<Output>,
    /// Make the image's manifest even where no output needs it.
    pub describe: bool,
    /// `SOURCE_DATE_EPOCH` of the environment or of a build argument.
    pub source_date_epoch: Option<Timestamp>,
    /// `rewrite-timestamp=true`: clamp the times of files in new layers to `source_date_epoch`.
    pub rewrite_timestamp: bool,
    /// `--on-error`: what becomes of a RUN step that fails.
    pub on_error: OnError,
}

/// What becomes of the sandbox of a RUN step that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is removed.
    #[default]
    Remove,
    /// Whoever asked for the build gets it, to enter it: [`LeftStep::Open`].
    HandOver,
    /// Its file system stays in the store, to be entered later: [`LeftStep::Kept`].
    Keep,
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// Its platform.
    pub platform: Platform,
    /// Digest of its config.
    pub id: ImageId,
}

/// What a build made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildResult {
    /// The images: one, or one for each of the platforms that were asked for, in their order.
    pub images: Vec<BuiltImage>,
    /// The manifest, where one was made; of several images the index.
    pub manifest: Option<Descriptor>,
    /// The container engine that has taken it.
    pub loaded: Option<Engine>,
    /// Names it has now.
    pub tags: Vec<Reference>,
    /// Bytes of its layers, uncompressed; those of the base that nobody has unpacked as they
    /// travel.
    pub size: u64,
    /// Bytes of its layers as they travel, where all of them have been compressed already.
    pub compressed_size: Option<u64>,
    /// How many steps the cache answered.
    pub cached_steps: usize,
    /// How many steps there were.
    pub steps: usize,
}
