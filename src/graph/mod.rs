//! The build graph: what has to happen, in which order, on which file systems.
//!
//! [`plan`] picks the stages that the target needs and names the base images they start from;
//! [`lowering`] turns those stages into vertices once the base images' configs are known. Both
//! are functions from values to values: nothing here touches a disk, a network or a clock.
//!
//! A vertex is its operation and its inputs; both go into its cache key. Its [`Meta`] (what the
//! user is shown) never does.

use std::net::IpAddr;
use std::sync::Arc;

use crate::digest::{BlobDigest, DiffId, ImageId};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::instruction::CacheSharing;
use crate::dockerfile::span::Span;
use crate::image::config::ImageConfig;
use crate::platform::Platform;
use crate::sandbox::{CgroupLimits, Ulimit};
use crate::store::LayerId;

mod allowance;
pub mod arguments;
mod chmod;
#[cfg(test)]
mod corpus;
pub mod environment;
mod expose;
mod format;
pub mod lint;
pub mod lowering;
mod metadata;
mod mounts;
pub mod outline;
mod path;
pub mod plan;
mod remote;
mod transfer;

pub use allowance::Allowance;
pub use chmod::Chmod;
pub use remote::{HttpSource, RemoteSource, masked_in_place};

/// Names a vertex of one graph. Inputs always have lower numbers than what reads them.
#[derive(Clone, std::marker::Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VertexIndex(pub usize);

impl VertexIndex {
    /// What it is where vertices have become others, in their order.
    pub fn within(self, moved: &[Self]) -> Option<Self> {
        moved.get(self.0).copied()
    }
}

/// A file system that an operation reads.
#[derive(Clone, std::marker::Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// The empty one.
    Scratch,
    /// What a vertex made.
    Vertex(VertexIndex),
    /// The build context, without what `.dockerignore` leaves out.
    Context,
    /// The named context of this number that is a folder, without what its own `.dockerignore`
    /// leaves out.
    Folder(usize),
}

/// What the user is shown of a vertex. Never part of a cache key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// The instruction in the Dockerfile.
    pub span: Span,
    /// Where the instruction comes from, if it is an ONBUILD trigger: then `span` is the FROM that
    /// brought it.
    pub trigger: Option<Trigger>,
}

/// Which ONBUILD trigger a step is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// The instruction behind ONBUILD.
    pub text: String,
    /// The image or the stage that has it, as the user knows it.
    pub owner: String,
}

impl Trigger {
    /// A diagnostic of the trigger's own text, as one of the line at `span` that brought it.
    pub fn explain(&self, one: Diagnostic, span: Span) -> Diagnostic {
        let text = masked_in_place(&self.text);
        let note = format!("this is the ONBUILD trigger `{text}` of {}", self.owner);
        Diagnostic { span, ..one }.with_note(note)
    }
}

/// One step: an operation on top of the file system of `parent`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vertex {
    /// What to do.
    pub operation: Operation,
    /// The file system it starts from; `None` for the empty one.
    pub parent: Option<VertexIndex>,
    /// Do it even where the cache has its result (`--no-cache-filter`). In no key.
    pub fresh: bool,
    /// What the user is shown.
    pub meta: Meta,
}

/// What a vertex does. All but [`Operation::Image`] add exactly one layer to their parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// The layers of a base image, by its place in [`Graph::images`].
    Image(usize),
    /// RUN.
    Run(Run),
    /// COPY and ADD.
    Copy(Copy),
    /// WORKDIR.
    MakeDirectory(MakeDirectory),
}

/// The network that RUN steps see: `--network`.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// The host's network.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// One of its own, from which the machine's own can't be reached.
    Private,
}

/// What the caller gives RUN steps beyond what the Dockerfile says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunSettings {
    /// `--add-host`: names and addresses for `/etc/hosts`, in order.
    pub hosts: Vec<(String, IpAddr)>,
    /// `--ulimit`, each kind once, sorted.
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size`: size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// `--cgroup-parent`: the cgroup that each step gets one of its own in.
    pub cgroup_parent: Option<String>,
    /// `--memory` and its kin: what each step's cgroup may use.
    pub limits: CgroupLimits,
}

/// RUN, with everything expanded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The platform of the programs in its file system.
    pub platform: Platform,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The program of SHELL, by which a person looks at what the step left; no part of its key.
    pub shell: String,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// Proxy variables: given to the program, left out of the cache key and the history.
    pub proxy: Vec<(String, String)>,
    /// USER as the config has it, `""` for root.
    pub user: String,
    /// The working directory, absolute.
    pub cwd: String,
    /// The network.
    pub network: NetworkMode,
    /// Whether it has every privilege that can be had (`--security=insecure`).
    pub insecure: bool,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// A heredoc that starts with `#!`: shown to the step as `/dev/pipes/NAME` and run.
    pub script: Option<InlineFile>,
    /// The name that it sees as the machine's (`BUILDKIT_SANDBOX_HOSTNAME`).
    pub hostname: Option<String>,
    /// What the caller gives it.
    pub settings: Arc<RunSettings>,
}

