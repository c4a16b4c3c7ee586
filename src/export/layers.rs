//! An image's layers as they leave the machine: plain tars made from whatever the store has, and
//! compressed blobs, each compressed once.

use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;

use crate::digest::{BlobDigest, CacheKeyBuilder, DiffId, HashingStream};
use crate::image::manifest::{Descriptor, media_type};
use crate::layer::compression::GzipWriter;
use crate::layer::diff;
use crate::layer::index::Index;
use crate::layer::tar_writer::TarWriter;
use crate::snapshot::{Content, Materializer, RemoteBlob, SnapshotError, origin};
use crate::store::{CompressedBlob, LayerId};
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
    /// Its descriptor, with an OCI media type.
    pub descriptor: Descriptor,
    /// Where its blob can be had if the store doesn't hold it.
    pub origin: Option<RemoteBlob>,
}

/// Names the compressed blob of a layer: one that is known, else one that is made now.
///
/// # Errors
/// When the layer can't be read or the store can't take the blob.
pub fn outgoing(
    materializer: &Materializer,
    layer: LayerId,
    diff_id: DiffId,
) -> Result<OutgoingLayer, SnapshotError> {
    let store = materializer.store();
    for blob in store.compressed_blobs(&diff_id)? {
        let descriptor =
            Descriptor::new(media_type::to_oci(&blob.media_type), blob.digest, blob.size);
        let origin = match store.has_blob(&blob.digest)? {
            true => None,
            false => match origin::find(store, &blob)? {
                Some(origin) => Some(origin),
                None => continue,
            },
        };
        return Ok(OutgoingLayer { descriptor, origin });
    }
    let key = CacheKeyBuilder::new("compress layer")
        .field(diff_id.0.as_bytes())
        .finish();
    let _lock = store.lock(&key)?;
    let writer = GzipWriter::new(store.ingest()?);
    let writer = compress(materializer, layer, diff_id, writer)?;
    let (digest, size) = writer.commit(None)?;
    store.add_compressed_blob(
        &diff_id,
        &CompressedBlob {
            digest,
            size,
            media_type: media_type::OCI_LAYER_GZIP.to_owned(),
        },
    )?;
    Ok(OutgoingLayer {
        descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size),
        origin: None,
    })
}

fn compress<W: Write + Send + 'static>(
    materializer: &Materializer,
    layer: LayerId,
    diff_id: DiffId,
    mut writer: GzipWriter<W>,
) -> Result<W, SnapshotError> {
    let failed = || SnapshotError::io(format!("compressing layer {diff_id}"));
    if let Some(plain) = materializer.store().blob(&BlobDigest(diff_id.0))? {
        let mut plain = BufReader::with_capacity(1 << 20, plain);
        io::copy(&mut plain, &mut writer).map_err(failed())?;
    } else {
        write_layer_tar(materializer, layer, None, &mut writer)?;
    }
    writer.finish().map_err(failed())
}
