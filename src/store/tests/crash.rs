//! Kills and power cuts.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

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
        let from_blob = f.store.create_layer(&base(name)).unwrap();
        let from_tree = f.store.create_layer(&NewLayer::default()).unwrap();
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
    let remote = f.store.create_layer(&remote).unwrap();
    let compressed = CompressedBlob {
        digest: BlobDigest(digest("gz")),
        size: 1,
        media_type: "gz".to_owned(),
        is_verified: false,
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
    let plain_blob = store.layer(from_blob).unwrap().unwrap().plain_blob.unwrap();
    assert!(store.has_blob(&plain_blob).unwrap());
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

const CHILD: &str = "RBUILD_TEST_STORE_OF_CHILD";
const KIND: &str = "RBUILD_TEST_KIND_OF_CHILD";

/// What the children of the next test do until they are killed. One writes small blobs only, as
/// fast as it can, so that a kill often comes between the steps of one.
#[test]
#[ignore = "never ends by itself: run by `a_kill_at_any_time_leaves_no_wrong_row`"]
fn write_until_killed() {
    let root = PathBuf::from(std::env::var_os(CHILD).unwrap());
    let write = match std::env::var(KIND).unwrap().as_str() {
        "blobs" => write_blob,
        _ => write_layer,
    };
    let store = Store::open(&root).unwrap();
    println!("ready");
    for round in 0_usize.. {
        write(&store, &format!("{} {round}", std::process::id()), round);
    }
}

fn write_blob(store: &Store, name: &str, _: usize) {
    store.put_blob(name.as_bytes()).unwrap();
}

fn write_layer(store: &Store, name: &str, round: usize) {
    let mut writer = store.ingest().unwrap();
    for piece in name.repeat(1 + (round % 7) * 3000).as_bytes().chunks(4096) {
        writer.write_all(piece).unwrap();
    }
    let (blob, _) = writer.commit(None).unwrap();
    let new = NewLayer {
        plain_blob: Some(blob),
        ..NewLayer::default()
    };
    let layer = store.create_layer(&new).unwrap();
    store.put_index(layer, &index(name)).unwrap();
    let tree = store.new_tree(&Form::root()).unwrap();
    std::fs::create_dir(tree.path().join("full")).unwrap();
    std::fs::write(tree.path().join("full/file"), layer.0.to_string()).unwrap();
    tree.commit(layer).unwrap();
    let record = CacheRecord {
        layer: Some(layer),
        created: time(0),
    };
    store.record(&key(name), &record).unwrap();
}

#[test]
fn a_kill_at_any_time_leaves_no_wrong_row() {
    let f = Fixture::new();
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..25 {
        let mut children = ["blobs", "blobs", "layers"].map(|kind| spawn_writer(&f.root(), kind));
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 20_000));
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
    let count = |table: &str| -> i64 {
        let question = format!("SELECT count(*) FROM {table}");
        f.sql().query_row(&question, [], |row| row.get(0)).unwrap()
    };
    let (blobs, layers) = (count("blobs"), count("layers"));
    assert!(
        blobs > 100 && layers > 25,
        "{blobs} blobs, {layers} layers: too few to mean anything"
    );
}

fn spawn_writer(root: &Path, kind: &str) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "store::tests::crash::write_until_killed",
        ])
        .env(CHILD, root)
        .env(KIND, kind)
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
        assert!(store.tree(layer.unwrap(), &Form::root()).unwrap().is_some());
    }
}
