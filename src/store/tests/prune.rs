//! What pruning removes, what it must not, and what it does about others who are at work.

use super::*;
use crate::store::{Prune, PruneImages, Pruned};

/// A layer with a blob, an index and a tree.
fn layer(store: &Store, text: &str) -> LayerId {
    let blob = store.put_blob(text.as_bytes()).unwrap();
    let layer = store
        .create_layer(&NewLayer {
            diff_id: Some(DiffId(blob.0)),
            plain_blob: Some(blob),
            ..NewLayer::default()
        })
        .unwrap();
    store.put_index(layer, &index(text)).unwrap();
    let tree = store.new_tree(&Form::root()).unwrap();
    std::fs::write(tree.path().join("file"), text).unwrap();
    tree.commit(layer).unwrap();
    layer
}

/// An image of these layers.
fn image(store: &Store, layers: &[LayerId]) -> ImageId {
    let config = format!("{layers:?}");
    let BlobDigest(digest) = store.put_blob(config.as_bytes()).unwrap();
    let image = ImageRecord {
        id: ImageId(digest),
        layers: layers.to_vec(),
        platform: Platform::host(),
        created: None,
        size: 0,
    };
    store.put_image(&image).unwrap();
    image.id
}

fn name(text: &str) -> Reference {
    text.parse::<Reference>().unwrap().with_default_tag()
}

const DANGLING: Prune = Prune {
    images: PruneImages::Dangling,
    cache: true,
    memory: false,
    before: None,
    keep: None,
};

const ALL: Prune = Prune {
    images: PruneImages::All,
    memory: true,
    ..DANGLING
};

fn prune(store: &Store, what: &Prune) -> Pruned {
    let pruned = store.prune(what).unwrap();
    assert!(pruned.left.is_empty(), "{:?}", pruned.left);
    pruned
}

impl Fixture {
    /// Makes everything look as if nobody had used it for this many seconds.
    fn age(&self, seconds: i64, what: &str) {
        let sql = self.sql();
        let change = format!("UPDATE {what} SET used = used - {seconds}");
        assert_ne!(sql.execute(&change, []).unwrap(), 0, "{change}");
    }

    /// How many blobs, indexes, trees and layers there are.
    fn counts(&self) -> [usize; 4] {
        let tree_folders = self.names_in("trees").into_iter();
        let trees = tree_folders.map(|form| self.names_in(&format!("trees/{form}")).len());
        let layers: i64 = self
            .sql()
            .query_row("SELECT count(*) FROM layers", [], |row| row.get(0))
            .unwrap();
        [
            self.names_in("blobs/sha256").len(),
            self.names_in("indexes").len(),
            trees.sum(),
            usize::try_from(layers).unwrap(),
        ]
    }
}

#[test]
fn what_a_named_image_needs_stays_and_the_rest_goes() {
    let f = Fixture::new();
    let [base, app, old, cached] = ["base", "app", "old", "cached"].map(|n| layer(&f.store, n));
    let kept = image(&f.store, &[base, app]);
    f.store.tag(&name("app"), &kept).unwrap();
    let dangling = image(&f.store, &[base, old]);
    let record = CacheRecord {
        layer: Some(cached),
        created: time(0),
    };
    f.store.record(&key("cached"), &record).unwrap();
    f.store.put_blob(b"a manifest of a base image").unwrap();
    assert_eq!(f.counts(), [7, 4, 4, 4]);

    let pruned = prune(&f.store, &DANGLING);
    assert_eq!(pruned.images, [(dangling, vec![])]);
    assert_eq!(pruned.layers, 2);
    assert!(pruned.bytes > 0);
    assert_eq!(f.counts(), [3, 2, 2, 2]);
    assert_eq!(f.store.cached(&key("cached")).unwrap(), None);
    let layers = f.store.image(&kept).unwrap().unwrap().layers;
    assert_eq!(layers, [base, app]);
    for layer in layers {
        assert!(f.store.tree(layer, &Form::root()).unwrap().is_some());
        assert!(f.store.index(layer).unwrap().is_some());
    }
    assert_eq!(prune(&f.store, &DANGLING).bytes, 0);
}

