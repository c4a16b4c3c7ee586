use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::digest::{BlobDigest, CacheKeyBuilder, ChainId, DiffId, Digest, ImageId};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::form::XattrNamespace;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::time::Timestamp;

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
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
    let chain_id = Some(ChainId(digest("chain")));
    let new = NewLayer {
        chain_id,
        diff_id: Some(DiffId(digest("diff"))),
        ..NewLayer::default()
    };
    let id = f.store.create_layer(new.clone()).unwrap();
    let plain_blob = Some(BlobDigest(digest("diff")));
    let again = NewLayer {
        plain_blob,
        size: Some(7),
        ..new
    };
    assert_eq!(f.reopened().create_layer(again).unwrap(), id);
    let expected = Layer {
        id,
        diff_id: Some(DiffId(digest("diff"))),
        chain_id,
        plain_blob,
        size: Some(7),
    };
    assert_eq!(
        f.store.layer_by_chain(&chain_id.unwrap()).unwrap(),
        Some(expected)
    );
    let built = f.store.create_layer(NewLayer::default()).unwrap();
    assert_ne!(f.store.create_layer(NewLayer::default()).unwrap(), built);
}

#[test]
fn a_diff_id_does_not_change() {
    let f = Fixture::new();
    let id = f.store.create_layer(NewLayer::default()).unwrap();
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
    let id = f.store.create_layer(NewLayer::default()).unwrap();
    let twin = f.store.create_layer(NewLayer::default()).unwrap();
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
    let id = f.store.create_layer(NewLayer::default()).unwrap();
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
    let id = f.store.create_layer(NewLayer::default()).unwrap();
    assert!(!f.store.has_content(id, &Form::root()).unwrap());
    let tree = f.store.new_tree(&Form::root()).unwrap();
    assert_eq!(tree.path().metadata().unwrap().mode() & 0o7777, 0o755);
    std::fs::write(tree.path().join("file"), "x").unwrap();
    let path = tree.commit(id).unwrap();
    assert_eq!(f.store.tree(id, &Form::root()).unwrap(), Some(path.clone()));
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"x");
    assert_eq!(f.store.tree(id, &user_form()).unwrap(), None);
    assert!(f.store.has_content(id, &Form::root()).unwrap());
    assert!(!f.store.has_content(id, &user_form()).unwrap());
}

#[test]
fn the_first_tree_stays() {
    let f = Fixture::new();
    let id = f.store.create_layer(NewLayer::default()).unwrap();
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
    let id = f.store.create_layer(NewLayer::default()).unwrap();
    let place = f.store.tree_path(id, &Form::root().id());
    std::fs::create_dir_all(place.join("left/behind")).unwrap();
    assert_eq!(f.store.tree(id, &Form::root()).unwrap(), None);
    let path = f.store.new_tree(&Form::root()).unwrap().commit(id).unwrap();
    assert_eq!(path.read_dir().unwrap().count(), 0);
}

