//! Where a step's root file system comes from, and how its changes become a layer: an overlay mount
//! with an upper directory that is a tree of the store, or a folder with everything in it.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use super::assembly::Assembly;
use super::error::{RunError, failed};
use super::fixtures::Fixtures;
use crate::layer::diff::Owners;
use crate::layer::form::Form;
use crate::layer::index::Index;
use crate::layer::view::{Found, View};
use crate::layer::{apply, diff};
use crate::sandbox::{HostPath, MountSource, StandIn, Writable, fill_dev};
use crate::snapshot::{Materializer, Snapshot, SnapshotError, StorageDriver, WorkFolder};
use crate::step::StepError;
use crate::step::mount_points::{MountPoints, root_entry};
use crate::store::{LayerId, NewLayer, PendingTree, Scratch};

/// What takes long to make ready and hangs on the layers alone.
#[derive(Debug)]
pub(in crate::step) enum StepBase {
    /// Every layer has a tree.
    Overlay,
    /// All layers in one folder.
    Folder(WorkFolder),
}

/// A step's root file system. Dropped without [`StepRoot::commit`], it goes with what was written.
#[derive(Debug)]
pub(in crate::step) enum StepRoot {
    /// An overlay mount.
    Overlay {
        /// The trees below, topmost first.
        lower: Vec<HostPath>,
        /// Where the step writes.
        upper: PendingTree,
        /// Overlay's own.
        work: Scratch,
    },
    /// One folder, and what was put into it for the step.
    Folder {
        /// What lies in the folder until the step has ended. Goes first.
        fixtures: Fixtures,
        /// The folder.
        folder: Box<WorkFolder>,
    },
}

/// A step that has ended.
pub(super) struct Changed<'a> {
    /// What it worked on.
    pub(super) parent: &'a Snapshot,
    /// The view of that.
    pub(super) view: &'a View,
    /// Owners that its supervisor noted.
    pub(super) owners: &'a Owners,
    /// The mount points that it was given.
    pub(super) points: &'a MountPoints,
}

impl StepBase {
    /// Makes a snapshot ready to be worked on.
    pub(in crate::step) fn prepare(
        materializer: &Materializer,
        snapshot: &Snapshot,
        view: &View,
    ) -> Result<Self, StepError> {
        Ok(match materializer.driver() {
            StorageDriver::Overlay => {
                materializer.trees(snapshot)?;
                Self::Overlay
            }
            StorageDriver::Copy => Self::Folder(materializer.work_folder(snapshot, view)?),
        })
    }

    /// The root file system, with the mount points of `assembly` in it.
    pub(in crate::step) fn begin(
        self,
        materializer: &Materializer,
        snapshot: &Snapshot,
        view: &View,
        assembly: &mut Assembly,
    ) -> Result<StepRoot, StepError> {
        match self {
            Self::Overlay => {
                let upper = materializer.store().new_tree(materializer.form())?;
                prepare_upper(upper.path(), materializer.form(), view)?;
                Ok(StepRoot::Overlay {
                    lower: lower_trees(materializer, snapshot, view, assembly)?,
                    upper,
                    work: materializer.store().scratch()?,
                })
            }
            Self::Folder(folder) => {
                let mut fixtures = Fixtures::new(&folder)?;
                for (entry, content) in assembly.points.made() {
                    fixtures.put_mount_point(entry, content)?;
                }
                Ok(StepRoot::Folder {
                    fixtures,
                    folder: Box::new(folder),
                })
            }
        }
    }
}

impl StepRoot {
    /// The trees that overlay stacks, topmost first.
    pub(in crate::step) fn lower(&self) -> Vec<HostPath> {
        match self {
            Self::Overlay { lower, .. } => lower.clone(),
            Self::Folder { .. } => Vec::new(),
        }
    }

    /// Where overlay writes.
    pub(in crate::step) fn writable(&self) -> Writable {
        let (upper, work) = match self {
            Self::Overlay { upper, work, .. } => (upper.path(), work.path()),
            Self::Folder { folder, .. } => (folder.path(), folder.path()),
        };
        Writable {
            upper: HostPath::from(upper.to_owned()),
            work: HostPath::from(work.to_owned()),
        }
    }

    /// The folder, where it is one.
    pub(in crate::step) fn folder(&self) -> Option<HostPath> {
        match self {
            Self::Overlay { .. } => None,
            Self::Folder { folder, .. } => Some(HostPath::from(folder.path().to_owned())),
        }
    }