#[test]
fn all_leaves_nothing() {
    let f = Fixture::new();
    let id = image(&f.store, &[layer(&f.store, "base")]);
    f.store.tag(&name("app"), &id).unwrap();
    f.store.tag(&name("app:1"), &id).unwrap();
    layer(&f.store, "cached");
    f.store.put_memo(&key("memo"), b"value").unwrap();
    let mount = f.store.cache_mount(&key("mount"), &user_form()).unwrap();
    std::fs::write(mount.join("file"), "cached").unwrap();

    let pruned = prune(&f.store, &ALL);
    assert_eq!(pruned.images, [(id, vec![name("app:1"), name("app")])]);
    assert_eq!((pruned.layers, pruned.cache_mounts), (2, 1));
    assert_eq!(f.counts(), [0, 0, 0, 0]);
    assert!(!mount.exists());
    assert_eq!(f.store.memo(&key("memo")).unwrap(), None);
    // The store goes on.
    layer(&f.store, "again");
    assert_eq!(f.counts(), [1, 1, 1, 1]);
}

#[test]
fn layers_share_blobs_and_indexes() {
    let f = Fixture::new();
    let first = layer(&f.store, "same");
    layer(&f.store, "same");
    let id = image(&f.store, &[first]);
    f.store.tag(&name("app"), &id).unwrap();
    assert_eq!(f.counts(), [2, 1, 2, 2]);
    prune(&f.store, &DANGLING);
    assert_eq!(f.counts(), [2, 1, 1, 1]);
    assert!(f.store.index(first).unwrap().is_some());
}

#[test]
fn what_another_process_uses_stays_until_it_ends() {
    let f = Fixture::new();
    let [used, unused] = ["used", "unused"].map(|n| layer(&f.store, n));
    let record = CacheRecord {
        layer: Some(used),
        created: time(0),
    };
    f.store.record(&key("used"), &record).unwrap();
    f.store.cache_mount(&key("mount"), &Form::root()).unwrap();

    let other = f.reopened();
    assert!(other.cached(&key("used")).unwrap().is_some());
    other.cache_mount(&key("mount"), &Form::root()).unwrap();
    let untagged_yet = image(&other, &[used]);
    let pruned = prune(&f.store, &ALL);
    assert_eq!((pruned.layers, pruned.cache_mounts), (1, 0));
    assert!(pruned.images.is_empty());
    assert!(f.store.layer(unused).unwrap().is_none());
    other.tag(&name("app"), &untagged_yet).unwrap();
    assert!(other.tree(used, &Form::root()).unwrap().is_some());

    drop(other);
    let pruned = prune(&f.store, &ALL);
    assert_eq!((pruned.layers, pruned.cache_mounts), (1, 1));
    assert_eq!(f.counts(), [0, 0, 0, 0]);
}

#[test]
fn an_older_process_is_not_forgotten_because_a_newer_one_used_the_same() {
    let f = Fixture::new();
    let used = layer(&f.store, "used");
    let older = f.reopened();
    older.hold(&[used]).unwrap();
    let newer = f.reopened();
    newer.hold(&[used]).unwrap();
    drop(newer);
    assert_eq!(prune(&f.store, &ALL).layers, 0);
    drop(older);
    assert_eq!(prune(&f.store, &ALL).layers, 1);
}

#[test]
fn what_is_gone_can_not_be_held() {
    let f = Fixture::new();
    let gone = layer(&f.store, "gone");
    let other = f.reopened();
    prune(&f.store, &ALL);
    assert!(matches!(other.hold(&[gone]), Err(StoreError::MissingLayer(id)) if id == gone));
    let blob = BlobDigest(digest("gone"));
    assert!(!other.has_blob(&blob).unwrap());
}

#[test]
fn age_is_the_time_since_the_last_use() {
    let f = Fixture::new();
    layer(&f.store, "old");
    f.age(7200, "layers");
    f.age(7200, "blobs");
    let young = layer(&f.store, "young");
    let an_hour_ago = time(Timestamp::now().seconds() - 3600);
    let older = Prune {
        before: Some(an_hour_ago),
        ..ALL
    };
    assert_eq!(prune(&f.store, &older).layers, 1);
    assert!(f.store.layer(young).unwrap().is_some());
}