/// A small file whose content stands in the Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InlineFile {
    /// Its name: the heredoc's delimiter.
    pub name: String,
    /// Its content.
    pub content: String,
}

/// A mount of a RUN step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where, absolute and clean.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

impl Mount {
    /// Whether it is the socket of an agent.
    fn is_agent(&self) -> bool {
        matches!(self.kind, MountKind::Ssh { .. })
    }
}

/// What a mount shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountKind {
    /// Files of another file system.
    Bind {
        /// Which.
        from: FileSystem,
        /// Where in it, absolute and clean.
        source: String,
        /// Writes are allowed, and thrown away.
        read_write: bool,
    },
    /// A folder that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// What a new one begins with: files of another file system, and where in it.
        from: Option<(FileSystem, String)>,
        /// How steps share it.
        sharing: CacheSharing,
        /// No writes.
        read_only: bool,
        /// Mode when it is new.
        mode: u32,
        /// Owner when it is new.
        uid: u32,
        /// Group when it is new.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
    /// A secret's value.
    Secret {
        /// Its name.
        id: String,
        /// Fail when the build was given none.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
        /// Variable that holds the value.
        env: Option<String>,
        /// Whether it is (also) a file at the target.
        file: bool,
    },
    /// The socket of an agent that signs with the user's keys.
    Ssh {
        /// Its name.
        id: String,
        /// Fail when the build was given none.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// COPY and ADD, with everything expanded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Where the paths of `sources` are.
    pub from: FileSystem,
    /// What to copy.
    pub sources: Vec<CopySource>,
    /// Where to, absolute and clean; ends with `/` where the user said that it is a directory.
    pub destination: String,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// Local archives are unpacked (ADD).
    pub unpack: bool,
    /// `--link`: the layer hangs on nothing below it.
    pub link: bool,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// Time for directories that are made on the way, in seconds; the newest time among the
    /// files below them where `None`.
    pub directory_time: Option<i64>,
}

impl Copy {
    /// Copies one path, in which no character means anything else, with owners and modes as they
    /// are.
    pub fn literal(from: FileSystem, source: String, destination: &str) -> Self {
        Self {
            from,
            sources: vec![CopySource::Literal(source)],
            destination: destination.to_owned(),
            chown: None,
            chmod: None,
            unpack: false,
            link: false,
            exclude: Vec::new(),
            directory_time: None,
        }
    }
}

/// One source of COPY or ADD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopySource {
    /// A path or pattern, absolute and clean, below the root of `from`.
    Path(String),
    /// A path in which no character means anything else.
    Literal(String),
    /// What `pattern` matches below `root`, with the directories in between (`--parents`).
    Parents {
        /// A path or pattern, absolute and clean, whose own name isn't kept.
        root: String,
        /// A pattern below it, as in an ignore file: clean, without a slash at its ends.
        pattern: String,
    },
    /// A heredoc.
    Inline(InlineFile),
    /// What is fetched from elsewhere.
    Remote(RemoteSource),
}

impl CopySource {
    /// What is fetched from elsewhere, if it is that.
    pub fn remote(&self) -> Option<&RemoteSource> {
        match self {
            Self::Remote(source) => Some(source),
            _ => None,
        }
    }
}

/// WORKDIR: the directory exists afterwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MakeDirectory {
    /// Absolute and clean.
    pub path: String,
    /// Owner of what is made: USER as the config has it, `""` for root.
    pub user: String,
    /// Time of what is made, in seconds; that of the directory above where `None`.
    pub time: Option<i64>,
}

/// Where the bytes of a base image's layers are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseLayer {
    /// Digest of the plain tar, from the config.
    pub diff_id: DiffId,
    /// The blob that holds it, as the manifest lists it; `None` when the store has it in
    /// another shape (an image that was built here).
    pub blob: Option<LayerBlob>,
    /// The layer in the store, for an image that was built here.
    pub stored: Option<LayerId>,
}

/// A layer's blob, as a manifest lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerBlob {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// A base image whose name has been resolved.
#[derive(Clone, PartialEq, Debug)]
pub struct BaseImage {
    /// Digest of its config.
    pub id: ImageId,
    /// Its full name with digest, as shown.
    pub name: String,
    /// The repository that its blobs can be had from, where it came from a registry.
    pub repository: Option<crate::reference::Reference>,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<BaseLayer>,
    /// The platform it is for.
    pub platform: Platform,
}

/// All vertices, inputs before what reads them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The vertices.
    pub vertices: Vec<Vertex>,
    /// Base images that [`Operation::Image`] names.
    pub images: Vec<BaseImage>,
}

impl Operation {
    /// Renames what it reads, as a graph is taken into another one.
    fn relocate(&mut self, images: &[usize], vertices: &[VertexIndex]) {
        let place = |from: &mut FileSystem| {
            if let FileSystem::Vertex(index) = from {
                *index = vertices[index.0];
            }
        };
        match self {
            Self::Image(image) => *image = images[*image],
            Self::MakeDirectory(_) => {}
            Self::Copy(copy) => place(&mut copy.from),
            Self::Run(run) => {
                for mount in &mut run.mounts {
                    match &mut mount.kind {
                        MountKind::Bind { from, .. }
                        | MountKind::Cache {
                            from: Some((from, _)),
                            ..
                        } => place(from),
                        _ => {}
                    }
                }
            }
        }
    }
}

