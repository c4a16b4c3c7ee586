//! Sessions: what a running process uses, nobody removes.
//!
//! A process gets a number when it opens the store, and marks every row that it is going to rely
//! on with it. The session lives as long as the lock of the process's temporary folder is held,
//! so it ends however the process does. No clock decides what may be removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use rusqlite::{Connection, params};

use super::database::Database;
use super::error::{Action, StoreError};
use super::temporary::TemporaryFolder;
use super::{LayerId, Store, temporary};
use crate::digest::{BlobDigest, CacheKey};

/// The number of a process's session. Later processes have greater ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Session(pub(super) i64);

/// What this process has marked already.
#[derive(Default)]
pub(super) struct Held {
    layers: BTreeSet<LayerId>,
    blobs: BTreeSet<BlobDigest>,
}

/// Begins the session of the process that has `temporary`, and ends those of processes that are
/// no more. `folder` holds the temporary folders of all.
pub(super) fn begin(
    database: &Database,
    folder: &Path,
    temporary: &TemporaryFolder,
) -> Result<Session, StoreError> {
    end_dead(database, folder)?;
    let name = temporary.path().file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    database.write(|transaction| {
        transaction.execute("INSERT INTO sessions (name) VALUES (?1)", [&name])?;
        Ok(Session(transaction.last_insert_rowid()))
    })
}

/// Removes the sessions whose processes are no more, with what they left in `folder`.
pub(super) fn end_dead(database: &Database, folder: &Path) -> Result<(), StoreError> {
    // The rows first: a session that begins after they were read is none of these.
    let names = database.read(|c| {
        let mut statement = c.prepare("SELECT name FROM sessions")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        names.collect::<rusqlite::Result<Vec<String>>>()
    })?;
    temporary::remove_stale(folder)?;
    let mut dead = Vec::new();
    for name in names {
        let path = folder.join(&name);
        if !path.try_exists().action("examine", &path)? {
            dead.push(name);
        }
    }
    if dead.is_empty() {
        return Ok(());
    }
    database.write(|transaction| {
        for name in &dead {
            transaction.execute("DELETE FROM sessions WHERE name = ?1", [name])?;
        }
        Ok(())
    })
}

/// What sessions other than `own` may hold has this number or a greater one.
pub(super) fn oldest_other(c: &Connection, own: Session) -> rusqlite::Result<Session> {
    let question = "SELECT min(id) FROM sessions WHERE id <> ?1";
    let oldest: Option<i64> = c.query_row(question, [own.0], |row| row.get(0))?;
    Ok(Session(oldest.unwrap_or(i64::MAX)))
}

impl Store {
    /// Keeps layers, with their blobs, trees and indexes, from being removed while this process
    /// lives, and notes that they were used now.
    ///
    /// # Errors
    /// When one of them is not in the store (any more), or the database fails.
    pub fn hold(&self, layers: &[LayerId]) -> Result<(), StoreError> {
        let new: Vec<LayerId> = {
            let held = self.held();
            let new = layers.iter().filter(|layer| !held.layers.contains(layer));
            new.copied().collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        let session = self.inner.session;
        self.inner.database.write(|transaction| {
            let mut statement = transaction.prepare_cached(
                "UPDATE layers SET session = max(session, ?2), used = unixepoch() WHERE id = ?1",
            )?;
            for layer in &new {
                if statement.execute([layer.0, session.0])? == 0 {
                    return Err(StoreError::MissingLayer(*layer))?;
                }
            }
            Ok(())
        })?;
        self.held().layers.extend(new);
        Ok(())
    }

    /// As [`Store::hold`]; gives whether the layers are there.
    pub(super) fn try_hold(&self, layers: &[LayerId]) -> Result<bool, StoreError> {
        match self.hold(layers) {
            Ok(()) => Ok(true),
            Err(StoreError::MissingLayer(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes that builds stand on these layers: removing an image that has them doesn't remove
    /// them yet.
    ///
    /// # Errors
    /// When the database fails.
    pub fn mark_as_base(&self, layers: &[LayerId]) -> Result<(), StoreError> {
        let question = |c: &Connection| {
            let mut unmarked =
                c.prepare_cached("SELECT 1 FROM layers WHERE id = ?1 AND NOT base")?;
            let mut found = Vec::new();
            for layer in layers {
                if unmarked.exists([layer.0])? {
                    found.push(*layer);
                }
            }
            Ok(found)
        };
        let unmarked = self.inner.database.read(question)?;
        if unmarked.is_empty() {
            return Ok(());
        }
        self.inner.database.write(|transaction| {
            for layer in &unmarked {
                transaction.execute("UPDATE layers SET base = 1 WHERE id = ?1", [layer.0])?;
            }
            Ok(())
        })
    }

    /// Marks a blob; gives whether it is there.
    pub(super) fn hold_blob(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        if self.held().blobs.contains(digest) {
            return Ok(true);
        }
        let session = self.inner.session;
        let changed = self.inner.database.write(|transaction| {
            let mut statement = transaction.prepare_cached(
                "UPDATE blobs SET session = max(session, ?2), used = unixepoch() WHERE digest = ?1",
            )?;
            Ok(statement.execute(params![digest.0.as_bytes(), session.0])?)
        })?;
        if changed == 1 {
            self.held().blobs.insert(*digest);
        }
        Ok(changed == 1)
    }

    pub(super) fn hold_mount(&self, form: &str, id: &CacheKey) -> Result<(), StoreError> {
        let session = self.inner.session;
        self.inner.database.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO mounts (form, id, session, used) VALUES (?1, ?2, ?3, unixepoch())
                     ON CONFLICT (form, id) DO UPDATE SET
                         session = max(session, excluded.session),
                         used = excluded.used",
                )?
                .execute(params![form, id.as_bytes(), session.0])?;
            Ok(())
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        let held = self.inner.held.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }
}
