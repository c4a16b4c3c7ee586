//! What is remembered of work that was done: steps, operations, digests of folders, what a registry
//! or a server said.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Result, required_digest, required_time};
use crate::digest::{BlobDigest, CacheKey};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::download::DownloadRecord;
use crate::store::{CacheRecord, LayerId, RemoteRecord};

pub(in crate::store) fn cached(c: &Connection, key: &CacheKey) -> Result<Option<CacheRecord>> {
    c.prepare_cached("SELECT layer, created FROM cache WHERE key = ?1")?
        .query_row([key.as_bytes()], |row| {
            Ok(CacheRecord {
                layer: row.get::<_, Option<i64>>(0)?.map(LayerId),
                created: required_time(row, 1)?,
            })
        })
        .optional()
}

pub(in crate::store) fn put_cached(
    c: &Connection,
    key: &CacheKey,
    record: &CacheRecord,
) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO cache (key, layer, created) VALUES (?1, ?2, ?3)")?
        .execute(params![
            key.as_bytes(),
            record.layer.map(|id| id.0),
            record.created.to_string()
        ])
        .map(drop)
}

pub(in crate::store) fn delete_cached(c: &Connection, key: &CacheKey) -> Result<()> {
    c.prepare_cached("DELETE FROM cache WHERE key = ?1")?
        .execute([key.as_bytes()])
        .map(drop)
}

pub(in crate::store) fn has_operation(c: &Connection, key: &CacheKey) -> Result<bool> {
    c.prepare_cached("SELECT 1 FROM operations WHERE key = ?1")?
        .exists([key.as_bytes()])
}

pub(in crate::store) fn put_operation(c: &Connection, key: &CacheKey) -> Result<()> {
    c.prepare_cached("INSERT OR IGNORE INTO operations (key) VALUES (?1)")?
        .execute([key.as_bytes()])
        .map(drop)
}

pub(in crate::store) fn memo(c: &Connection, key: &CacheKey) -> Result<Option<Vec<u8>>> {
    c.prepare_cached("SELECT value FROM memos WHERE key = ?1")?
        .query_row([key.as_bytes()], |row| row.get(0))
        .optional()
}

pub(in crate::store) fn put_memo(c: &Connection, key: &CacheKey, value: &[u8]) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO memos (key, value) VALUES (?1, ?2)")?
        .execute(params![key.as_bytes(), value])
        .map(drop)
}

pub(in crate::store) fn directory(
    c: &Connection,
    device: u64,
    inode: u64,
) -> Result<Option<Vec<u8>>> {
    c.prepare_cached("SELECT digests FROM directories WHERE device = ?1 AND inode = ?2")?
        .query_row([device.cast_signed(), inode.cast_signed()], |row| {
            row.get(0)
        })
        .optional()
}

pub(in crate::store) fn put_directory(
    c: &Connection,
    device: u64,
    inode: u64,
    digests: &[u8],
) -> Result<()> {
    c.prepare_cached(
        "INSERT OR REPLACE INTO directories (device, inode, digests) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![device.cast_signed(), inode.cast_signed(), digests])
    .map(drop)
}

pub(in crate::store) fn remote(
    c: &Connection,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<RemoteRecord>> {
    c.prepare_cached(
        "SELECT manifest, checked_at FROM remotes WHERE reference = ?1 AND platform = ?2",
    )?
    .query_row([reference.to_string(), platform.to_string()], |row| {
        Ok(RemoteRecord {
            manifest: BlobDigest(required_digest(row, 0)?),
            checked_at: required_time(row, 1)?,
        })
    })
    .optional()
}

pub(in crate::store) fn put_remote(
    c: &Connection,
    reference: &Reference,
    platform: &Platform,
    record: &RemoteRecord,
) -> Result<()> {
    c.prepare_cached(
        "INSERT OR REPLACE INTO remotes (reference, platform, manifest, checked_at)
         VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        reference.to_string(),
        platform.to_string(),
        record.manifest.0.as_bytes(),
        record.checked_at.to_string()
    ])
    .map(drop)
}

pub(in crate::store) fn download(c: &Connection, url: &CacheKey) -> Result<Option<DownloadRecord>> {
    c.prepare_cached("SELECT digest, etag, last_modified, fetched FROM downloads WHERE url = ?1")?
        .query_row([url.as_bytes()], |row| {
            Ok(DownloadRecord {
                digest: BlobDigest(required_digest(row, 0)?),
                etag: row.get(1)?,
                last_modified: row.get(2)?,
                fetched: row.get(3)?,
            })
        })
        .optional()
}

pub(in crate::store) fn put_download(
    c: &Connection,
    url: &CacheKey,
    record: &DownloadRecord,
) -> Result<()> {
    c.prepare_cached(
        "INSERT OR REPLACE INTO downloads (url, digest, etag, last_modified, fetched)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        url.as_bytes(),
        record.digest.0.as_bytes(),
        record.etag,
        record.last_modified,
        record.fetched,
    ])
    .map(drop)
}
