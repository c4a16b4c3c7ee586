//! Every table, and the statements of everyday work; those of sessions, pruning and usage stand
//! there. Functions from values to rows and back; what they mean is said by their callers.
//!
//! Digests and keys are blobs of 32 bytes, times RFC 3339 text. A table whose rows name files
//! has an ever-growing `id`, so that "all rows up to here" can be marked as synced.

mod cache;
mod images;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

pub(super) use cache::{
    cached, delete_cached, directory, download, has_operation, memo, put_cached, put_directory,
    put_download, put_memo, put_operation, put_remote, remote,
};
pub(super) use images::{
    delete_image, image, image_ids, manifests, put_image, put_manifest, tag, tagged, tags, untag,
    variants,
};

use super::session::Session;
use super::{CompressedBlob, Layer, LayerId, NewLayer};
use crate::digest::{BlobDigest, CacheKey, ChainId, DiffId, Digest};
use crate::time::Timestamp;

/// The tables, as the steps from each format to the next. A released step is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    boot TEXT NOT NULL,
    synced INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX blobs_unsynced ON blobs (boot) WHERE synced = 0;
CREATE TABLE layers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    diff_id BLOB,
    chain_id BLOB UNIQUE,
    plain_blob BLOB,
    size INTEGER,
    entries BLOB
);
CREATE INDEX layers_diff_id ON layers (diff_id) WHERE diff_id IS NOT NULL;
CREATE TABLE compressed (
    diff_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    PRIMARY KEY (diff_id, digest, media_type)
) WITHOUT ROWID;
CREATE TABLE trees (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    layer INTEGER NOT NULL REFERENCES layers (id) ON DELETE CASCADE,
    form TEXT NOT NULL,
    boot TEXT NOT NULL,
    synced INTEGER NOT NULL DEFAULT 0,
    UNIQUE (layer, form)
);
CREATE INDEX trees_unsynced ON trees (boot) WHERE synced = 0;
CREATE TABLE cache (
    key BLOB PRIMARY KEY,
    layer INTEGER REFERENCES layers (id) ON DELETE CASCADE,
    created TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX cache_layer ON cache (layer) WHERE layer IS NOT NULL;
CREATE TABLE operations (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE memos (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE directories (
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    digests BLOB NOT NULL,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE images (
    id BLOB PRIMARY KEY,
    platform TEXT NOT NULL,
    created TEXT,
    size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE image_layers (
    image BLOB NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer INTEGER NOT NULL REFERENCES layers (id) ON DELETE CASCADE,
    PRIMARY KEY (image, position)
) WITHOUT ROWID;
CREATE INDEX image_layers_layer ON image_layers (layer);
CREATE TABLE tags (
    reference TEXT PRIMARY KEY,
    image BLOB NOT NULL REFERENCES images (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX tags_image ON tags (image);
CREATE TABLE remotes (
    reference TEXT NOT NULL,
    platform TEXT NOT NULL,
    manifest BLOB NOT NULL,
    checked_at TEXT NOT NULL,
    PRIMARY KEY (reference, platform)
) WITHOUT ROWID;
",
    "
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
);
ALTER TABLE blobs ADD COLUMN session INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN session INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN session INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
DELETE FROM directories;
ALTER TABLE compressed ADD COLUMN verified INTEGER NOT NULL DEFAULT 0;
UPDATE blobs SET used = unixepoch();
UPDATE layers SET used = unixepoch();
UPDATE images SET added = unixepoch();
CREATE TABLE mounts (
    form TEXT NOT NULL,
    id BLOB NOT NULL,
    session INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (form, id)
) WITHOUT ROWID;
CREATE TABLE manifests (
    image BLOB NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    reference TEXT NOT NULL,
    PRIMARY KEY (image, reference)
) WITHOUT ROWID;
",
    "
CREATE TABLE downloads (
    url BLOB PRIMARY KEY,
    digest BLOB NOT NULL,
    etag TEXT,
    last_modified TEXT,
    fetched INTEGER NOT NULL
) WITHOUT ROWID;
",
    "
CREATE TABLE kept (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created INTEGER NOT NULL,
    about TEXT NOT NULL
);
CREATE TABLE kept_layers (
    kept INTEGER NOT NULL REFERENCES kept (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer INTEGER NOT NULL REFERENCES layers (id) ON DELETE CASCADE,
    PRIMARY KEY (kept, position)
) WITHOUT ROWID;
CREATE INDEX kept_layers_layer ON kept_layers (layer);
",
    "
CREATE TABLE variants (
    reference TEXT NOT NULL REFERENCES tags (reference) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    image BLOB NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (reference, position)
) WITHOUT ROWID;
CREATE INDEX variants_image ON variants (image);
",
];

type Result<T> = rusqlite::Result<T>;

// Blobs

/// The size of a blob that may be used in this boot.
pub(super) fn blob_size(c: &Connection, digest: &BlobDigest) -> Result<Option<u64>> {
    c.prepare_cached("SELECT size FROM blobs WHERE digest = ?1")?
        .query_row(params![digest.0.as_bytes()], |row| unsigned(row, 0))
        .optional()
}

pub(super) fn put_blob(
    c: &Connection,
    digest: &BlobDigest,
    size: u64,
    boot: &str,
    session: Session,
) -> Result<()> {
    // A new id and not an update: the bytes are new too, and not synced.
    c.prepare_cached(
        "INSERT OR REPLACE INTO blobs (digest, size, boot, session, used)
         VALUES (?1, ?2, ?3, ?4, unixepoch())",
    )?
    .execute(params![digest.0.as_bytes(), signed(size), boot, session.0])
    .map(drop)
}

pub(super) fn delete_blob(c: &Connection, digest: &BlobDigest) -> Result<()> {
    c.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?
        .execute(params![digest.0.as_bytes()])
        .map(drop)
}

// Layers

const LAYER: &str = "SELECT id, diff_id, chain_id, plain_blob, size FROM layers";

fn layer_row(row: &Row<'_>) -> Result<Layer> {
    Ok(Layer {
        id: LayerId(row.get(0)?),
        diff_id: digest(row, 1)?.map(DiffId),
        chain_id: digest(row, 2)?.map(ChainId),
        plain_blob: digest(row, 3)?.map(BlobDigest),
        size: optional_unsigned(row, 4)?,
    })
}

pub(super) fn layer(c: &Connection, id: LayerId) -> Result<Option<Layer>> {
    c.prepare_cached(&format!("{LAYER} WHERE id = ?1"))?
        .query_row([id.0], layer_row)
        .optional()
}

pub(super) fn layer_by_chain(c: &Connection, chain_id: &ChainId) -> Result<Option<Layer>> {
    c.prepare_cached(&format!("{LAYER} WHERE chain_id = ?1"))?
        .query_row(params![chain_id.0.as_bytes()], layer_row)
        .optional()
}

/// Makes a row, or completes the one that has the same chain ID. The session holds it then.
pub(super) fn create_layer(c: &Connection, new: &NewLayer, session: Session) -> Result<LayerId> {
    c.prepare_cached(
        "INSERT INTO layers (diff_id, chain_id, plain_blob, size, session, used)
         VALUES (?1, ?2, ?3, ?4, ?5, unixepoch())
         ON CONFLICT (chain_id) DO UPDATE SET
             diff_id = coalesce(diff_id, excluded.diff_id),
             plain_blob = coalesce(excluded.plain_blob, plain_blob),
             size = coalesce(size, excluded.size),
             session = max(session, excluded.session),
             used = excluded.used
         RETURNING id",
    )?
    .query_row(
        params![
            new.diff_id.as_ref().map(|id| id.0.as_bytes()),
            new.chain_id.as_ref().map(|id| id.0.as_bytes()),
            new.plain_blob.as_ref().map(|digest| digest.0.as_bytes()),
            new.size.map(signed),
            session.0,
        ],
        |row| row.get(0).map(LayerId),
    )
}

pub(super) fn set_diff_id(c: &Connection, id: LayerId, diff_id: &DiffId, size: u64) -> Result<()> {
    c.prepare_cached("UPDATE layers SET diff_id = ?2, size = ?3 WHERE id = ?1")?
        .execute(params![id.0, diff_id.0.as_bytes(), signed(size)])
        .map(drop)
}

pub(super) fn set_plain_blob(c: &Connection, id: LayerId, blob: &BlobDigest) -> Result<bool> {
    let changed = c
        .prepare_cached("UPDATE layers SET plain_blob = ?2 WHERE id = ?1")?
        .execute(params![id.0, blob.0.as_bytes()])?;
    Ok(changed == 1)
}

/// The name of a layer's index: its own, or that of another layer of the same diff ID.
pub(super) fn index_name(c: &Connection, id: LayerId) -> Result<Option<[u8; 32]>> {
    c.prepare_cached(
        "SELECT coalesce(l.entries, (
             SELECT o.entries FROM layers o
             WHERE o.diff_id = l.diff_id AND o.entries IS NOT NULL LIMIT 1
         )) FROM layers l WHERE l.id = ?1",
    )?
    .query_row([id.0], |row| row.get::<_, Option<[u8; 32]>>(0))
    .optional()
    .map(Option::flatten)
}

pub(super) fn set_index(c: &Connection, id: LayerId, name: &CacheKey) -> Result<bool> {
    let changed = c
        .prepare_cached("UPDATE layers SET entries = ?2 WHERE id = ?1")?
        .execute(params![id.0, name.as_bytes()])?;
    Ok(changed == 1)
}

pub(super) fn forget_index(c: &Connection, name: &[u8; 32]) -> Result<()> {
    c.prepare_cached("UPDATE layers SET entries = NULL WHERE entries = ?1")?
        .execute([name])
        .map(drop)
}

pub(super) fn compressed(c: &Connection, diff_id: &DiffId) -> Result<Vec<CompressedBlob>> {
    let mut statement = c.prepare_cached(
        "SELECT digest, size, media_type, verified FROM compressed WHERE diff_id = ?1
         ORDER BY verified DESC, media_type, digest",
    )?;
    let rows = statement.query_map(params![diff_id.0.as_bytes()], |row| {
        Ok(CompressedBlob {
            digest: BlobDigest(required_digest(row, 0)?),
            size: unsigned(row, 1)?,
            media_type: row.get(2)?,
            is_verified: row.get(3)?,
        })
    })?;
    rows.collect()
}

pub(super) fn add_compressed(c: &Connection, id: &DiffId, blob: &CompressedBlob) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO compressed (diff_id, digest, size, media_type, verified)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (diff_id, digest, media_type) DO UPDATE SET
             size = excluded.size,
             verified = max(verified, excluded.verified)",
    )?
    .execute(params![
        id.0.as_bytes(),
        blob.digest.0.as_bytes(),
        signed(blob.size),
        blob.media_type,
        blob.is_verified,
    ])
    .map(drop)
}

/// Settles whether a blob holds a layer: it does, or nobody is to believe it again.
pub(super) fn settle_claim(
    c: &Connection,
    id: &DiffId,
    digest: &BlobDigest,
    is_true: bool,
) -> Result<()> {
    let statement = match is_true {
        true => "UPDATE compressed SET verified = 1 WHERE diff_id = ?1 AND digest = ?2",
        false => "DELETE FROM compressed WHERE diff_id = ?1 AND digest = ?2 AND NOT verified",
    };
    c.prepare_cached(statement)?
        .execute(params![id.0.as_bytes(), digest.0.as_bytes()])
        .map(drop)
}

// Trees

pub(super) fn has_tree(c: &Connection, layer: LayerId, form: &str) -> Result<bool> {
    c.prepare_cached("SELECT 1 FROM trees WHERE layer = ?1 AND form = ?2")?
        .exists(params![layer.0, form])
}

/// The forms in which a layer has a tree.
pub(super) fn tree_forms(c: &Connection, layer: LayerId) -> Result<Vec<String>> {
    c.prepare_cached("SELECT form FROM trees WHERE layer = ?1")?
        .query_map([layer.0], |row| row.get(0))?
        .collect()
}

pub(super) fn put_tree(c: &Connection, layer: LayerId, form: &str, boot: &str) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO trees (layer, form, boot) VALUES (?1, ?2, ?3)")?
        .execute(params![layer.0, form, boot])
        .map(drop)
}

pub(super) fn delete_tree(c: &Connection, layer: LayerId, form: &str) -> Result<()> {
    c.prepare_cached("DELETE FROM trees WHERE layer = ?1 AND form = ?2")?
        .execute(params![layer.0, form])
        .map(drop)
}

// Boots

/// The newest rows of the tables that name files: blobs, trees.
pub(super) fn newest_rows(c: &Connection) -> Result<(i64, i64)> {
    c.query_row(
        "SELECT (SELECT coalesce(max(id), 0) FROM blobs), (SELECT coalesce(max(id), 0) FROM trees)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

pub(super) fn mark_synced(c: &Connection, (blob, tree): (i64, i64)) -> Result<()> {
    c.execute(
        "UPDATE blobs SET synced = 1 WHERE synced = 0 AND id <= ?1",
        [blob],
    )?;
    c.execute(
        "UPDATE trees SET synced = 1 WHERE synced = 0 AND id <= ?1",
        [tree],
    )?;
    Ok(())
}

pub(super) fn has_unsynced(c: &Connection, boot: &str) -> Result<bool> {
    c.query_row(
        "SELECT EXISTS (SELECT 1 FROM blobs WHERE synced = 0 AND boot <> ?1)
             OR EXISTS (SELECT 1 FROM trees WHERE synced = 0 AND boot <> ?1)",
        [boot],
        |row| row.get(0),
    )
}

/// Deletes the rows of what an earlier boot left unsynced, and what means nothing without it.
/// Gives the trees, whose folders are to be removed.
pub(super) fn discard_unsynced(c: &Connection, boot: &str) -> Result<Vec<(LayerId, String)>> {
    let trees = c
        .prepare("DELETE FROM trees WHERE synced = 0 AND boot <> ?1 RETURNING layer, form")?
        .query_map([boot], |row| Ok((LayerId(row.get(0)?), row.get(1)?)))?
        .collect::<Result<Vec<_>>>()?;
    c.execute("DELETE FROM blobs WHERE synced = 0 AND boot <> ?1", [boot])?;
    c.execute_batch(
        "UPDATE layers SET plain_blob = NULL
         WHERE plain_blob IS NOT NULL AND plain_blob NOT IN (SELECT digest FROM blobs);
         CREATE TEMPORARY TABLE lost AS
             SELECT id FROM layers
             WHERE plain_blob IS NULL
               AND id NOT IN (SELECT layer FROM trees)
               AND (diff_id IS NULL OR diff_id NOT IN (SELECT diff_id FROM compressed));
         DELETE FROM cache WHERE layer IN (SELECT id FROM lost);
         DELETE FROM images
         WHERE id NOT IN (SELECT digest FROM blobs)
            OR id IN (SELECT image FROM image_layers WHERE layer IN (SELECT id FROM lost));
         DROP TABLE lost;",
    )?;
    Ok(trees)
}

// Values

/// SQLite's integers are signed; no size reaches 2^63.
pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, i64>(column)
        .map(|size| u64::try_from(size).unwrap_or(0))
}

fn optional_unsigned(row: &Row<'_>, column: usize) -> Result<Option<u64>> {
    let size = row.get::<_, Option<i64>>(column)?;
    Ok(size.and_then(|size| u64::try_from(size).ok()))
}

fn digest(row: &Row<'_>, column: usize) -> Result<Option<Digest>> {
    let bytes = row.get::<_, Option<[u8; 32]>>(column)?;
    Ok(bytes.map(Digest::from_bytes))
}

pub(super) fn required_digest(row: &Row<'_>, column: usize) -> Result<Digest> {
    row.get(column).map(Digest::from_bytes)
}

fn time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    let text = row.get::<_, Option<String>>(column)?;
    text.map(|text| {
        Timestamp::deserialize(StrDeserializer::<ValueError>::new(&text))
            .map_err(|error| malformed(column, error))
    })
    .transpose()
}

fn required_time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    time(row, column)?.ok_or(rusqlite::Error::InvalidColumnType(
        column,
        "time".to_owned(),
        Type::Null,
    ))
}

pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| malformed(column, error))
}

fn malformed(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
