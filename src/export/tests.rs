use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use super::*;
use crate::image::archive::{CREATED_ANNOTATION, IMAGE_NAME_ANNOTATION, SavedImage};
use crate::image::config::ImageConfig;
use crate::image::manifest::{ImageIndex, media_type};
use crate::platform::Platform;
use crate::time::Timestamp;

fn layer(content: &'static [u8]) -> LayerBlob<'static> {
    LayerBlob::new(Descriptor::of(media_type::OCI_LAYER, content), move || {
        Ok(Box::new(Cursor::new(content)))
    })
}

/// An image whose second and third layers are the same.
fn image(tags: &[&str]) -> ExportedImage<'static> {
    let mut config = ImageConfig::empty(&Platform::new("linux", "arm64", None));
    config.created = Some(Timestamp::from_seconds(1_700_000_000));
    ExportedImage {
        config: config.to_bytes(),
        layers: vec![layer(b"one"), layer(b"two"), layer(b"two")],
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        packaging: Packaging {
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..Packaging::default()
        },
    }
}

fn archive_of(image: &ExportedImage<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    oci::write_archive(std::slice::from_ref(image), None, &mut bytes).unwrap();
    bytes
}

/// Path, content and time of every member, in order.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>, u64)> {
    let mut archive = tar::Archive::new(archive);
    let member = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            (entry.header().uid().unwrap(), entry.header().gid().unwrap()),
            (0, 0)
        );
        (path, content, entry.header().mtime().unwrap())
    };
    archive.entries().unwrap().map(member).collect()
}

fn content<'a>(members: &'a [(String, Vec<u8>, u64)], path: &str) -> &'a [u8] {
    &members.iter().find(|member| member.0 == path).unwrap().1
}

#[test]
fn an_archive_holds_a_whole_layout_in_order() {
    let image = image(&["app", "ghcr.io/me/app:2"]);
    let bytes = archive_of(&image);
    assert_eq!(bytes, archive_of(&image));
    let members = members(&bytes);
    let paths: Vec<&str> = members.iter().map(|member| member.0.as_str()).collect();
    let mut sorted = paths.clone();
    sorted.sort_unstable();
    assert_eq!(paths, sorted);
    assert_eq!(paths.len(), 2 + 4 + 2, "{paths:?}");
    assert!(members.iter().all(|member| member.2 == 0));

    let index = ImageIndex::from_bytes(content(&members, "index.json")).unwrap();
    let names: Vec<&str> = index
        .manifests
        .iter()
        .map(|m| m.annotations[IMAGE_NAME_ANNOTATION].as_str())
        .collect();
    assert_eq!(names, ["docker.io/library/app:latest", "ghcr.io/me/app:2"]);
    let entry = &index.manifests[0];
    assert_eq!(
        entry.annotations["org.opencontainers.image.ref.name"],
        "latest"
    );
    assert_eq!(
        entry.annotations[CREATED_ANNOTATION],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(entry.platform.as_ref().unwrap().architecture, "arm64");
    for (path, bytes, _) in &members {
        if let Some(hex) = path
            .strip_prefix("blobs/sha256/")
            .filter(|hex| !hex.is_empty())
        {
            assert_eq!(hex, Digest::of(bytes).hex());
        }
    }
    let manifest: serde_json::Value = serde_json::from_slice(content(
        &members,
        &format!("blobs/sha256/{}", entry.digest.hex()),
    ))
    .unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    assert_eq!(manifest["annotations"]["a"], "b");
}

#[test]
fn members_have_the_time_that_is_given() {
    let mut bytes = Vec::new();
    let time = Some(Timestamp::from_seconds(1_700_000_000));
    oci::write_archive(&[image(&[])], time, &mut bytes).unwrap();
    assert!(
        members(&bytes)
            .iter()
            .all(|member| member.2 == 1_700_000_000)
    );
}

#[test]
fn docker_finds_its_list() {
    let image = image(&["app", "ghcr.io/me/app:2"]);
    let mut bytes = Vec::new();
    docker_archive::write(std::slice::from_ref(&image), None, &mut bytes).unwrap();
    let members = members(&bytes);
    let saved = SavedImage::list_from_bytes(content(&members, "manifest.json")).unwrap();
    assert_eq!(saved.len(), 1);
    assert_eq!(saved[0].repo_tags, ["app:latest", "ghcr.io/me/app:2"]);
    assert_eq!(content(&members, &saved[0].config), image.config);
    let layers: Vec<&[u8]> = saved[0]
        .layers
        .iter()
        .map(|path| content(&members, path))
        .collect();
    assert_eq!(layers, [&b"one"[..], b"two", b"two"]);
    assert!(members.iter().any(|member| member.0 == "index.json"));
}

#[test]
fn a_layer_that_is_not_what_it_says_is_not_written() {
    for (says, is) in [
        (&b"one"[..], &b"two"[..]),
        (b"one", b"on"),
        (b"one", b"ones"),
    ] {
        let mut image = image(&[]);
        image.layers[0] = LayerBlob::new(Descriptor::of(media_type::OCI_LAYER, says), move || {
            Ok(Box::new(Cursor::new(is)))
        });
        let error = oci::write_archive(std::slice::from_ref(&image), None, io::sink()).unwrap_err();
        let expected = matches!(
            &error,
            ExportError::WrongLayer { .. } | ExportError::Write(_)
        );
        assert!(expected, "{error:?}");
        let folder = tempfile::tempdir().unwrap();
        let error = oci::write_folder(&image, folder.path()).unwrap_err();
        assert!(matches!(error, ExportError::WrongLayer { .. }), "{error:?}");
        let digest = BlobDigest(Digest::of(says));
        assert!(
            !folder
                .path()
                .join("blobs/sha256")
                .join(digest.hex())
                .exists()
        );
        assert!(!folder.path().join("index.json").exists());
    }
}

#[test]
fn it_is_said_which_side_failed() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad disk"))
        }
    }
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("broken pipe"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut image = image(&[]);
    let error = oci::write_archive(std::slice::from_ref(&image), None, Broken).unwrap_err();
    assert!(matches!(error, ExportError::Write(_)), "{error:?}");
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"one");
    image.layers[0] = LayerBlob::new(descriptor, || Ok(Box::new(Broken)));
    let error = oci::write_archive(std::slice::from_ref(&image), None, io::sink()).unwrap_err();
    let ExportError::Layer { source, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "bad disk");
}

