//! Cache records, memos, images, names.

use super::*;

#[test]
fn records_memos_and_digests_are_remembered() {
    let f = Fixture::new();
    let layer = f.store.create_layer(&NewLayer::default()).unwrap();
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
    let layer = f.store.create_layer(&NewLayer::default()).unwrap();
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
