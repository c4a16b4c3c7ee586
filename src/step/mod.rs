//! Steps: one file per operation, each from the snapshots it reads to the snapshot it makes.
//!
//! A step first computes its key and asks the store; only when nothing answers does it work. What
//! it makes becomes a layer in the store before its cache record is written, so a record always
//! leads to something whole. Two builds that want the same step meet at the key's lock: one
//! works, the other waits and takes the result.
//!
//! Nothing here knows a terminal, and no secret enters a key, a layer or an event.

mod agent;
pub mod container;
pub mod copy;
mod image;
mod mount_points;
mod noted_owners;
mod owner;
mod run;
mod workdir;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::graph::{FileSystem, Graph, Operation, RemoteSource, VertexIndex};
use crate::layer::view::View;
use crate::remote::RemoteError;
use crate::sandbox::{Launcher, OutsideHelper};
use crate::snapshot::{FileTree, Materializer, Snapshot, SnapshotError, SnapshotTree};
use crate::solver::cancel::{Cancel, Canceled};
use crate::solver::events::{EventSink, Working};
use crate::store::{BuildLogs, CacheRecord, LayerId, Lock, NewLayer, Store, StoreError};
use crate::time::Timestamp;

pub use self::agent::{Agent, AgentError, Agents, InvalidKey};
pub use self::copy::{CopyError, Missing};
pub use self::image::{layers_of, register_origins};
pub use self::owner::UnknownOwner;
pub use self::run::{About, FailedStep, FailedSteps, RunError, signal_name};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// COPY or ADD.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// RUN.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What comes from elsewhere.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A user or group.
    #[error(transparent)]
    Owner(#[from] UnknownOwner),
    /// Reading or making a layer.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

impl From<Canceled> for StepError {
    fn from(_: Canceled) -> Self {
        Self::Canceled
    }
}

impl StepError {
    /// Whether this is no failure of the step but the end of the build.
    pub fn is_canceled(&self) -> bool {
        matches!(
            self,
            Self::Canceled
                | Self::Copy(CopyError::Canceled)
                | Self::Run(RunError::Canceled)
                | Self::Snapshot(SnapshotError::Canceled)
                | Self::Remote(RemoteError::Canceled)
        )
    }
}

/// Gives the value of a secret. `None` when the build was given none of that id.
pub type Secrets = BTreeMap<String, Vec<u8>>;

/// Fetches what ADD names by a URL.
pub trait FetchRemote: Send + Sync {
    /// The files that `source` stands for now: a tree in which [`RemoteSource::path`] is what is
    /// copied. What several steps name is fetched once. It may take long, and is called where
    /// that is allowed.
    ///
    /// # Errors
    /// When it can't be had, or is not what its checksum says.
    fn fetch(&self, source: &RemoteSource) -> Result<Arc<dyn FileTree>, RemoteError>;

    /// The same without asking anybody, where a checksum says what it must be and that has been
    /// seen before: names, modes and digests are right, times need not be, content need not be
    /// there.
    fn foretell(&self, source: &RemoteSource) -> Option<Arc<dyn FileTree>>;
}

/// A named context that is a folder.
#[derive(Clone)]
pub enum ContextFolder {
    /// A folder that is here.
    Tree(Arc<dyn FileTree>),
    /// What is fetched when a step wants it.
    Remote(RemoteSource),
}

/// Everything that steps work with.
pub struct StepContext {
    /// Layers, trees and the store behind them.
    pub materializer: Arc<Materializer>,
    /// The build context; `None` when the build has none.
    pub context: Option<Arc<dyn FileTree>>,
    /// Named contexts that are folders, by number.
    pub folders: Vec<ContextFolder>,
    /// Fetches what comes from elsewhere.
    pub remotes: Arc<dyn FetchRemote>,
    /// Starts sandboxes; `None` where none can be had, with the reason.
    pub launcher: Result<Launcher, String>,
    /// Runs programs that are no part of rbuild.
    pub outside: OutsideHelper,
    /// Values of `--secret`.
    pub secrets: Arc<Secrets>,
    /// Who signs for steps: `--ssh`.
    pub agents: Arc<Agents>,
    /// Run every step (`--no-cache`).
    pub no_cache: bool,
    /// Stops the build.
    pub cancel: Cancel,
    /// Where what RUN steps print is kept.
    pub logs: Arc<BuildLogs>,
    /// Where RUN steps that fail are left, where somebody wants to look at them.
    pub failed: Option<Arc<FailedSteps>>,
    /// Who is told.
    pub events: Arc<dyn EventSink>,
}

/// What a step made.
#[derive(Clone, Debug)]
pub struct StepResult {
    /// The file system after it.
    pub snapshot: Snapshot,
    /// Whether the cache had it.
    pub cached: bool,
    /// When its layer was made.
    pub created: Timestamp,
}

/// The snapshots that a step reads.
pub struct Inputs<'a> {
    /// Results of the vertices that were solved before.
    pub results: &'a BTreeMap<VertexIndex, Snapshot>,
}

