//! Failed steps that were kept: stacks of layers that stay until somebody removes them, each with a
//! text that says what it is. No cache record leads to the topmost layer, so that no build ever
//! takes it for a result.

use rusqlite::{Connection, OptionalExtension, params};

use super::error::StoreError;
use super::{LayerId, Store};
use crate::time::Timestamp;

/// A stack of layers that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Its number in this store, never used twice.
    pub id: i64,
    /// When it was kept.
    pub created: Timestamp,
    /// Its layers, lowest first.
    pub layers: Vec<LayerId>,
    /// What it is, in the words of whoever kept it.
    pub about: String,
}

impl Store {
    /// Keeps a stack of layers; gives its number. Killed before the end, this leaves a layer that
    /// nobody needs.
    ///
    /// # Errors
    /// When a layer is not in the store (any more), or the database fails.
    pub fn keep(&self, layers: &[LayerId], about: &str) -> Result<i64, StoreError> {
        self.inner.database.write(|transaction| {
            transaction.execute(
                "INSERT INTO kept (created, about) VALUES (?1, ?2)",
                params![Timestamp::now().seconds(), about],
            )?;
            let id = transaction.last_insert_rowid();
            let mut statement = transaction.prepare_cached(
                "INSERT INTO kept_layers (kept, position, layer)
                 SELECT ?1, ?2, id FROM layers WHERE id = ?3",
            )?;
            for (position, layer) in (0_i64..).zip(layers) {
                if statement.execute([id, position, layer.0])? == 0 {
                    return Err(StoreError::MissingLayer(*layer))?;
                }
            }
            Ok(id)
        })
    }

    /// All that is kept, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn kept(&self) -> Result<Vec<KeptRecord>, StoreError> {
        self.inner.database.read(|c| {
            let mut statement = c.prepare("SELECT id FROM kept ORDER BY id")?;
            let ids = statement.query_map([], |row| row.get(0))?;
            let ids = ids.collect::<rusqlite::Result<Vec<i64>>>()?;
            let records = ids.into_iter().map(|id| record(c, id));
            Ok(records
                .collect::<rusqlite::Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect())
        })
    }

    /// What is kept under a number.
    ///
    /// # Errors
    /// When the database fails.
    pub fn kept_record(&self, id: i64) -> Result<Option<KeptRecord>, StoreError> {
        self.inner.database.read(|c| record(c, id))
    }

    /// Keeps it no longer, and removes those of its layers that nothing else needs. Gives what was
    /// removed with it, or `None` where there was no such number.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_kept(&self, id: i64) -> Result<Option<super::Pruned>, StoreError> {
        let Some(record) = self.kept_record(id)? else {
            return Ok(None);
        };
        let removed = self
            .inner
            .database
            .write(|transaction| Ok(delete(transaction, id)?))?;
        match removed {
            true => self.release_layers(&record.layers).map(Some),
            false => Ok(None),
        }
    }
}

/// Removes the rows; gives whether there were any.
fn delete(c: &Connection, id: i64) -> rusqlite::Result<bool> {
    Ok(c.execute("DELETE FROM kept WHERE id = ?1", [id])? == 1)
}

/// Keeps nothing any longer that was kept before `before`. Gives how many that were.
pub(super) fn delete_before(c: &Connection, before: i64) -> rusqlite::Result<usize> {
    c.execute("DELETE FROM kept WHERE created < ?1", [before])
}

fn record(c: &Connection, id: i64) -> rusqlite::Result<Option<KeptRecord>> {
    let found = c
        .prepare_cached("SELECT created, about FROM kept WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((created, about)) = found else {
        return Ok(None);
    };
    let layers = c
        .prepare_cached("SELECT layer FROM kept_layers WHERE kept = ?1 ORDER BY position")?
        .query_map([id], |row| row.get(0).map(LayerId))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(KeptRecord {
        id,
        created: Timestamp::from_seconds(created),
        layers,
        about,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewLayer, Prune};

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn layers(store: &Store) -> Vec<LayerId> {
        let new = || store.create_layer(&NewLayer::default()).unwrap();
        vec![new(), new()]
    }

    #[test]
    fn what_is_kept_stays_until_it_is_removed() {
        let (folder, store) = store();
        let kept = layers(&store);
        let id = store.keep(&kept, "first").unwrap();
        drop(store);
        // Another process: nothing holds the layers any more.
        let store = Store::open(&folder.path().join("store")).unwrap();
        let record = store.kept_record(id).unwrap().unwrap();
        assert_eq!(
            (record.layers.as_slice(), record.about.as_str()),
            (kept.as_slice(), "first")
        );
        store.release_layers(&kept).unwrap();
        let cache = Prune {
            cache: true,
            before: Some(Timestamp::from_seconds(1)),
            ..Prune::default()
        };
        assert_eq!(store.prune(&cache).unwrap().kept_steps, 0);
        let small_enough = Prune {
            cache: true,
            keep: Some(1 << 40),
            ..Prune::default()
        };
        assert_eq!(store.prune(&small_enough).unwrap().kept_steps, 0);
        assert_eq!(store.kept().unwrap(), [record]);
        let removed = store.remove_kept(id).unwrap().unwrap();
        assert_eq!(removed.layers, 2);
        assert!(store.remove_kept(id).unwrap().is_none());
        assert!(store.layer(kept[0]).unwrap().is_none());
    }

    #[test]
    fn one_stack_may_be_kept_twice_and_numbers_are_not_used_again() {
        let (_folder, store) = store();
        let kept = layers(&store);
        let first = store.keep(&kept, "").unwrap();
        let second = store.keep(&kept, "").unwrap();
        assert_eq!(store.remove_kept(second).unwrap().unwrap().layers, 0);
        assert!(store.keep(&kept, "").unwrap() > second);
        let all = Prune {
            cache: true,
            ..Prune::default()
        };
        let pruned = store.prune(&all).unwrap();
        assert_eq!((pruned.kept_steps, pruned.layers), (2, 2));
        assert!(store.kept_record(first).unwrap().is_none());
    }

    #[test]
    fn a_layer_that_is_gone_is_not_kept() {
        let (_folder, store) = store();
        assert!(matches!(
            store.keep(&[LayerId(77)], ""),
            Err(StoreError::MissingLayer(LayerId(77)))
        ));
        assert!(store.kept().unwrap().is_empty());
    }
}
