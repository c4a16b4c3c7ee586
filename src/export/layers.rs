//! An image's layers as they leave the machine: plain tars made from whatever the store has, and
//! compressed blobs, each compressed once.

use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;

use super::packaging::Packaging;
use crate::digest::{BlobDigest, CacheKey, CacheKeyBuilder, DiffId, HashingStream};
use crate::image::manifest::Descriptor;
use crate::layer::compression::{Compression, Compressor};
use crate::layer::diff;
use crate::layer::index::Index;
use crate::layer::tar_writer::TarWriter;
use crate::snapshot::{Content, Materializer, RemoteBlob, SnapshotError, origin};
use crate::store::{CompressedBlob, LayerId, Store};
use crate::time::Timestamp;

/// Writes a layer's plain tar to `out`; with `clamp`, no entry newer than that. Gives its index.
///
/// # Errors
/// When the layer can't be read, or a tree no longer is what its diff ID says.
pub fn write_layer_tar<W: Write>(
    materializer: &Materializer,
    layer: LayerId,
    clamp: Option<Timestamp>,
    out: W,
) -> Result<Index, SnapshotError> {
    let store = materializer.store();
    let bad = |source| SnapshotError::Layer {
        layer: layer.to_string(),
        source,
    };
    let index = materializer.index(layer)?;
    let diff_id = store.layer(layer)?.and_then(|layer| layer.diff_id);
    let mut hashed = HashingStream::new(out);
    let written = match materializer.content(layer)? {
        Content::Tree(tree) => {
            diff::write_tree_tar(tree.as_fd(), &index, clamp, &mut hashed)
                .map_err(bad)?
                .1
        }
        plain @ Content::Plain(_) => rewrite(&index, &plain, clamp, &mut hashed)?,
    };
    let found = DiffId(hashed.finish().1);
    match diff_id {
        Some(expected) if clamp.is_none() && expected != found => {
            Err(SnapshotError::DiffIdMismatch { expected, found })
        }
        _ => Ok(written),
    }
}

/// Writes the entries of a plain tar once more, with other times.
fn rewrite<W: Write>(
    index: &Index,
    content: &Content,
    clamp: Option<Timestamp>,
    out: W,
) -> Result<Index, SnapshotError> {
    let bad = |source| SnapshotError::Layer {
        layer: "being rewritten".to_owned(),
        source,
    };
    let mut writer = TarWriter::new(out);
    for entry in &index.entries {
        let mut bytes = if entry.is_file() {
            Some(
                content
                    .open(entry)
                    .map_err(SnapshotError::io("reading a layer"))?,
            )
        } else {
            None
        };
        let mut entry = entry.clone();
        entry.offset = None;
        if let Some(clamp) = clamp
            && !entry.is_whiteout()
        {
            entry.mtime = entry.mtime.min(clamp.seconds());
        }
        writer
            .append(
                entry,
                bytes.as_mut().map(|bytes| bytes as &mut dyn io::Read),
            )
            .map_err(bad)?;
    }
    Ok(writer.finish().map_err(bad)?.1)
}

/// A layer in the compression in which it leaves the machine.
#[derive(Clone, Debug)]
pub struct OutgoingLayer {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Where its blob can be had, each a place of its own, if the store doesn't hold it.
    pub origins: Vec<RemoteBlob>,
}

/// Names the blob of a layer as `packaging` wants it: one that is known, else one that is made
/// now. A base image's layer keeps the form that it came in, unless all are to be compressed anew.
///
/// # Errors
/// When the layer can't be read or the store can't take the blob.
pub fn outgoing(
    materializer: &Materializer,
    layer: LayerId,
    diff_id: DiffId,
    packaging: &Packaging,
) -> Result<OutgoingLayer, SnapshotError> {
    let store = materializer.store();
    store.hold(&[layer])?;
    let is_base = store
        .layer(layer)?
        .is_some_and(|layer| layer.chain_id.is_some());
    let named = materializer.named_blob(layer);
    if is_base && named.is_none() {
        materializer.settle(layer, diff_id)?;
    }
    let any_form = is_base && !packaging.force_compression;
    // What the manifest of this very image names needs no proof: whoever reads it checks it.
    let may_leave = |blob: &CompressedBlob| blob.is_verified || named == Some(blob.digest);
    if let Some(known) = known(materializer, diff_id, |blob| {
        may_leave(blob) && (any_form || packaging.fits(blob))
    })? {
        return Ok(as_packaged(known, packaging));
    }
    let recipe = packaging.recipe(diff_id);
    let _lock = store.lock(&recipe)?;
    if let Some(blob) = made_before(store, &recipe, packaging)? {
        return Ok(as_packaged((blob, Vec::new()), packaging));
    }
    let writer = packaging
        .compression
        .writer_at(store.ingest()?, packaging.level)
        .map_err(SnapshotError::io("setting the compressor up"))?;
    let writer = compress(materializer, layer, diff_id, is_base, writer)?;
    let expected = match packaging.compression {
        Compression::None => Some(BlobDigest(diff_id.0)),
        _ => None,
    };
    let (digest, size) = writer.commit(expected)?;
    let blob = CompressedBlob {
        digest,
        size,
        media_type: packaging.compression.media_type().to_owned(),
        is_verified: true,
    };
    let is_usual = packaging.level.is_none() && packaging.compression != Compression::None;
    if is_usual && !is_base {
        store.add_compressed_blob(&diff_id, &blob)?;
    } else {
        // Nobody else is to come upon it: what a layer leaves as would depend on what was built
        // before.
        store.put_memo(&recipe, blob.digest.to_string().as_bytes())?;
    }
    Ok(as_packaged((blob, Vec::new()), packaging))
}