impl Inputs<'_> {
    fn parent(&self, parent: Option<VertexIndex>) -> Snapshot {
        parent
            .and_then(|index| self.results.get(&index).cloned())
            .unwrap_or_else(empty_snapshot)
    }
}

/// The snapshot without layers.
pub fn empty_snapshot() -> Snapshot {
    Snapshot {
        layers: Vec::new(),
        key: CacheKeyBuilder::new("scratch").finish(),
    }
}

impl StepContext {
    /// Carries out one vertex, or finds its result in the cache.
    ///
    /// # Errors
    /// When the step fails or the build is stopped.
    pub fn execute(
        &self,
        graph: &Graph,
        index: VertexIndex,
        inputs: &Inputs<'_>,
        working: &Working,
    ) -> Result<StepResult, StepError> {
        self.cancel.check()?;
        let vertex = graph.vertex(index);
        let parent = inputs.parent(vertex.parent);
        let fresh = self.no_cache || vertex.fresh;
        match &vertex.operation {
            Operation::Image(image) => self.image(&graph.images[*image]),
            Operation::Copy(copy) => {
                let tree = self.file_tree(copy.from, inputs)?;
                self.copy(copy, &parent, tree.as_ref(), fresh, &|| working.begin())
            }
            Operation::MakeDirectory(make) => self.make_directory(make, &parent, fresh, working),
            Operation::Run(run) => {
                self.run(run, &parent, inputs, &vertex.meta.name, fresh, working)
            }
        }
    }

    fn store(&self) -> &Store {
        self.materializer.store()
    }

    /// The lock of a step, waited for as long as the build goes on.
    fn lock(&self, key: &CacheKey) -> Result<Lock, StepError> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = self.store().try_lock(key)? {
                return Ok(lock);
            }
            self.cancel.check()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn view(&self, snapshot: &Snapshot) -> Result<View, SnapshotError> {
        self.materializer.view(snapshot)
    }

    /// The folder behind a file system that is one.
    fn folder(&self, from: FileSystem) -> Result<Option<Arc<dyn FileTree>>, RemoteError> {
        Ok(match from {
            FileSystem::Context => self.context.clone(),
            FileSystem::Folder(number) => match self.folders.get(number) {
                Some(ContextFolder::Tree(tree)) => Some(Arc::clone(tree)),
                Some(ContextFolder::Remote(source)) => Some(self.remotes.fetch(source)?),
                None => None,
            },
            FileSystem::Scratch | FileSystem::Vertex(_) => None,
        })
    }

    fn file_tree(
        &self,
        from: FileSystem,
        inputs: &Inputs<'_>,
    ) -> Result<Option<Arc<dyn FileTree>>, StepError> {
        match from {
            FileSystem::Scratch => Ok(None),
            FileSystem::Context | FileSystem::Folder(_) => Ok(self.folder(from)?),
            FileSystem::Vertex(index) => {
                let snapshot = inputs.parent(Some(index));
                let tree = SnapshotTree::new(Arc::clone(&self.materializer), &snapshot)?;
                Ok(Some(Arc::new(tree)))
            }
        }
    }

    /// The result that the cache has for `key`, if its layer can still be read.
    fn cached(&self, key: &CacheKey, parent: &Snapshot) -> Result<Option<StepResult>, StepError> {
        let Some(CacheRecord { layer, created }) = self.store().cached(key)? else {
            return Ok(None);
        };
        let mut layers = parent.layers.clone();
        if let Some(layer) = layer {
            if !self.materializer.is_available(layer)? {
                return Ok(None);
            }
            layers.push(layer);
        }
        Ok(Some(StepResult {
            snapshot: Snapshot { layers, key: *key },
            cached: true,
            created,
        }))
    }

    /// Records a new layer under `key`.
    fn finished(
        &self,
        key: CacheKey,
        parent: &Snapshot,
        layer: LayerId,
    ) -> Result<StepResult, StepError> {
        let created = Timestamp::now();
        let record = CacheRecord {
            layer: Some(layer),
            created,
        };
        self.store().record(&key, &record)?;
        let mut layers = parent.layers.clone();
        layers.push(layer);
        Ok(StepResult {
            snapshot: Snapshot { layers, key },
            cached: false,
            created,
        })
    }

    /// Keeps a selection as a layer: its plain tar as a blob, its index beside it.
    fn write_layer(
        &self,
        selection: &copy::Selection,
    ) -> Result<(LayerId, Vec<copy::ContentDigest>), StepError> {
        let writer = std::io::BufWriter::with_capacity(1 << 20, self.store().ingest()?);
        let (writer, index, digests) = selection.write(writer, &self.cancel)?;
        let writer = writer
            .into_inner()
            .map_err(|error| SnapshotError::io("writing a layer")(error.into_error()))?;
        let (digest, size) = writer.commit(None)?;
        let layer = self.store().create_layer(&NewLayer::of_tar(digest, size))?;
        self.store().put_index(layer, &index)?;
        Ok((layer, digests))
    }

    fn temporary_file(&self) -> std::io::Result<std::fs::File> {
        let scratch = self.store().scratch().map_err(std::io::Error::other)?;
        tempfile::tempfile_in(scratch.path())
    }
}
