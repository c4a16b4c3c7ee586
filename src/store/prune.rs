//! Removing what is not needed: images, layers that no image has, blobs, cache mounts, and what
//! killed processes left without a row.
//!
//! What a living session holds stays, whatever was asked for. Everything leaves its place in the
//! transaction that removes its row and is taken apart afterwards: a kill in between leaves
//! garbage in a temporary folder, or a row whose file is gone, which is as good as absent.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, params};

use super::database::Failure;
use super::error::{Action, StoreError};
use super::session::{Session, end_dead, oldest_other};
use super::{LayerId, SOURCES, Store, kept, sql, temporary};
use crate::digest::{BlobDigest, CacheKey, ImageId};
use crate::fs::remove::remove_folder;
use crate::reference::Reference;
use crate::time::Timestamp;

/// Which images are removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PruneImages {
    /// None.
    #[default]
    None,
    /// Those without a name.
    Dangling,
    /// All.
    All,
}

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// Images. Their layers go only with [`Prune::cache`].
    pub images: PruneImages,
    /// Layers that no image has, with the results of steps that hang on them, cache mounts, and
    /// failed steps that were kept.
    pub cache: bool,
    /// Also what only makes later builds faster: digests of the context's files, what registries
    /// said; and logs of steps.
    pub memory: bool,
    /// Only what was last used (an image: came) before this time.
    pub before: Option<Timestamp>,
    /// Only as much of the cache as makes the store this small, in bytes, least recently used
    /// first.
    pub keep: Option<u64>,
}

/// What was removed.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Images, with the names that they had.
    pub images: Vec<(ImageId, Vec<Reference>)>,
    /// How many failed steps that were kept.
    pub kept_steps: usize,
    /// How many layers.
    pub layers: usize,
    /// How many cache mounts.
    pub cache_mounts: usize,
    /// How many git repositories that builds had fetched from.
    pub repositories: usize,
    /// How many bytes the disk has got back.
    pub bytes: u64,
    /// What could not be removed.
    pub left: Vec<Left>,
}

/// Something that could not be removed.
#[derive(Debug)]
pub struct Left {
    /// Where it lies.
    pub path: PathBuf,
    /// Why it could not be removed.
    pub source: io::Error,
}