impl Graph {
    /// The vertex behind an index.
    pub fn vertex(&self, index: VertexIndex) -> &Vertex {
        &self.vertices[index.0]
    }

    /// Adds a vertex.
    pub fn add(&mut self, vertex: Vertex) -> VertexIndex {
        self.vertices.push(vertex);
        VertexIndex(self.vertices.len() - 1)
    }

    /// Takes in another graph. What both would do alike is done once. Gives what the other's
    /// vertices are here.
    pub fn absorb(&mut self, other: Self) -> Vec<VertexIndex> {
        let known = self.vertices.len();
        let images: Vec<usize> = other
            .images
            .into_iter()
            .map(|image| {
                let place = self.images.iter().position(|one| *one == image);
                place.unwrap_or_else(|| {
                    self.images.push(image);
                    self.images.len() - 1
                })
            })
            .collect();
        let mut moved: Vec<VertexIndex> = Vec::with_capacity(other.vertices.len());
        for mut vertex in other.vertices {
            vertex.parent = vertex.parent.map(|parent| moved[parent.0]);
            vertex.operation.relocate(&images, &moved);
            let same = self.vertices[..known].iter().position(|one| {
                one.operation == vertex.operation
                    && one.parent == vertex.parent
                    && one.fresh == vertex.fresh
            });
            moved.push(match same {
                Some(place) => VertexIndex(place),
                None => self.add(vertex),
            });
        }
        moved
    }

    /// Every vertex that `index` reads, its parent first.
    pub fn inputs(&self, index: VertexIndex) -> Vec<VertexIndex> {
        let vertex = self.vertex(index);
        let read: Vec<FileSystem> = match &vertex.operation {
            Operation::Image(_) | Operation::MakeDirectory(_) => Vec::new(),
            Operation::Copy(copy) => vec![copy.from],
            Operation::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| match &mount.kind {
                    MountKind::Bind { from, .. } => Some(*from),
                    MountKind::Cache { from, .. } => from.as_ref().map(|(from, _)| *from),
                    _ => None,
                })
                .collect(),
        };
        let read = read.into_iter().filter_map(|from| match from {
            FileSystem::Vertex(index) => Some(index),
            FileSystem::Scratch | FileSystem::Context | FileSystem::Folder(_) => None,
        });
        vertex.parent.into_iter().chain(read).collect()
    }

    /// The vertices from the base image up to `target`, lowest first.
    pub fn chain(&self, target: Option<VertexIndex>) -> Vec<VertexIndex> {
        let mut chain: Vec<VertexIndex> =
            std::iter::successors(target, |index| self.vertex(*index).parent).collect();
        chain.reverse();
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::span::Span;

    fn copy(from: FileSystem, path: &str, parent: Option<VertexIndex>, name: &str) -> Vertex {
        Vertex {
            operation: Operation::Copy(super::Copy::literal(from, path.to_owned(), "/")),
            parent,
            fresh: false,
            meta: Meta {
                name: name.to_owned(),
                span: Span::default(),
                trigger: None,
            },
        }
    }

    /// A stage that is the same for every platform, and a target that copies from it and differs.
    fn graph(platform: &str) -> (Graph, VertexIndex) {
        let mut graph = Graph::default();
        let same = graph.add(copy(FileSystem::Context, "/common", None, platform));
        let own = graph.add(copy(FileSystem::Context, platform, None, platform));
        let from = FileSystem::Vertex(same);
        let target = graph.add(copy(from, "/common", Some(own), platform));
        (graph, target)
    }

    #[test]
    fn graphs_that_become_one_share_what_is_alike() {
        let mut merged = Graph::default();
        let [first, second] = ["/a", "/b"].map(|platform| {
            let (graph, target) = graph(platform);
            target.within(&merged.absorb(graph)).unwrap()
        });
        let names = |target| -> Vec<(usize, &str)> {
            let needed = needed(&merged, target);
            needed
                .into_iter()
                .map(|index: VertexIndex| (index.0, merged.vertex(index).meta.name.as_str()))
                .collect()
        };
        assert_eq!(names(first), [(0, "/a"), (1, "/a"), (2, "/a")]);
        assert_eq!(names(second), [(0, "/a"), (3, "/b"), (4, "/b")]);
    }

    #[test]
    fn a_graph_alone_stays_as_it_is() {
        let (mut twice, target) = graph("/a");
        // what one platform does twice it does twice
        twice.add(twice.vertex(target).clone());
        let before = format!("{twice:?}");
        let mut merged = Graph::default();
        merged.absorb(twice);
        assert_eq!(format!("{merged:?}"), before);
    }

    fn needed(graph: &Graph, target: VertexIndex) -> std::collections::BTreeSet<VertexIndex> {
        let mut needed = std::collections::BTreeSet::from([target]);
        for index in (0..graph.vertices.len()).rev().map(VertexIndex) {
            if needed.contains(&index) {
                needed.extend(graph.inputs(index));
            }
        }
        needed
    }
}