#[test]
fn a_power_cut_takes_what_was_not_synced_and_what_hangs_on_it() {
    let f = Fixture::new();
    let base = |name: &str| NewLayer {
        plain_blob: Some(f.store.put_blob(name.as_bytes()).unwrap()),
        ..NewLayer::default()
    };
    let (kept, lost) = ("kept", "lost");
    let mut layers = BTreeMap::new();
    for name in [kept, lost] {
        let from_blob = f.store.create_layer(base(name)).unwrap();
        let from_tree = f.store.create_layer(NewLayer::default()).unwrap();
        f.store
            .new_tree(&Form::root())
            .unwrap()
            .commit(from_tree)
            .unwrap();
        for (step, layer) in [("blob", from_blob), ("tree", from_tree)] {
            let record = CacheRecord {
                layer: Some(layer),
                created: time(1),
            };
            f.store
                .record(&key(&format!("{name} {step}")), &record)
                .unwrap();
        }
        let id = ImageId(
            f.store
                .put_blob(format!("config {name}").as_bytes())
                .unwrap()
                .0,
        );
        let image = ImageRecord {
            id,
            layers: vec![from_blob, from_tree],
            platform: Platform::host(),
            created: None,
            size: 0,
        };
        f.store.put_image(&image).unwrap();
        f.store.tag(&name.parse().unwrap(), &id).unwrap();
        layers.insert(name, (from_blob, from_tree, id));
        if name == kept {
            f.store.sync().unwrap();
        }
    }
    // A record that makes no layer, and one whose layer can be had from a registry.
    let record = CacheRecord {
        layer: None,
        created: time(1),
    };
    f.store.record(&key("no layer"), &record).unwrap();
    let diff_id = DiffId(digest("remote"));
    let remote = NewLayer {
        diff_id: Some(diff_id),
        ..NewLayer::default()
    };
    let remote = f.store.create_layer(remote).unwrap();
    let compressed = CompressedBlob {
        digest: BlobDigest(digest("gz")),
        size: 1,
        media_type: "gz".to_owned(),
    };
    f.store.add_compressed_blob(&diff_id, &compressed).unwrap();
    f.store
        .record(
            &key("remote"),
            &CacheRecord {
                layer: Some(remote),
                created: time(1),
            },
        )
        .unwrap();

    f.reboot();
    let store = f.reopened();
    let (from_blob, from_tree, id) = layers[kept];
    assert!(store.has_content(from_blob, &Form::root()).unwrap());
    assert!(store.tree(from_tree, &Form::root()).unwrap().is_some());
    assert_eq!(store.resolve(&kept.parse().unwrap()).unwrap(), Some(id));
    for known in ["kept blob", "kept tree", "no layer", "remote"] {
        assert!(store.cached(&key(known)).unwrap().is_some(), "{known}");
    }
    let (from_blob, from_tree, id) = layers[lost];
    assert_eq!(store.layer(from_blob).unwrap().unwrap().plain_blob, None);
    assert_eq!(store.tree(from_tree, &Form::root()).unwrap(), None);
    assert!(!store.tree_path(from_tree, &Form::root().id()).exists());
    assert_eq!(store.resolve(&lost.parse().unwrap()).unwrap(), None);
    assert_eq!(store.image(&id).unwrap(), None);
    for unknown in ["lost blob", "lost tree"] {
        assert_eq!(store.cached(&key(unknown)).unwrap(), None, "{unknown}");
    }
}

#[test]
fn the_same_boot_loses_nothing() {
    let f = Fixture::new();
    let blob = f.store.put_blob(b"hello").unwrap();
    assert!(f.reopened().has_blob(&blob).unwrap());
}

#[test]
fn what_is_written_again_is_unsynced_again() {
    let f = Fixture::new();
    let blob = f.store.put_blob(b"hello").unwrap();
    f.store.sync().unwrap();
    std::fs::remove_file(f.root().join("blobs/sha256").join(blob.hex())).unwrap();
    f.store.put_blob(b"hello").unwrap();
    f.reboot();
    assert!(!f.reopened().has_blob(&blob).unwrap());
}

#[test]
fn records_memos_and_digests_are_remembered() {
    let f = Fixture::new();
    let layer = f.store.create_layer(NewLayer::default()).unwrap();
    let record = CacheRecord {
        layer: Some(layer),
        created: time(1_700_000_000),
    };
    f.store
        .record(
            &key("a"),
            &CacheRecord {
                layer: None,
                created: time(-1),
            },
        )
        .unwrap();
    f.store.record(&key("a"), &record).unwrap();
    assert_eq!(f.store.cached(&key("a")).unwrap(), Some(record));
    assert_eq!(f.store.cached(&key("b")).unwrap(), None);
    f.store.forget(&key("a")).unwrap();
    assert_eq!(f.store.cached(&key("a")).unwrap(), None);
    let unknown = CacheRecord {
        layer: Some(LayerId(99)),
        created: time(0),
    };
    assert!(f.store.record(&key("a"), &unknown).is_err());

    assert!(!f.store.has_operation(&key("a")).unwrap());
    f.store.record_operation(&key("a")).unwrap();
    f.store.record_operation(&key("a")).unwrap();
    assert!(f.store.has_operation(&key("a")).unwrap());

    f.store.put_memo(&key("a"), b"1").unwrap();
    f.store.put_memo(&key("a"), b"2").unwrap();
    assert_eq!(f.store.memo(&key("a")).unwrap().unwrap(), b"2");
    assert_eq!(f.store.memo(&key("b")).unwrap(), None);

    let digests = [(u64::MAX, 1, b"x".to_vec()), (1, u64::MAX, b"y".to_vec())];
    f.store.put_directory_digests(&digests).unwrap();
    assert_eq!(
        f.store.directory_digests(u64::MAX, 1).unwrap().unwrap(),
        b"x"
    );
    assert_eq!(
        f.store.directory_digests(1, u64::MAX).unwrap().unwrap(),
        b"y"
    );
    assert_eq!(f.store.directory_digests(1, 1).unwrap(), None);
}