impl Store {
    /// Removes what `prune` says.
    ///
    /// # Errors
    /// When the database fails. What the disk would not let go of is in [`Pruned::left`].
    pub fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        end_dead(&self.inner.database, &self.inner.root.join("tmp"))?;
        let mut pruned = Pruned {
            images: self.prune_images(prune)?,
            ..Pruned::default()
        };
        if !prune.cache {
            return Ok(pruned);
        }
        let mut excess = match prune.keep {
            Some(keep) => Some(self.disk_usage(self.root())?.saturating_sub(keep)),
            None => None,
        };
        if excess != Some(0) {
            let before = seconds(prune.before);
            let remove = |c: &Transaction<'_>| Ok(kept::delete_before(c, before)?);
            pruned.kept_steps = self.inner.database.write(remove)?;
        }
        if let Some(before) = prune.before {
            pruned.bytes += self.remove_logs_before(before)?;
        }
        for victim in self.inner.database.read(|c| victims(c, prune.before))? {
            if excess == Some(0) {
                break;
            }
            let before = pruned.bytes;
            self.remove(victim, &mut pruned)?;
            if let Some(excess) = &mut excess {
                *excess = excess.saturating_sub(pruned.bytes - before);
            }
        }
        self.sweep(&mut pruned)?;
        self.inner.database.write(|transaction| {
            Ok(transaction.execute_batch(
                "DELETE FROM downloads WHERE digest NOT IN (SELECT digest FROM blobs)",
            )?)
        })?;
        if prune.memory {
            self.inner.database.write(|transaction| {
                Ok(transaction.execute_batch(
                    "DELETE FROM cache; DELETE FROM operations; DELETE FROM memos;
                     DELETE FROM directories; DELETE FROM remotes; DELETE FROM downloads;",
                )?)
            })?;
            self.inner.database.compact()?;
            self.remove_reserve()?;
            pruned.bytes += self.remove_logs()?;
        }
        Ok(pruned)
    }

    /// Removes the layers of an image that is no more, as far as no other image and no build
    /// needs them. Gives the bytes that the disk has got back.
    ///
    /// # Errors
    /// As [`Store::prune`].
    pub fn release_layers(&self, layers: &[LayerId]) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for layer in layers.iter().rev() {
            let is_needed = self.inner.database.read(|c| {
                c.prepare_cached(
                    "SELECT 1 FROM layers WHERE id = ?1
                     AND (base OR id IN (SELECT layer FROM cache WHERE layer IS NOT NULL))",
                )?
                .exists([layer.0])
            })?;
            if !is_needed {
                self.remove(Victim::Layer(*layer), &mut pruned)?;
            }
        }
        Ok(pruned)
    }

    fn prune_images(&self, prune: &Prune) -> Result<Vec<(ImageId, Vec<Reference>)>, StoreError> {
        if prune.images == PruneImages::None {
            return Ok(Vec::new());
        }
        let all = prune.images == PruneImages::All;
        let own = self.inner.session;
        self.inner.database.write(|transaction| {
            let oldest = oldest_other(transaction, own)?;
            let ids = transaction
                .prepare(
                    "SELECT id FROM images WHERE session < ?1 AND added < ?2
                     AND (?3 OR id NOT IN (SELECT image FROM tags UNION SELECT image FROM variants))
                     ORDER BY id",
                )?
                .query_map(params![oldest.0, seconds(prune.before), all], |row| {
                    sql::required_digest(row, 0).map(ImageId)
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut images = Vec::new();
            for id in ids {
                images.push((id, sql::tags(transaction, &id)?));
                sql::delete_image(transaction, &id)?;
            }
            images.sort_by(|(_, a), (_, b)| a.cmp(b));
            Ok(images)
        })
    }

    /// Removes one thing, unless somebody has come to need it.
    fn remove(&self, victim: Victim, pruned: &mut Pruned) -> Result<(), StoreError> {
        let own = self.inner.session;
        let mut moved = Vec::new();
        let removed = self.inner.database.write(|transaction| {
            let oldest = oldest_other(transaction, own)?;
            match &victim {
                Victim::Layer(layer) => self.take_layer(transaction, *layer, oldest, &mut moved),
                Victim::Blob(digest) => self.take_blob(transaction, digest, oldest, &mut moved),
                Victim::Mount(form, id) => {
                    let changed = transaction.execute(
                        "DELETE FROM mounts WHERE form = ?1 AND id = ?2 AND session < ?3",
                        params![form, id.as_bytes(), oldest.0],
                    )?;
                    if changed == 1 {
                        moved.push(self.take_away(&self.mount_path(form, id)));
                    }
                    Ok(changed == 1)
                }
            }
        })?;
        if removed {
            match victim {
                Victim::Layer(_) => pruned.layers += 1,
                Victim::Mount(form, _) if form == SOURCES => pruned.repositories += 1,
                Victim::Mount(..) => pruned.cache_mounts += 1,
                Victim::Blob(_) => {}
            }
        }
        take_apart(moved, pruned);
        Ok(())
    }

    fn take_layer(
        &self,
        transaction: &Transaction<'_>,
        layer: LayerId,
        oldest: Session,
        moved: &mut Vec<PathBuf>,
    ) -> Result<bool, Failure> {
        let removable = transaction
            .prepare_cached(
                "SELECT 1 FROM layers WHERE id = ?1 AND session < ?2
                 AND id NOT IN (SELECT layer FROM image_layers)
                 AND id NOT IN (SELECT layer FROM kept_layers)",
            )?
            .exists([layer.0, oldest.0])?;
        if !removable {
            return Ok(false);
        }
        let blobs = layer_blobs(transaction, layer)?;
        let forms = sql::tree_forms(transaction, layer)?;
        let index: Option<[u8; 32]> = transaction
            .prepare_cached("SELECT entries FROM layers WHERE id = ?1")?
            .query_row([layer.0], |row| row.get(0))?;
        transaction.execute("DELETE FROM layers WHERE id = ?1", [layer.0])?;
        for form in forms {
            moved.push(self.take_away(&self.tree_path(layer, &form)));
        }
        if let Some(name) = index
            && !transaction
                .prepare_cached("SELECT 1 FROM layers WHERE entries = ?1")?
                .exists([name])?
        {
            let name = CacheKey::from_bytes(name).hex();
            moved.push(self.take_away(&self.index_path(&name)));
        }
        for digest in blobs {
            self.take_blob(transaction, &digest, oldest, moved)?;
        }
        transaction.execute(
            "DELETE FROM compressed WHERE diff_id NOT IN
                 (SELECT diff_id FROM layers WHERE diff_id IS NOT NULL)",
            [],
        )?;
        Ok(true)
    }

    fn take_blob(
        &self,
        transaction: &Transaction<'_>,
        digest: &BlobDigest,
        oldest: Session,
        moved: &mut Vec<PathBuf>,
    ) -> Result<bool, Failure> {
        let removable = transaction
            .prepare_cached(&format!("{LOOSE_BLOBS} AND digest = ?2"))?
            .exists(params![oldest.0, digest.0.as_bytes()])?;
        if removable {
            sql::delete_blob(transaction, digest)?;
            moved.push(self.take_away(&self.blob_path(digest)));
        }
        Ok(removable)
    }

    /// Removes files and folders of the store that no row names.
    fn sweep(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let root = self.root();
        let mut found: Vec<(PathBuf, Row)> = Vec::new();
        for path in list(&root.join("blobs/sha256"))? {
            let digest = file_name(&path).and_then(|name| format!("sha256:{name}").parse().ok());
            found.push((path, digest.map_or(Row::Never, Row::Blob)));
        }
        for path in list(&root.join("indexes"))? {
            let key = file_name(&path).and_then(|name| name.parse().ok());
            found.push((path, key.map_or(Row::Never, Row::Index)));
        }
        for folder in list(&root.join("trees"))? {
            let form = file_name(&folder).unwrap_or_default().to_owned();
            for path in list(&folder)? {
                let layer = file_name(&path).and_then(|name| name.parse().ok());
                let row = layer.map(|layer| Row::Tree(LayerId(layer), form.clone()));
                found.push((path, row.unwrap_or(Row::Never)));
            }
        }
        for folder in list(&root.join("mounts"))? {
            let form = file_name(&folder).unwrap_or_default().to_owned();
            for path in list(&folder)? {
                let id = file_name(&path).and_then(|name| name.parse().ok());
                let row = id.map(|id| Row::Mount(form.clone(), id));
                found.push((path, row.unwrap_or(Row::Never)));
            }
        }
        for (path, row) in found {
            let known = |c: &Connection| row.exists(c);
            if self.inner.database.read(known)? {
                continue;
            }
            // Whoever puts a file in its place does so, with its row, in one transaction.
            let moved = self.inner.database.write(|transaction| {
                Ok(match row.exists(transaction)? {
                    true => None,
                    false => Some(self.take_away(&path)),
                })
            })?;
            take_apart(moved.into_iter().collect(), pruned);
        }
        Ok(())
    }

    /// Moves something out of its place at once; gives where it lies now.
    fn take_away(&self, path: &Path) -> PathBuf {
        let away = self.inner.temporary.new_path();
        if std::fs::rename(path, &away).is_ok() {
            return away;
        }
        // A folder of another user can't be moved to another parent, only to another name. What is
        // left of it under that name, no row ever names.
        let beside = path.with_file_name(format!(".removed-{}", temporary::random_name()));
        match std::fs::rename(path, &beside) {
            Ok(()) => beside,
            Err(_) => path.to_owned(),
        }
    }

    pub(super) fn mount_path(&self, form: &str, id: &CacheKey) -> PathBuf {
        self.inner.root.join("mounts").join(form).join(id.hex())
    }
}

/// One thing that may be removed.
enum Victim {
    Layer(LayerId),
    Blob(BlobDigest),
    Mount(String, CacheKey),
}

/// The row that must stand for a file to be more than garbage.
enum Row {
    Blob(BlobDigest),
    Index(CacheKey),
    Tree(LayerId, String),
    Mount(String, CacheKey),
    /// No row ever names a file like this.
    Never,
}

impl Row {
    fn exists(&self, c: &Connection) -> rusqlite::Result<bool> {
        match self {
            Self::Blob(digest) => Ok(sql::blob_size(c, digest)?.is_some()),
            Self::Index(key) => c
                .prepare_cached("SELECT 1 FROM layers WHERE entries = ?1")?
                .exists([key.as_bytes()]),
            Self::Tree(layer, form) => sql::has_tree(c, *layer, form),
            Self::Mount(form, id) => c
                .prepare_cached("SELECT 1 FROM mounts WHERE form = ?1 AND id = ?2")?
                .exists(params![form, id.as_bytes()]),
            Self::Never => Ok(false),
        }
    }
}

/// Blobs that no image and no layer needs and no session before `?1` holds.
const LOOSE_BLOBS: &str = "SELECT digest, used FROM blobs WHERE session < ?1
    AND digest NOT IN (SELECT id FROM images)
    AND digest NOT IN (SELECT plain_blob FROM layers WHERE plain_blob IS NOT NULL)
    AND digest NOT IN (SELECT diff_id FROM layers WHERE diff_id IS NOT NULL)
    AND digest NOT IN (SELECT c.digest FROM compressed c JOIN layers l ON l.diff_id = c.diff_id)";

/// What may be removed, least recently used first. A step's layer stands before those below it.
fn victims(c: &Connection, before: Option<Timestamp>) -> rusqlite::Result<Vec<Victim>> {
    let before = seconds(before);
    let mut victims: Vec<(i64, i64, Victim)> = Vec::new();
    let mut statement = c.prepare(
        "SELECT used, id FROM layers
         WHERE used < ?1 AND id NOT IN (SELECT layer FROM image_layers)
         AND id NOT IN (SELECT layer FROM kept_layers)",
    )?;
    for row in statement.query_map([before], |row| Ok((row.get(0)?, row.get(1)?)))? {
        let (used, id): (i64, i64) = row?;
        victims.push((used, -id, Victim::Layer(LayerId(id))));
    }
    let mut statement = c.prepare(&format!("{LOOSE_BLOBS} AND used < ?2"))?;
    for row in statement.query_map([i64::MAX, before], |row| {
        Ok((sql::required_digest(row, 0)?, row.get(1)?))
    })? {
        let (digest, used) = row?;
        victims.push((used, 0, Victim::Blob(BlobDigest(digest))));
    }
    let mut statement = c.prepare("SELECT form, id, used FROM mounts WHERE used < ?1")?;
    for row in statement.query_map([before], |row| {
        let id = CacheKey::from_bytes(row.get(1)?);
        Ok((row.get(0)?, id, row.get(2)?))
    })? {
        let (form, id, used) = row?;
        victims.push((used, 0, Victim::Mount(form, id)));
    }
    victims.sort_by_key(|(used, order, _)| (*used, *order));
    Ok(victims.into_iter().map(|(_, _, victim)| victim).collect())
}

/// The blobs that hold a layer, plain or compressed, as far as they are in the store.
pub(super) fn layer_blobs(c: &Connection, layer: LayerId) -> rusqlite::Result<Vec<BlobDigest>> {
    c.prepare_cached(
        "SELECT digest FROM blobs WHERE digest IN (
             SELECT plain_blob FROM layers WHERE id = ?1
             UNION SELECT diff_id FROM layers WHERE id = ?1
             UNION SELECT c.digest FROM compressed c JOIN layers l ON l.diff_id = c.diff_id
                   WHERE l.id = ?1)
         ORDER BY digest",
    )?
    .query_map([layer.0], |row| {
        sql::required_digest(row, 0).map(BlobDigest)
    })?
    .collect()
}

/// A time as the database compares it; the end of time where none is given.
fn seconds(time: Option<Timestamp>) -> i64 {
    time.map_or(i64::MAX, Timestamp::seconds)
}

/// Removes what was moved away, and counts.
fn take_apart(moved: Vec<PathBuf>, pruned: &mut Pruned) {
    for path in moved {
        let bytes = crate::fs::usage::disk_usage(&path).unwrap_or(0);
        match remove_folder(&path) {
            Ok(()) => pruned.bytes += bytes,
            Err(source) => pruned.left.push(Left { path, source }),
        }
    }
}

fn list(folder: &Path) -> Result<BTreeSet<PathBuf>, StoreError> {
    let entries = match folder.read_dir() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(BTreeSet::new()),
        entries => entries.action("read", folder)?,
    };
    entries
        .map(|entry| Ok(entry.action("read", folder)?.path()))
        .collect()
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
