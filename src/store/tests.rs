use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::*;
use crate::digest::{BlobDigest, CacheKeyBuilder, ChainId, DiffId, Digest, ImageId};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::form::XattrNamespace;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::time::Timestamp;

mod crash;
mod prune;
mod records;
mod sharing;

/// A store in a folder of its own.
pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) store: Store,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn reopened(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }

    /// A second connection, to see and change what no method does.
    fn sql(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.root().join("rbuild.db")).unwrap()
    }

    /// Makes everything look as if written before the machine was last started.
    fn reboot(&self) {
        let sql = self.sql();
        sql.execute_batch("UPDATE blobs SET boot = 'before'; UPDATE trees SET boot = 'before';")
            .unwrap();
    }

    fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = self.root().join(folder).read_dir().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn key(text: &str) -> CacheKey {
    CacheKeyBuilder::new("test").field(text.as_bytes()).finish()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn index(path: &str) -> Index {
    Index::new(vec![Entry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::Directory { opaque: false },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        size: 0,
        link: Vec::new(),
        device: (0, 0),
        xattrs: BTreeMap::new(),
        offset: None,
    }])
}

fn user_form() -> Form {
    Form {
        xattr_namespace: XattrNamespace::User,
        ..Form::root()
    }
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

#[test]
fn blobs_come_back_as_they_went_in() {
    let f = Fixture::new();
    let blob = f.store.put_blob(b"hello").unwrap();
    assert_eq!(blob, BlobDigest(digest("hello")));
    assert_eq!(f.store.read_verified(&blob, 5).unwrap().unwrap(), b"hello");
    assert_eq!(f.store.read_verified(&blob, 4).unwrap(), None);
    assert_eq!(f.store.blob_size(&blob).unwrap(), Some(5));
    assert!(!f.store.has_blob(&BlobDigest(digest("other"))).unwrap());
    assert_eq!(f.names_in("blobs/sha256"), [blob.hex()]);
}

#[test]
fn a_blob_that_is_not_what_was_announced_leaves_nothing() {
    let f = Fixture::new();
    let mut writer = f.store.ingest().unwrap();
    writer.write_all(b"hello").unwrap();
    let error = writer
        .commit(Some(BlobDigest(digest("other"))))
        .unwrap_err();
    assert!(matches!(error, StoreError::WrongDigest { .. }));
    let mut dropped = f.store.ingest().unwrap();
    dropped.write_all(b"hello").unwrap();
    drop(dropped);
    assert!(!f.store.has_blob(&BlobDigest(digest("hello"))).unwrap());
    assert_eq!(f.names_in("blobs/sha256"), [""; 0]);
    assert_eq!(
        f.store.inner.temporary.path().read_dir().unwrap().count(),
        0
    );
}

#[test]
fn the_same_blob_may_come_from_two_sides() {
    let f = Fixture::new();
    let other = f.reopened();
    let mut writers = [f.store.ingest().unwrap(), other.ingest().unwrap()];
    for writer in &mut writers {
        writer.write_all(b"hello").unwrap();
    }
    for writer in writers {
        assert_eq!(
            writer.commit(None).unwrap(),
            (BlobDigest(digest("hello")), 5)
        );
    }
    assert!(other.has_blob(&BlobDigest(digest("hello"))).unwrap());
}

#[test]
fn a_lost_or_damaged_blob_is_absent_and_can_come_again() {
    let f = Fixture::new();
    let blob = f.store.put_blob(b"hello").unwrap();
    let path = f.root().join("blobs/sha256").join(blob.hex());
    std::fs::remove_file(&path).unwrap();
    assert!(!f.store.has_blob(&blob).unwrap());
    f.store.put_blob(b"hello").unwrap();
    std::fs::write(&path, b"hell").unwrap();
    assert!(!f.store.has_blob(&blob).unwrap());
    f.store.put_blob(b"hello").unwrap();
    std::fs::write(&path, b"jello").unwrap();
    assert_eq!(f.store.read_verified(&blob, 9).unwrap(), None);
    f.store.put_blob(b"hello").unwrap();
    assert_eq!(f.store.read_verified(&blob, 9).unwrap().unwrap(), b"hello");
}

#[test]
fn base_layers_are_one_by_chain_id() {
    let f = Fixture::new();
    let chain_id = ChainId(digest("chain"));
    let new = NewLayer {
        chain_id: Some(chain_id),
        diff_id: Some(DiffId(digest("diff"))),
        ..NewLayer::default()
    };
    let id = f.store.create_layer(&new).unwrap();
    let plain_blob = Some(BlobDigest(digest("diff")));
    let again = NewLayer {
        plain_blob,
        size: Some(7),
        ..new
    };
    assert_eq!(f.reopened().create_layer(&again).unwrap(), id);
    let expected = Layer {
        id,
        diff_id: Some(DiffId(digest("diff"))),
        chain_id: Some(chain_id),
        plain_blob,
        size: Some(7),
    };
    assert_eq!(f.store.layer_by_chain(&chain_id).unwrap(), Some(expected));
    let built = f.store.create_layer(&NewLayer::default()).unwrap();
    assert_ne!(f.store.create_layer(&NewLayer::default()).unwrap(), built);
}

#[test]
fn a_diff_id_does_not_change() {
    let f = Fixture::new();
    let id = f.store.create_layer(&NewLayer::default()).unwrap();
    f.store.set_diff_id(id, DiffId(digest("a")), 1).unwrap();
    f.store.set_diff_id(id, DiffId(digest("a")), 1).unwrap();
    let error = f.store.set_diff_id(id, DiffId(digest("b")), 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("{id} has diff ID {}", digest("a"))),
        "{error}"
    );
    assert!(matches!(
        f.store.set_diff_id(LayerId(99), DiffId(digest("b")), 1),
        Err(StoreError::MissingLayer(LayerId(99)))
    ));
}

