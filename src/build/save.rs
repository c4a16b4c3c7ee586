//! `rbuild save`: images of the store into one archive.

use std::path::PathBuf;
use std::sync::Arc;

use super::BuildError;
use super::outputs::Leaving;
use super::run::{BuildEnvironment, materializer};
use crate::digest::ImageId;
use crate::export::{ArchiveFormat, Destination, StoredImage};
use crate::reference::Reference;
use crate::snapshot::Materializer;
use crate::solver::events::{EventSink, Reporter};

/// What is to be written where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedArchive {
    /// The images with the names that the archive gives them: each one, or the variants of one for
    /// several platforms.
    pub images: Vec<(Vec<ImageId>, Vec<Reference>)>,
    /// The kind of archive.
    pub format: ArchiveFormat,
    /// The file; `-` is standard output.
    pub dest: PathBuf,
}

/// Writes images into one archive: what they share once, the same bytes for the same images.
///
/// # Errors
/// When an image isn't in the store, a layer can't be had, or the archive can't be written.
pub async fn save(
    archive: SavedArchive,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<(), BuildError> {
    let reporter = Arc::new(Reporter::new(events));
    let materializer = materializer(environment, &reporter);
    let activity = reporter.begin(&format!("saving to {}", archive.format.title()));
    let saving = tokio::task::spawn_blocking(move || activity.end(write(&materializer, archive)));
    saving.await.map_err(|_| BuildError::Canceled)??;
    environment.store.sync()?;
    Ok(())
}

fn write(materializer: &Arc<Materializer>, archive: SavedArchive) -> Result<(), BuildError> {
    let mut images = Vec::with_capacity(archive.images.len());
    for (ids, names) in archive.images {
        let mut stored = Vec::with_capacity(ids.len());
        for id in &ids {
            let image = StoredImage::find(materializer.store(), id)?;
            stored.push(image.ok_or_else(|| BuildError::NoImage(id.to_string()))?);
        }
        let packaging = stored.first().map(|image| image.packaging.clone());
        let leaving = Leaving {
            materializer: Arc::clone(materializer),
            images: stored,
            names,
            packaging: packaging.unwrap_or_default(),
        };
        images.push(leaving.export()?);
    }
    let mut destination = Destination::open(&archive.dest)?;
    archive.format.write(&images, None, &mut destination)?;
    Ok(destination.commit()?)
}