/// A blob of the layer that is known already and wanted, with its origins where it isn't here.
fn known(
    materializer: &Materializer,
    diff_id: DiffId,
    is_wanted: impl Fn(&CompressedBlob) -> bool,
) -> Result<Option<(CompressedBlob, Vec<RemoteBlob>)>, SnapshotError> {
    let store = materializer.store();
    for blob in store.compressed_blobs(&diff_id)? {
        if !is_wanted(&blob) {
            continue;
        }
        if store.has_blob(&blob.digest)? {
            return Ok(Some((blob, Vec::new())));
        }
        let origins = origin::find(store, &blob)?;
        if !origins.is_empty() {
            return Ok(Some((blob, origins)));
        }
    }
    Ok(None)
}

fn as_packaged(
    (blob, origins): (CompressedBlob, Vec<RemoteBlob>),
    packaging: &Packaging,
) -> OutgoingLayer {
    let media_type = packaging.media_types.name(&blob.media_type);
    OutgoingLayer {
        descriptor: Descriptor::new(media_type, blob.digest, blob.size),
        origins,
    }
}

impl Packaging {
    /// Whether a known blob is what a layer would be compressed to. What somebody else compressed
    /// at a level of their own serves where no level is asked for.
    fn fits(&self, blob: &CompressedBlob) -> bool {
        let form = Compression::from_media_type(&blob.media_type);
        form == Some(self.compression) && self.level.is_none()
    }

    /// Names the way from a layer to its blob.
    fn recipe(&self, diff_id: DiffId) -> CacheKey {
        let level = self
            .level
            .map_or_else(String::new, |level| level.to_string());
        CacheKeyBuilder::new("compress layer")
            .field(diff_id.0.as_bytes())
            .field(self.compression.media_type().as_bytes())
            .field(level.as_bytes())
            .finish()
    }
}

/// What an earlier build made by this recipe, if it is still here.
fn made_before(
    store: &Store,
    recipe: &CacheKey,
    packaging: &Packaging,
) -> Result<Option<CompressedBlob>, SnapshotError> {
    let known = store.memo(recipe)?;
    let known = known.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    let Some(digest) = known else {
        return Ok(None);
    };
    Ok(store.blob_size(&digest)?.map(|size| CompressedBlob {
        digest,
        size,
        media_type: packaging.compression.media_type().to_owned(),
        is_verified: true,
    }))
}

/// Writes a layer's plain tar through a compressor.
fn compress<W: Write>(
    materializer: &Materializer,
    layer: LayerId,
    diff_id: DiffId,
    is_base: bool,
    mut writer: Compressor<W>,
) -> Result<W, SnapshotError> {
    let failed = || SnapshotError::io(format!("compressing layer {diff_id}"));
    let store = materializer.store();
    let plain = match store.blob(&BlobDigest(diff_id.0))? {
        // Others than rbuild write tars in other ways: only the one that came is the layer.
        None if is_base => Some(materializer.plain_tar(layer)?),
        found => found,
    };
    match plain {
        Some(plain) => {
            let mut plain = BufReader::with_capacity(1 << 20, plain);
            io::copy(&mut plain, &mut writer).map_err(failed())?;
        }
        None => {
            write_layer_tar(materializer, layer, None, &mut writer)?;
        }
    }
    writer.finish().map_err(failed())
}