#[test]
fn the_least_recently_used_goes_first_until_the_rest_fits() {
    let f = Fixture::new();
    let big = "x".repeat(1 << 20);
    let layers: Vec<LayerId> = (0..4)
        .map(|n| {
            let layer = layer(&f.store, &format!("{n}{big}"));
            let change = format!("UPDATE layers SET used = {n} WHERE id = {}", layer.0);
            f.sql().execute(&change, []).unwrap();
            layer
        })
        .collect();
    // Each takes two megabytes, blob and tree.
    let keep = Prune {
        keep: Some(5 << 20),
        ..DANGLING
    };
    let pruned = prune(&f.store, &keep);
    assert_eq!(pruned.layers, 2);
    let is_left = |id: &LayerId| f.store.layer(*id).unwrap().is_some();
    let left: Vec<bool> = layers.iter().map(is_left).collect();
    assert_eq!(left, [false, false, true, true]);
    assert_eq!(prune(&f.store, &keep).layers, 0);
}

#[test]
fn files_without_rows_are_swept() {
    let f = Fixture::new();
    layer(&f.store, "here");
    let id = image(&f.store, &[layer(&f.store, "kept")]);
    f.store.tag(&name("app"), &id).unwrap();
    let before = f.counts();
    let form = Form::root().id();
    for path in [
        format!("blobs/sha256/{}", digest("lost").hex()),
        "blobs/sha256/not-a-digest".to_owned(),
        format!("indexes/{}", key("lost").hex()),
        format!("trees/{form}/4711"),
        format!("trees/{form}/odd"),
    ] {
        std::fs::write(f.root().join(path), "lost").unwrap();
    }
    let images_only = Prune {
        cache: false,
        ..DANGLING
    };
    prune(&f.store, &images_only);
    assert_ne!(f.counts(), before);
    prune(&f.store, &DANGLING);
    assert_eq!(f.counts(), [2, 1, 1, 1]);
}

#[test]
fn an_image_takes_along_only_what_no_build_needs() {
    let f = Fixture::new();
    let [pulled, base, built] = ["pulled", "base", "built"].map(|n| layer(&f.store, n));
    f.store.mark_as_base(&[base]).unwrap();
    let record = CacheRecord {
        layer: Some(built),
        created: time(0),
    };
    f.store.record(&key("built"), &record).unwrap();
    let id = image(&f.store, &[pulled, base, built]);
    let other = image(&f.store, &[pulled]);
    f.store.remove_image(&id).unwrap();
    assert_eq!(
        f.store
            .release_layers(&[pulled, base, built])
            .unwrap()
            .layers,
        0
    );
    f.store.remove_image(&other).unwrap();
    assert_eq!(
        f.store
            .release_layers(&[pulled, base, built])
            .unwrap()
            .layers,
        1
    );
    assert!(f.store.layer(pulled).unwrap().is_none());
}

#[test]
fn usage_says_whose_every_byte_is() {
    let f = Fixture::new();
    let [used, cached] = ["used", "cached"].map(|n| layer(&f.store, n));
    let id = image(&f.store, &[used]);
    f.store.put_blob(b"a manifest").unwrap();
    let mount = f.store.cache_mount(&key("mount"), &Form::root()).unwrap();
    std::fs::write(mount.join("file"), vec![1; 1 << 16]).unwrap();
    let usage = f.store.usage().unwrap();
    let layers: Vec<_> = usage
        .layers
        .iter()
        .map(|l| (l.id, l.images.clone()))
        .collect();
    assert_eq!(layers, [(used, vec![id]), (cached, vec![])]);
    assert!(usage.layers.iter().all(|layer| layer.bytes > 0));
    assert_eq!(usage.other_blob_count, 1);
    assert_eq!(usage.cache_mounts.len(), 1);
    assert!(usage.cache_mounts[0].bytes >= 1 << 16);
    let parts: u64 = usage.layers.iter().map(|layer| layer.bytes).sum();
    assert!(usage.total >= parts + usage.cache_mounts[0].bytes);
}
