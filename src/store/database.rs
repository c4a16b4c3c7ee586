//! The database's connection: opening, the format's version, transactions, errors.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::create_file;
use super::error::{Action, StoreError, free_bytes};
use super::sql;

/// How long to wait for another process's transaction. Transactions take milliseconds; only a
/// stopped process or a very slow disk makes one wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Marks the file as ours (SQLite's `application_id`): "rbld".
const APPLICATION_ID: i64 = 0x7262_6C64;

/// Size in bytes of the file that the database's readers and writers share at first.
const SHARED_FILE: u64 = 64 << 10;

/// The database of one store.
pub(super) struct Database {
    root: PathBuf,
    connection: Mutex<Connection>,
}

/// What ends a transaction early: the database's own error, which gets its context here, or one
/// that has it already.
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Database {
    /// Opens the database of the store at `root` and brings it to the current format. Only one
    /// process may do so at a time. `shared` says that the file system is a network's, on which
    /// a write-ahead log doesn't work.
    pub(super) fn open(root: &Path, shared: bool) -> Result<Self, StoreError> {
        let path = root.join("rbuild.db");
        match create_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).action("create", &path);
            }
            _ => {}
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let prepare = || {
            let mut connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(PATIENCE)?;
            connection.set_prepared_statement_cache_capacity(64);
            let mode = if shared { "DELETE" } else { "WAL" };
            connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            let version = migrate(&mut connection)?;
            Ok((connection, version))
        };
        let (connection, version) = prepare().map_err(|source| database_error(root, source))?;
        let known = sql::MIGRATIONS.len() as i64;
        if version > known {
            return Err(StoreError::NewerFormat {
                root: root.to_owned(),
                found: version,
                known,
            });
        }
        Ok(Self {
            root: root.to_owned(),
            connection: Mutex::new(connection),
        })
    }

    /// Asks one question.
    pub(super) fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        question(&self.connection()).map_err(|source| database_error(&self.root, source))
    }

    /// Changes rows in one transaction that waits for other processes' at its beginning, so
    /// that it never fails in its middle. An error rolls it back.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let run = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|failure| match failure {
            Failure::Sql(source) => database_error(&self.root, source),
            Failure::Store(error) => error,
        })
    }

    /// Gives the disk back what deleted rows took.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        self.read(|c| c.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);"))
    }

    /// A panic while the lock was held rolled its transaction back: the connection is sound.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings the tables to the newest format that is known; gives the version that they have then.
fn migrate(connection: &mut Connection) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let newest = sql::MIGRATIONS.len() as i64;
    let pending = usize::try_from(found)
        .ok()
        .and_then(|found| sql::MIGRATIONS.get(found..));
    let Some(pending) = pending else {
        return Ok(found);
    };
    for migration in pending {
        transaction.execute_batch(migration)?;
    }
    if !pending.is_empty() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", newest)?;
    }
    transaction.commit()?;
    Ok(newest)
}

/// Whether an error comes of a full disk, where `free` bytes are left.
fn means_full(code: Option<ErrorCode>, free: Option<u64>) -> bool {
    match code {
        Some(ErrorCode::DiskFull) => true,
        // There is no room for the file that readers and writers share, either, and SQLite calls
        // that a mere failure of the disk.
        Some(ErrorCode::SystemIoFailure) => free.is_some_and(|free| free < SHARED_FILE),
        _ => false,
    }
}

fn database_error(root: &Path, source: rusqlite::Error) -> StoreError {
    let code = source.sqlite_error_code();
    if means_full(code, free_bytes(root)) {
        return StoreError::full(root, source);
    }
    let hint = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ": another process has held it for a minute; see whether a stopped rbuild is left"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ": it is damaged; remove that folder, or set RBUILD_ROOT to another one"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ": it can't be written; check its permissions, or set RBUILD_ROOT to another folder"
        }
        _ => "",
    };
    StoreError::Database {
        root: root.to_owned(),
        hint,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        for (code, free, expected) in [
            (ErrorCode::DiskFull, None, true),
            (ErrorCode::DiskFull, Some(1 << 30), true),
            (ErrorCode::SystemIoFailure, Some(0), true),
            (ErrorCode::SystemIoFailure, Some(4096), true),
            (ErrorCode::SystemIoFailure, Some(1 << 30), false),
            (ErrorCode::SystemIoFailure, None, false),
            (ErrorCode::DatabaseCorrupt, Some(0), false),
        ] {
            assert_eq!(means_full(Some(code), free), expected, "{code:?} {free:?}");
        }
    }
}