#[test]
fn compressed_forms_are_known_by_diff_id() {
    let f = Fixture::new();
    let diff_id = DiffId(digest("plain"));
    let blob = |text: &str, media_type: &str| CompressedBlob {
        digest: BlobDigest(digest(text)),
        size: 3,
        media_type: media_type.to_owned(),
        is_verified: false,
    };
    let (gzip, zstd) = (blob("z", "tar+gzip"), blob("a", "tar+zstd"));
    for blob in [&zstd, &gzip, &gzip] {
        f.store.add_compressed_blob(&diff_id, blob).unwrap();
    }
    assert_eq!(f.store.compressed_blobs(&diff_id).unwrap(), [gzip, zstd]);
    assert_eq!(f.store.compressed_blobs(&DiffId(digest("b"))).unwrap(), []);
}

#[test]
fn an_index_serves_all_layers_of_its_diff_id() {
    let f = Fixture::new();
    let id = f.store.create_layer(&NewLayer::default()).unwrap();
    let twin = f.store.create_layer(&NewLayer::default()).unwrap();
    f.store.put_index(id, &index("a")).unwrap();
    assert_eq!(f.store.index(twin).unwrap(), None);
    for id in [id, twin] {
        f.store.set_diff_id(id, DiffId(digest("a")), 1).unwrap();
    }
    assert_eq!(*f.store.index(twin).unwrap().unwrap(), index("a"));
    assert_eq!(*f.reopened().index(id).unwrap().unwrap(), index("a"));
    assert!(f.store.put_index(LayerId(99), &index("a")).is_err());
}

#[test]
fn a_damaged_index_is_none() {
    let f = Fixture::new();
    let id = f.store.create_layer(&NewLayer::default()).unwrap();
    f.store.put_index(id, &index("a")).unwrap();
    let name = &f.names_in("indexes")[0];
    // A sound index, but not the one that the name stands for.
    std::fs::write(f.root().join("indexes").join(name), index("b").to_bytes()).unwrap();
    let other = f.reopened();
    assert_eq!(other.index(id).unwrap(), None);
    other.put_index(id, &index("a")).unwrap();
    assert_eq!(*f.reopened().index(id).unwrap().unwrap(), index("a"));
}

#[test]
fn a_tree_belongs_to_a_layer_and_a_form() {
    let f = Fixture::new();
    let id = f.store.create_layer(&NewLayer::default()).unwrap();
    let tree = f.store.new_tree(&Form::root()).unwrap();
    assert_eq!(tree.path().metadata().unwrap().mode() & 0o7777, 0o755);
    std::fs::write(tree.path().join("file"), "x").unwrap();
    let path = tree.commit(id).unwrap();
    assert_eq!(f.store.tree(id, &Form::root()).unwrap(), Some(path.clone()));
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"x");
    assert_eq!(f.store.tree(id, &user_form()).unwrap(), None);
}

