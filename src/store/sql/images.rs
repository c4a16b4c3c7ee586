//! Images, their names and their manifests. See the module above.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Result, parsed, required_digest, signed, time, unsigned};
use crate::digest::ImageId;
use crate::reference::Reference;
use crate::store::session::Session;
use crate::store::{ImageRecord, LayerId};

pub(in crate::store) fn put_image(
    c: &Connection,
    image: &ImageRecord,
    session: Session,
) -> Result<()> {
    let id = image.id.0.as_bytes();
    c.prepare_cached(
        "INSERT INTO images (id, platform, created, size, session, added)
         VALUES (?1, ?2, ?3, ?4, ?5, unixepoch())
         ON CONFLICT (id) DO UPDATE SET
             size = excluded.size,
             session = max(session, excluded.session),
             added = excluded.added",
    )?
    .execute(params![
        id,
        image.platform.to_string(),
        image.created.map(|time| time.to_string()),
        signed(image.size),
        session.0,
    ])?;
    c.prepare_cached("DELETE FROM image_layers WHERE image = ?1")?
        .execute([id])?;
    let mut insert =
        c.prepare_cached("INSERT INTO image_layers (image, position, layer) VALUES (?1, ?2, ?3)")?;
    for (position, layer) in image.layers.iter().enumerate() {
        insert.execute(params![id, position as i64, layer.0])?;
    }
    Ok(())
}

pub(in crate::store) fn image(c: &Connection, id: &ImageId) -> Result<Option<ImageRecord>> {
    let found = c
        .prepare_cached("SELECT platform, created, size FROM images WHERE id = ?1")?
        .query_row(params![id.0.as_bytes()], |row| {
            Ok(ImageRecord {
                id: *id,
                layers: Vec::new(),
                platform: parsed(row, 0)?,
                created: time(row, 1)?,
                size: unsigned(row, 2)?,
            })
        })
        .optional()?;
    let Some(mut image) = found else {
        return Ok(None);
    };
    image.layers = c
        .prepare_cached("SELECT layer FROM image_layers WHERE image = ?1 ORDER BY position")?
        .query_map(params![id.0.as_bytes()], |row| row.get(0).map(LayerId))?
        .collect::<Result<_>>()?;
    Ok(Some(image))
}

pub(in crate::store) fn image_ids(c: &Connection) -> Result<Vec<ImageId>> {
    c.prepare_cached("SELECT id FROM images ORDER BY created DESC, id")?
        .query_map([], |row| required_digest(row, 0).map(ImageId))?
        .collect()
}

pub(in crate::store) fn delete_image(c: &Connection, id: &ImageId) -> Result<bool> {
    let deleted = c
        .prepare_cached("DELETE FROM images WHERE id = ?1")?
        .execute(params![id.0.as_bytes()])?;
    Ok(deleted == 1)
}

/// Names an image; `all` of several variants, itself among them, where it has any.
pub(in crate::store) fn tag(
    c: &Connection,
    reference: &Reference,
    image: &ImageId,
    all: &[ImageId],
) -> Result<()> {
    let reference = reference.to_string();
    c.prepare_cached("DELETE FROM tags WHERE reference = ?1")?
        .execute([&reference])?;
    c.prepare_cached("INSERT INTO tags (reference, image) VALUES (?1, ?2)")?
        .execute(params![reference, image.0.as_bytes()])?;
    let mut insert =
        c.prepare_cached("INSERT INTO variants (reference, position, image) VALUES (?1, ?2, ?3)")?;
    for (position, image) in all.iter().enumerate() {
        insert.execute(params![reference, position as i64, image.0.as_bytes()])?;
    }
    Ok(())
}

/// The variants that a name stands for; none where it is one image's.
pub(in crate::store) fn variants(c: &Connection, reference: &Reference) -> Result<Vec<ImageId>> {
    c.prepare_cached("SELECT image FROM variants WHERE reference = ?1 ORDER BY position")?
        .query_map([reference.to_string()], |row| {
            required_digest(row, 0).map(ImageId)
        })?
        .collect()
}

pub(in crate::store) fn untag(c: &Connection, reference: &Reference) -> Result<bool> {
    let deleted = c
        .prepare_cached("DELETE FROM tags WHERE reference = ?1")?
        .execute([reference.to_string()])?;
    Ok(deleted == 1)
}

pub(in crate::store) fn tagged(c: &Connection, reference: &Reference) -> Result<Option<ImageId>> {
    c.prepare_cached("SELECT image FROM tags WHERE reference = ?1")?
        .query_row([reference.to_string()], |row| {
            required_digest(row, 0).map(ImageId)
        })
        .optional()
}

pub(in crate::store) fn tags(c: &Connection, image: &ImageId) -> Result<Vec<Reference>> {
    c.prepare_cached(
        "SELECT reference FROM tags WHERE image = ?1
         UNION SELECT reference FROM variants WHERE image = ?1 ORDER BY reference",
    )?
    .query_map(params![image.0.as_bytes()], |row| parsed(row, 0))?
    .collect()
}

pub(in crate::store) fn put_manifest(
    c: &Connection,
    image: &ImageId,
    reference: &Reference,
) -> Result<()> {
    c.prepare_cached("INSERT OR IGNORE INTO manifests (image, reference) VALUES (?1, ?2)")?
        .execute(params![image.0.as_bytes(), reference.to_string()])
        .map(drop)
}

pub(in crate::store) fn manifests(c: &Connection, image: &ImageId) -> Result<Vec<Reference>> {
    c.prepare_cached("SELECT reference FROM manifests WHERE image = ?1 ORDER BY reference")?
        .query_map(params![image.0.as_bytes()], |row| parsed(row, 0))?
        .collect()
}