#[test]
fn remote_names_are_remembered_by_platform() {
    let f = Fixture::new();
    let name: Reference = "alpine:3".parse().unwrap();
    let (here, there) = (
        Platform::new("linux", "amd64", None),
        Platform::new("linux", "arm64", None),
    );
    let record = RemoteRecord {
        manifest: BlobDigest(digest("m")),
        checked_at: time(5),
    };
    f.store.put_remote(&name, &here, &record).unwrap();
    assert_eq!(f.store.remote(&name, &here).unwrap(), Some(record));
    assert_eq!(f.store.remote(&name, &there).unwrap(), None);
}

#[test]
fn names_move_between_images() {
    let f = Fixture::new();
    let layer = f.store.create_layer(NewLayer::default()).unwrap();
    let image = |config: &str, created| ImageRecord {
        id: ImageId(f.store.put_blob(config.as_bytes()).unwrap().0),
        layers: vec![layer, layer],
        platform: Platform::new("linux", "arm", Some("v7")),
        created,
        size: 10,
    };
    let (old, new) = (image("old", Some(time(1))), image("new", Some(time(2))));
    let (app, other): (Reference, Reference) =
        ("app:1".parse().unwrap(), "other:1".parse().unwrap());
    for image in [&old, &new, &new] {
        f.store.put_image(image).unwrap();
        f.store.tag(&app, &image.id).unwrap();
    }
    f.store.tag(&other, &new.id).unwrap();
    assert_eq!(f.store.resolve(&app).unwrap(), Some(new.id));
    assert_eq!(f.store.image(&old.id).unwrap(), Some(old.clone()));
    let expected = vec![
        (vec![app.clone(), other.clone()], new.clone()),
        (vec![], old.clone()),
    ];
    assert_eq!(f.store.images().unwrap(), expected);
    assert!(f.store.untag(&app).unwrap());
    assert!(!f.store.untag(&app).unwrap());
    assert!(f.store.remove_image(&new.id).unwrap());
    assert_eq!(f.store.resolve(&other).unwrap(), None);
    assert_eq!(f.store.images().unwrap(), [(vec![], old)]);
}

#[test]
fn an_image_needs_its_config_and_layers() {
    let f = Fixture::new();
    let image = |config: &str, layer| ImageRecord {
        id: ImageId(digest(config)),
        layers: vec![LayerId(layer)],
        platform: Platform::host(),
        created: None,
        size: 0,
    };
    let missing = f.store.put_image(&image("missing", 1)).unwrap_err();
    assert!(matches!(missing, StoreError::MissingBlob(_)));
    f.store.put_blob(b"there").unwrap();
    let missing = f.store.put_image(&image("there", 99)).unwrap_err();
    assert!(matches!(missing, StoreError::MissingLayer(_)));
    assert!(
        f.store
            .tag(&"a:b".parse().unwrap(), &ImageId(digest("there")))
            .is_err()
    );
}

#[test]
fn a_lock_is_held_by_one_at_a_time() {
    let f = Fixture::new();
    let other = f.reopened();
    let held = f.store.lock(&key("a")).unwrap();
    assert!(other.try_lock(&key("a")).unwrap().is_none());
    assert!(other.try_lock(&key("b")).unwrap().is_some());
    let waiting = std::thread::spawn(move || other.lock(&key("a")).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(held);
    drop(waiting.join().unwrap());
    assert_eq!(f.names_in("locks"), [""; 0]);
}

#[test]
fn many_who_want_one_lock_get_it_one_by_one() {
    let f = Fixture::new();
    let counter = f.root().join("counter");
    std::fs::write(&counter, "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _lock = f.store.lock(&key("counter")).unwrap();
                    let count: u32 = std::fs::read_to_string(&counter).unwrap().parse().unwrap();
                    std::fs::write(&counter, (count + 1).to_string()).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string(&counter).unwrap(), "400");
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

#[test]
fn threads_and_processes_share_a_store() {
    let f = Fixture::new();
    let stores = [f.store.clone(), f.store.clone(), f.reopened(), f.reopened()];
    std::thread::scope(|scope| {
        for (number, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..20 {
                    let blob = store.put_blob(format!("blob {round}").as_bytes()).unwrap();
                    let new = NewLayer {
                        chain_id: Some(ChainId(digest(&format!("chain {round}")))),
                        plain_blob: Some(blob),
                        ..NewLayer::default()
                    };
                    let layer = store.create_layer(new).unwrap();
                    store
                        .new_tree(&Form::root())
                        .unwrap()
                        .commit(layer)
                        .unwrap();
                    let record = CacheRecord {
                        layer: Some(layer),
                        created: time(number as i64),
                    };
                    store
                        .record(&key(&format!("step {round}")), &record)
                        .unwrap();
                }
            });
        }
    });
    let layers: i64 = f
        .sql()
        .query_row("SELECT count(*) FROM layers", [], |row| row.get(0))
        .unwrap();
    assert_eq!(layers, 20);
}

