//! A build from its request to its result: the one entry point that the command line calls.
//!
//! A [`BuildRequest`] is plain data. It knows no environment variable and no terminal; whoever
//! makes one has read those already.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::digest::{BlobDigest, ImageId};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::time::Timestamp;

mod assemble;
mod dockerfile;
mod error;
mod fetch;
mod inputs;
mod outputs;
pub mod publish;
mod resolve;
mod run;
pub mod run_image;
mod transfer;

pub use crate::graph::NetworkMode;
pub use error::{BuildError, Located};
pub use resolve::ResolveError;
pub use run::{BuildEnvironment, Variables, build};
pub use transfer::{image_tree, pull, push};

/// Where the build context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A folder on this machine.
    Directory(PathBuf),
    /// A tar stream (plain, gzip, bzip2, xz or zstd) on standard input: `rbuild -`.
    Stdin,
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` at the root of the context.
    Default,
    /// `-f FILE`, as the user wrote it: a path on this machine when the context is a folder,
    /// a path inside the context when that is a tar stream.
    File(PathBuf),
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

/// One `--output`, or what `-t`, `--push` and `-o` amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Into rbuild's own store, under the request's tags. The default.
    Store,
    /// Push to the registries of the request's tags (`--push`).
    Registry,
    /// An OCI image layout: `type=oci,dest=FILE` (a tar archive, `-` for standard output), or
    /// with `tar=false` a folder.
    Oci {
        /// The archive or folder; `-` is standard output.
        dest: PathBuf,
        /// A tar archive, not a folder.
        tar: bool,
    },
}

/// `--build-context NAME=…`: what a name in FROM, `--from` and `from=` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// `docker-image://REFERENCE`: another image.
    Image(Reference),
    /// `oci-layout://PATH[:TAG|@DIGEST]`, a folder or an archive; `docker-archive://PATH` too.
    File {
        /// The folder or archive.
        path: PathBuf,
        /// The image in it, where it holds several.
        name: Option<String>,
    },
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
    /// `--no-cache`: run every step.
    pub no_cache: bool,
    /// `--pull`: ask the registry for every base image even where the store has one.
    pub pull: bool,
    /// `--network`: for RUN steps that don't say otherwise.
    pub network: NetworkMode,
    /// The target platform; this machine's where `None`.
    pub platform: Option<Platform>,
    /// Where the image goes. Never empty.
    pub outputs: Vec<Output>,
    /// `SOURCE_DATE_EPOCH` of the environment or of a build argument.
    pub source_date_epoch: Option<Timestamp>,
    /// `rewrite-timestamp=true`: clamp the times of files in new layers to `source_date_epoch`.
    pub rewrite_timestamp: bool,
}

/// What a build made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildResult {
    /// The image: digest of its config.
    pub image_id: ImageId,
    /// Digest of its manifest, where an output needed one.
    pub manifest: Option<BlobDigest>,
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