    /// Puts the things themselves into the folder where nothing can be mounted: devices, and what the
    /// mounts of `assembly` show.
    pub(in crate::step) fn place_mounts(
        &mut self,
        materializer: &Materializer,
        view: &View,
        assembly: &mut Assembly,
    ) -> Result<(), StepError> {
        let Self::Folder { fixtures, .. } = self else {
            return Ok(());
        };
        let dev = materializer.store().scratch()?;
        fill_dev(dev.path()).map_err(failed("making devices"))?;
        std::fs::set_permissions(dev.path(), std::fs::Permissions::from_mode(0o755))
            .map_err(failed("making devices"))?;
        fixtures.put_folder(b"dev", dev.path())?;
        assembly.scratch.push(dev);
        for mount in std::mem::take(&mut assembly.mounts) {
            let target = view
                .resolve(&mount.target, true)
                .map_err(|source| RunError::Path {
                    path: String::from_utf8_lossy(&mount.target).into_owned(),
                    source,
                })?;
            let MountSource::File {
                is_secret: true,
                index,
                mode,
                uid,
                gid,
            } = mount.source
            else {
                fixtures.put_mount(&target.path, &mount.source, &assembly.passed)?;
                continue;
            };
            let place = fixtures.put_stand_in(&target.path)?;
            if let Some(content) = assembly.passed.get(index) {
                give(content, mode, (uid, gid)).map_err(failed("making a secret"))?;
            }
            assembly.stand_ins.push(StandIn {
                place: assembly.passed.len(),
                content: index,
            });
            assembly.passed.push(place);
        }
        Ok(())
    }

    /// Makes a layer of what the step changed.
    pub(super) fn commit(
        self,
        materializer: &Materializer,
        step: &Changed<'_>,
    ) -> Result<LayerId, StepError> {
        let points = step.points;
        let store = materializer.store();
        match self {
            Self::Overlay { upper, .. } => {
                let index = points.prune(upper_changes(materializer, step, &upper)?);
                let layer = store.create_layer(&NewLayer::default())?;
                store.put_index(layer, &index)?;
                upper.commit(layer)?;
                Ok(layer)
            }
            Self::Folder {
                fixtures,
                mut folder,
            } => {
                fixtures.take_away()?;
                let index = folder
                    .changes(materializer, step.view, step.owners)
                    .map_err(RunError::Changes)?;
                let index = points.prune(index);
                let writer = BufWriter::with_capacity(1 << 20, store.ingest()?);
                let (writer, index) = folder
                    .write_tar(&index, writer)
                    .map_err(RunError::Changes)?;
                let writer = writer
                    .into_inner()
                    .map_err(|error| SnapshotError::io("writing a layer")(error.into_error()))?;
                let (digest, size) = writer.commit(None)?;
                let layer = store.create_layer(&NewLayer::of_tar(digest, size))?;
                store.put_index(layer, &index)?;
                folder.advance(materializer, &index, layer)?;
                materializer.leave_folder(*folder);
                Ok(layer)
            }
        }
    }
}

/// Sets the mode and owner of an open file.
fn give(file: &OwnedFd, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    let mode = mode & 0o7777;
    match rustix::fs::fchmod(file, Mode::from_raw_mode(mode)) {
        // A machine may forbid programs in memory (`vm.memfd_noexec`).
        Err(Errno::PERM) => rustix::fs::fchmod(file, Mode::from_raw_mode(mode & !0o111))?,
        other => other?,
    }
    Ok(())
}

fn upper_changes(
    materializer: &Materializer,
    step: &Changed<'_>,
    upper: &PendingTree,
) -> Result<Index, RunError> {
    let directory = File::open(upper.path()).map_err(failed("opening the step's changes"))?;
    let layers = &step.parent.layers;
    let lower = |found: &Found<'_>| -> io::Result<Box<dyn Read>> {
        let layer = layers.get(found.layer).ok_or(io::ErrorKind::NotFound)?;
        let content = materializer.content(*layer).map_err(io::Error::other)?;
        let reader: Box<dyn Read> = content.open(found.entry)?;
        Ok(reader)
    };
    diff::index_tree(
        directory.as_fd(),
        materializer.form(),
        step.view,
        step.owners,
        &|_, found| lower(found),
    )
    .map_err(RunError::Changes)
}

/// The trees that a sandbox on top of a snapshot stacks, topmost first: that of the mount points,
/// then those of the layers.
fn lower_trees(
    materializer: &Materializer,
    snapshot: &Snapshot,
    view: &View,
    assembly: &mut Assembly,
) -> Result<Vec<HostPath>, StepError> {
    let mut lower: Vec<HostPath> = Vec::new();
    if !assembly.points.is_empty() {
        let tree = materializer.store().scratch()?;
        let tar = assembly
            .points
            .tar(root_entry(view))
            .map_err(RunError::Changes)?;
        let directory = File::open(tree.path()).map_err(failed("opening mount points"))?;
        apply::extract(tar.as_slice(), directory.as_fd(), materializer.form(), view)
            .map_err(RunError::Changes)?;
        lower.push(HostPath::from(tree.path().to_owned()));
        assembly.scratch.push(tree);
    }
    let trees = materializer.trees(snapshot)?;
    lower.extend(trees.into_iter().rev().map(HostPath::from));
    Ok(lower)
}

/// The root directory of an overlay mount has the attributes of its upper directory.
fn prepare_upper(upper: &Path, form: &Form, view: &View) -> Result<(), RunError> {
    let root = root_entry(view);
    let what = "preparing the step's root directory";
    apply::set_folder_owner(upper, form, (root.uid, root.gid)).map_err(RunError::Changes)?;
    std::fs::set_permissions(upper, std::fs::Permissions::from_mode(root.mode))
        .map_err(failed(what))?;
    let time = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(u64::try_from(root.mtime).unwrap_or(0));
    let directory = File::open(upper).map_err(failed(what))?;
    directory.set_modified(time).map_err(failed(what))
}