const CHILD: &str = "RBUILD_TEST_STORE_OF_CHILD";

/// What the child of the next test does until it is killed.
#[test]
#[ignore = "never ends by itself: run by `a_kill_at_any_time_leaves_no_wrong_row`"]
fn write_until_killed() {
    let root = PathBuf::from(std::env::var_os(CHILD).unwrap());
    let store = Store::open(&root).unwrap();
    println!("ready");
    for round in 0_u64.. {
        let content =
            format!("{} {round}", std::process::id()).repeat(1 + (round as usize % 7) * 3000);
        let mut writer = store.ingest().unwrap();
        for piece in content.as_bytes().chunks(4096) {
            writer.write_all(piece).unwrap();
        }
        let (blob, _) = writer.commit(None).unwrap();
        let layer = store
            .create_layer(NewLayer {
                plain_blob: Some(blob),
                ..NewLayer::default()
            })
            .unwrap();
        store
            .put_index(layer, &index(&format!("round {round}")))
            .unwrap();
        let tree = store.new_tree(&Form::root()).unwrap();
        std::fs::create_dir(tree.path().join("full")).unwrap();
        std::fs::write(tree.path().join("full/file"), layer.0.to_string()).unwrap();
        tree.commit(layer).unwrap();
        let record = CacheRecord {
            layer: Some(layer),
            created: time(0),
        };
        store.record(&key(&content), &record).unwrap();
    }
}

#[test]
fn a_kill_at_any_time_leaves_no_wrong_row() {
    let f = Fixture::new();
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..12 {
        let mut children: Vec<_> = (0..2).map(|_| spawn_writer(&f.root())).collect();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 60_000));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        verify(&f.reopened(), &f.sql());
    }
    assert_eq!(
        f.names_in("tmp").len(),
        2,
        "only this process's own folder and lock"
    );
    let layers: i64 = f
        .sql()
        .query_row("SELECT count(*) FROM layers", [], |row| row.get(0))
        .unwrap();
    assert!(
        layers > 12,
        "the children wrote {layers} layers: too few to mean anything"
    );
}

fn spawn_writer(root: &Path) -> std::process::Child {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "store::tests::write_until_killed",
        ])
        .env(CHILD, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    child
}

/// Every row has its bytes.
fn verify(store: &Store, sql: &rusqlite::Connection) {
    let mut blobs = sql.prepare("SELECT digest FROM blobs").unwrap();
    for bytes in blobs
        .query_map([], |row| row.get::<_, [u8; 32]>(0))
        .unwrap()
    {
        let blob = BlobDigest(Digest::from_bytes(bytes.unwrap()));
        assert!(
            store.read_verified(&blob, 1 << 20).unwrap().is_some(),
            "{blob}"
        );
    }
    let mut trees = sql.prepare("SELECT layer FROM trees").unwrap();
    for layer in trees.query_map([], |row| row.get(0).map(LayerId)).unwrap() {
        let layer = layer.unwrap();
        let path = store.tree(layer, &Form::root()).unwrap().unwrap();
        assert_eq!(
            std::fs::read_to_string(path.join("full/file")).unwrap(),
            layer.0.to_string()
        );
    }
    let mut indexes = sql
        .prepare("SELECT id FROM layers WHERE entries IS NOT NULL")
        .unwrap();
    for layer in indexes
        .query_map([], |row| row.get(0).map(LayerId))
        .unwrap()
    {
        assert!(store.index(layer.unwrap()).unwrap().is_some());
    }
    let mut records = sql.prepare("SELECT layer FROM cache").unwrap();
    for layer in records
        .query_map([], |row| row.get(0).map(LayerId))
        .unwrap()
    {
        assert!(store.has_content(layer.unwrap(), &Form::root()).unwrap());
    }
}