#[test]
fn the_first_tree_stays() {
    let f = Fixture::new();
    let id = f.store.create_layer(&NewLayer::default()).unwrap();
    let trees = [
        f.store.new_tree(&Form::root()).unwrap(),
        f.reopened().new_tree(&Form::root()).unwrap(),
    ];
    let paths = trees.map(|tree| {
        std::fs::write(tree.path().join("file"), format!("{:?}", tree.path())).unwrap();
        let content = std::fs::read(tree.path().join("file")).unwrap();
        (tree.commit(id).unwrap(), content)
    });
    assert_eq!(paths[0].0, paths[1].0);
    assert_eq!(std::fs::read(paths[1].0.join("file")).unwrap(), paths[0].1);
    let nobodys = f.store.new_tree(&Form::root()).unwrap();
    let path = nobodys.path().to_owned();
    assert!(matches!(
        nobodys.commit(LayerId(99)),
        Err(StoreError::MissingLayer(_))
    ));
    assert!(!path.exists());
}

#[test]
fn a_folder_without_a_row_makes_way() {
    let f = Fixture::new();
    let id = f.store.create_layer(&NewLayer::default()).unwrap();
    let place = f.store.tree_path(id, &Form::root().id());
    std::fs::create_dir_all(place.join("left/behind")).unwrap();
    assert_eq!(f.store.tree(id, &Form::root()).unwrap(), None);
    let path = f.store.new_tree(&Form::root()).unwrap().commit(id).unwrap();
    assert_eq!(path.read_dir().unwrap().count(), 0);
}

#[test]
fn work_in_progress_goes_with_its_owner_only() {
    let f = Fixture::new();
    let scratch = f.store.scratch().unwrap();
    let path = scratch.path().to_owned();
    // As a killed process leaves it: the folder without a holder of its lock.
    let stale = f.root().join("tmp/0123");
    std::fs::create_dir_all(stale.join("deep")).unwrap();
    std::fs::write(f.root().join("tmp/0123.lock"), "").unwrap();
    let other = f.reopened();
    assert!(path.exists());
    assert!(!stale.exists());
    drop(scratch);
    assert!(!path.exists());
    drop(other);
    assert_eq!(f.names_in("tmp").len(), 2);
}

#[test]
fn no_depth_and_no_mode_keeps_work_in_progress_from_going() {
    use rustix::fs::{Mode, OFlags};
    let f = Fixture::new();
    let scratch = f.store.scratch().unwrap();
    let path = scratch.path().to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    std::fs::create_dir_all(path.join("closed/folder")).unwrap();
    std::fs::set_permissions(path.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
    drop(scratch);
    assert!(!path.exists());
}

#[test]
fn cache_mounts_stay_where_they_are() {
    let f = Fixture::new();
    let path = f.store.cache_mount(&key("id"), &Form::root()).unwrap();
    std::fs::write(path.join("file"), "x").unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(
        f.reopened().cache_mount(&key("id"), &Form::root()).unwrap(),
        path
    );
    assert!(path.join("file").exists());
    assert_ne!(f.store.cache_mount(&key("id"), &user_form()).unwrap(), path);
    assert_ne!(
        f.store.cache_mount(&key("di"), &Form::root()).unwrap(),
        path
    );
}

#[test]
fn nobody_else_can_look_inside() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o777)).unwrap();
    let store = Store::open(&root).unwrap();
    let blob = store.put_blob(b"x").unwrap();
    let mode = |path: &str| root.join(path).metadata().unwrap().mode() & 0o077;
    for path in [".", "blobs", "trees", "tmp", "rbuild.db"] {
        assert_eq!(mode(path), 0, "{path}");
    }
    assert_eq!(mode(&format!("blobs/sha256/{}", blob.hex())), 0);
}

#[test]
fn a_folder_full_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "x").unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_store_of_somebody_else_is_refused_with_the_fix() {
    if rustix::process::geteuid().is_root() {
        let f = Fixture::new();
        std::os::unix::fs::chown(f.root(), Some(12345), None).unwrap();
        let error = Store::open(&f.root()).unwrap_err().to_string();
        assert!(
            error.contains("belongs to user 12345, this is user 0"),
            "{error}"
        );
        assert!(error.contains("RBUILD_ROOT"), "{error}");
    } else {
        let error = Store::open(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("belongs to user 0"), "{error}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let f = Fixture::new();
    f.sql().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&f.root()).unwrap_err();
    assert!(
        matches!(error, StoreError::NewerFormat { found: 99, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("newer rbuild"), "{error}");
}

#[test]
fn a_damaged_database_is_said() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rbuild.db"), vec![b'x'; 4096]).unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it is damaged"), "{error}");
}

#[test]
fn a_store_may_be_reached_by_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    std::os::unix::fs::symlink("disk", &link).unwrap();
    let store = Store::open(&link).unwrap();
    assert!(store.root().ends_with("disk"));
}