#[test]
fn a_folder_takes_several_images_and_names_move() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/layout");
    let first = image(&["app:1", "app:2"]);
    let mut second = image(&["app:2"]);
    second.layers.pop();
    let one = oci::write_folder(&first, &path).unwrap();
    let two = oci::write_folder(&second, &path).unwrap();
    for _ in 0..2 {
        // Without a name, and twice: one entry.
        oci::write_folder(&image(&[]), &path).unwrap();
    }
    let index = ImageIndex::from_bytes(&std::fs::read(path.join("index.json")).unwrap()).unwrap();
    let entries: Vec<_> = index
        .manifests
        .iter()
        .map(|m| {
            (
                m.annotations.get(IMAGE_NAME_ANNOTATION).map(String::as_str),
                m.digest,
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            (Some("docker.io/library/app:1"), one.digest),
            (Some("docker.io/library/app:2"), two.digest),
            (None, one.digest),
        ]
    );
    for digest in [one.digest, two.digest] {
        let bytes = std::fs::read(path.join("blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!(BlobDigest(Digest::of(&bytes)), digest);
    }
    let leftovers = path.join("blobs/sha256").read_dir().unwrap().count();
    assert_eq!(leftovers, 2 + 1 + 2, "layers, config, manifests");
}

#[test]
fn a_folder_of_an_unknown_layout_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("oci-layout");
    std::fs::write(&layout, r#"{"imageLayoutVersion":"7.0.0"}"#).unwrap();
    let error = oci::write_folder(&image(&[]), folder.path()).unwrap_err();
    assert!(matches!(error, ExportError::Layout { .. }), "{error:?}");
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    std::fs::write(&path, "old").unwrap();
    let mut destination = Destination::open(&path).unwrap();
    destination.write_all(b"half").unwrap();
    drop(destination);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    let mut destination = Destination::open(&path).unwrap();
    destination.write_all(b"whole").unwrap();
    destination.commit().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    let error = Destination::open(&folder.path().join("missing/image.tar"))
        .err()
        .unwrap();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_link_or_a_device_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&link, Path::new("/dev/null")] {
        let mut destination = Destination::open(path).unwrap();
        destination.write_all(b"new").unwrap();
        destination.commit().unwrap();
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"new");
    assert!(link.is_symlink());
    assert!(!Path::new("/dev/null").is_file());
}

#[test]
fn somebody_else_s_link_in_a_folder_for_all_is_not_followed() {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("all/link"));
    std::fs::write(&file, "kept").unwrap();
    let all = folder.path().join("all");
    std::fs::create_dir(&all).unwrap();
    symlink(&file, &link).unwrap();
    std::fs::set_permissions(&all, std::fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(Destination::open(&link).is_ok());
    if lchown(&link, Some(12_345), None).is_err() {
        println!("skipped: only root can make a link somebody else's");
        return;
    }
    let error = Destination::open(&link).err().unwrap();
    assert!(error.to_string().contains("all/link"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    // Where not everybody may make files, whoever made the link may do worse.
    std::fs::set_permissions(&all, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Destination::open(&link).is_ok());
}

#[test]
fn layers_come_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    store.put_blob(b"there").unwrap();
    let blob = |content: &[u8]| {
        LayerBlob::from_store(&store, Descriptor::of(media_type::OCI_LAYER, content))
    };
    let mut image = image(&[]);
    image.layers = vec![blob(b"there")];
    let members = members(&archive_of(&image));
    assert!(members.iter().any(|member| member.1 == b"there"));
    image.layers = vec![blob(b"missing")];
    let error = oci::write_archive(std::slice::from_ref(&image), None, io::sink()).unwrap_err();
    assert!(matches!(error, ExportError::Layer { .. }), "{error:?}");
}

#[test]
fn several_images_share_an_archive_and_their_blobs() {
    let (first, mut second) = (image(&["app:1"]), image(&["app:2", "other"]));
    second.layers.pop();
    second.packaging.annotations.clear();
    let images = [first, second];
    let mut bytes = Vec::new();
    let manifests = docker_archive::write(&images, None, &mut bytes).unwrap();
    let members = members(&bytes);
    let paths: Vec<&str> = members.iter().map(|member| member.0.as_str()).collect();
    let mut once = paths.clone();
    once.dedup();
    assert_eq!(paths, once);
    // Two folders, two layers, one config, two manifests, three lists.
    assert_eq!(paths.len(), 10, "{paths:?}");
    let saved = SavedImage::list_from_bytes(content(&members, "manifest.json")).unwrap();
    let names: Vec<&[String]> = saved.iter().map(|one| one.repo_tags.as_slice()).collect();
    assert_eq!(names, [&["app:1"][..], &["app:2", "other:latest"]]);
    let index = ImageIndex::from_bytes(content(&members, "index.json")).unwrap();
    let listed: Vec<_> = index.manifests.iter().map(|entry| entry.digest).collect();
    let [one, two] = [manifests[0].digest, manifests[1].digest];
    assert_eq!(listed, [one, two, two]);
}
