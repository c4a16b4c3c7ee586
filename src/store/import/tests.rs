use std::io::Write;

use super::*;
use crate::digest::Digest;
use crate::image::archive::{IMAGE_NAME_ANNOTATION, REF_NAME_ANNOTATION, SavedImage, layout_bytes};
use crate::image::config::ImageConfig;
use crate::image::manifest::{ImageIndex, Manifest, media_type};
use crate::layer::compression::Compression;
use crate::store::tests::Fixture;

/// Files by name: what a layout or an archive holds.
#[derive(Clone, Default)]
struct Files(std::collections::BTreeMap<String, Vec<u8>>);

impl Files {
    fn add(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.insert(name.to_owned(), bytes.into());
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let blob = Descriptor::of(media_type, bytes);
        self.add(&blob_path(&blob.digest), bytes);
        blob
    }

    /// An image of one gzip layer.
    fn image(&mut self, platform: &str) -> Descriptor {
        let config = self.config_of(platform);
        let manifest = Manifest::new(
            self.blob(media_type::OCI_CONFIG, &config),
            vec![self.blob(media_type::OCI_LAYER_GZIP, &gzip(platform.as_bytes()))],
            Default::default(),
        );
        self.blob(media_type::OCI_MANIFEST, &manifest.to_bytes())
    }

    fn config_of(&self, platform: &str) -> Vec<u8> {
        let mut config = ImageConfig::empty(&platform.parse().unwrap());
        config.rootfs.diff_ids = vec![DiffId(Digest::of(platform.as_bytes()))];
        config.to_bytes()
    }

    fn layout(mut self, entries: Vec<Descriptor>) -> Self {
        self.add("oci-layout", layout_bytes());
        self.add("index.json", ImageIndex::new(entries).to_bytes());
        self
    }

    fn write_folder(&self, folder: &Path) {
        for (name, bytes) in &self.0 {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    fn archive(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive
                .append_data(&mut header, format!("./{name}"), &bytes[..])
                .unwrap();
        }
        archive.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = Compression::Gzip.writer(Vec::new()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

impl Fixture {
    /// Imports the files as a folder and as archives, plain and compressed, each into the same
    /// store, and gives what all gave.
    fn import(
        &self,
        files: &Files,
        name: Option<&str>,
        platform: &str,
    ) -> Result<ImportedImage, String> {
        let place = tempfile::tempdir_in(self.folder.path()).unwrap();
        files.write_folder(&place.path().join("layout"));
        std::fs::write(place.path().join("plain.tar"), files.archive()).unwrap();
        std::fs::write(place.path().join("gzip.tar"), gzip(&files.archive())).unwrap();
        let platform = &platform.parse().unwrap();
        let selection = Selection { name, platform };
        let mut results = ["layout", "plain.tar", "gzip.tar"].map(|path| {
            let path = place.path().join(path);
            self.store.import(&path, selection).map_err(|error| {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let text = format!("{error}: {}", source.unwrap_or_default());
                text.replace(&path.display().to_string(), "IMAGE")
            })
        });
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
        std::mem::replace(&mut results[0], Err(String::new()))
    }
}

fn named(entry: Descriptor, full: &str, tag: &str) -> Descriptor {
    entry
        .with_annotation(IMAGE_NAME_ANNOTATION, full)
        .with_annotation(REF_NAME_ANNOTATION, tag)
}

#[test]
fn an_image_comes_with_its_config_and_layers() {
    let f = Fixture::new();
    let mut files = Files::default();
    let manifest = files.image("linux/amd64");
    let config = files.config_of("linux/amd64");
    let unwanted = files.blob(media_type::OCI_LAYER, b"unwanted");
    let files = files.layout(vec![manifest.clone()]);
    let image = f.import(&files, None, "linux/amd64").unwrap();
    assert_eq!(image.config.bytes(), config);
    assert_eq!(image.manifest, Some(manifest));
    let blob = Descriptor::of(media_type::OCI_LAYER_GZIP, &gzip(b"linux/amd64"));
    let diff_id = DiffId(Digest::of(b"linux/amd64"));
    assert_eq!(
        image.layers,
        [ImportedLayer {
            diff_id,
            blob: blob.clone()
        }]
    );
    assert!(f.store.has_blob(&blob.digest).unwrap());
    assert!(f.store.has_blob(&BlobDigest(image.config.id().0)).unwrap());
    assert!(!f.store.has_blob(&unwanted.digest).unwrap());
}

#[test]
fn the_platform_is_chosen_through_indexes_and_by_configs() {
    let f = Fixture::new();
    let mut files = Files::default();
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    // One that the index tells the platform of, two that only their configs know.
    let mut images: Vec<Descriptor> = platforms.iter().map(|name| files.image(name)).collect();
    images[0] = images[0]
        .clone()
        .with_platform(&platforms[0].parse().unwrap());
    let inner = ImageIndex::new(images).to_bytes();
    let inner = files.blob(media_type::OCI_INDEX, &inner);
    let files = files.layout(vec![named(inner, "docker.io/library/app:1", "1")]);
    for platform in platforms {
        let image = f.import(&files, None, platform).unwrap();
        assert_eq!(image.config.config.platform().to_string(), platform);
    }
    let error = f.import(&files, None, "linux/s390x").unwrap_err();
    assert!(error.contains("no image for linux/s390x"), "{error}");
}

#[test]
fn a_name_chooses_between_images() {
    let f = Fixture::new();
    let mut files = Files::default();
    let (one, two) = (files.image("linux/amd64"), files.image("linux/amd64/v2"));
    let files = files.layout(vec![
        named(one.clone(), "docker.io/library/app:1", "1"),
        named(two.clone(), "ghcr.io/me/app:2", "2"),
    ]);
    let import = |name: &str| {
        f.import(&files, Some(name), "linux/amd64/v2")
            .map(|image| image.manifest.unwrap().digest)
    };
    for (name, expected) in [
        ("1", &one),
        ("app:1", &one),
        ("docker.io/library/app:1", &one),
        ("2", &two),
        ("ghcr.io/me/app:2", &two),
        (&two.digest.to_string(), &two),
    ] {
        assert_eq!(import(name), Ok(expected.digest), "{name}");
    }
    let error = import("3").unwrap_err();
    assert!(
        error.contains("no image `3`, only docker.io/library/app:1, ghcr.io/me/app:2"),
        "{error}"
    );
    let error = f.import(&files, None, "linux/amd64").unwrap_err();
    assert!(
        error.contains("several images: name one of docker.io"),
        "{error}"
    );
}

fn saved(images: &[(&str, &str, &str)]) -> Vec<u8> {
    let images: Vec<SavedImage> = images
        .iter()
        .map(|(config, tag, layer)| SavedImage {
            config: (*config).to_owned(),
            repo_tags: vec![(*tag).to_owned()],
            layers: vec![(*layer).to_owned()],
        })
        .collect();
    SavedImage::list_to_bytes(&images)
}

#[test]
fn an_archive_of_docker_save_is_read() {
    let f = Fixture::new();
    for (content, media_type) in [
        (b"linux/amd64".to_vec(), media_type::OCI_LAYER),
        (gzip(b"linux/amd64"), media_type::OCI_LAYER_GZIP),
    ] {
        let f = if media_type == media_type::OCI_LAYER {
            &f
        } else {
            &Fixture::new()
        };
        let mut files = Files::default();
        files.add("abc.json", files.config_of("linux/amd64"));
        files.add("def/layer.tar", content.clone());
        files.add(
            "manifest.json",
            saved(&[
                ("abc.json", "app:1", "def/layer.tar"),
                ("x.json", "other:1", "x"),
            ]),
        );
        for name in ["app:1", "docker.io/library/app:1"] {
            let image = f.import(&files, Some(name), "linux/amd64").unwrap();
            assert_eq!(
                image.layers[0].blob,
                Descriptor::of(media_type, &content),
                "{name}"
            );
            assert_eq!(image.manifest, None);
        }
        let error = f.import(&files, None, "linux/amd64").unwrap_err();
        assert!(
            error.contains("several images: name one of app:1, other:1"),
            "{error}"
        );
        let error = f.import(&files, Some("app:1"), "linux/arm64").unwrap_err();
        assert!(
            error.contains("it is for linux/amd64, not for linux/arm64"),
            "{error}"
        );
    }
}

#[test]
fn layers_that_are_links_to_others_are_found() {
    let f = Fixture::new();
    let mut files = Files::default();
    files.add("abc.json", files.config_of("linux/amd64"));
    files.add("a/layer.tar", &b"linux/amd64"[..]);
    files.add(
        "manifest.json",
        saved(&[("abc.json", "app:1", "b/layer.tar")]),
    );
    let mut archive = tar::Builder::new(files.archive());
    // Written behind the end of the first archive's members, without its end mark.
    let mut bytes = std::mem::take(archive.get_mut());
    bytes.truncate(bytes.len() - 1024);
    let mut archive = tar::Builder::new(bytes);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive
        .append_link(&mut header, "b/layer.tar", "../a/layer.tar")
        .unwrap();
    let path = f.folder.path().join("image.tar");
    std::fs::write(&path, archive.into_inner().unwrap()).unwrap();
    let platform = &"linux/amd64".parse().unwrap();
    let image = f
        .store
        .import(
            &path,
            Selection {
                name: None,
                platform,
            },
        )
        .unwrap();
    assert_eq!(
        image.layers[0].blob,
        Descriptor::of(media_type::OCI_LAYER, b"linux/amd64")
    );
}

#[test]
fn damage_is_noticed() {
    let mut whole = Files::default();
    let manifest = whole.image("linux/amd64");
    let config = Descriptor::of(media_type::OCI_CONFIG, &whole.config_of("linux/amd64"));
    let layer = Descriptor::of(media_type::OCI_LAYER_GZIP, &gzip(b"linux/amd64"));
    let whole = whole.layout(vec![manifest.clone()]);
    for blob in [manifest, config, layer] {
        let f = Fixture::new();
        let mut damaged = whole.clone();
        damaged.add(&blob_path(&blob.digest), &b"{}"[..]);
        let error = f.import(&damaged, None, "linux/amd64").unwrap_err();
        assert!(error.contains("damaged or exchanged"), "{error}");
        let mut missing = whole.clone();
        missing.0.remove(&blob_path(&blob.digest));
        let error = f.import(&missing, None, "linux/amd64").unwrap_err();
        assert!(error.contains("is missing in it"), "{error}");
    }
    let f = Fixture::new();
    let mut files = Files::default();
    files.add("abc.json", files.config_of("linux/amd64"));
    files.add("def/layer.tar", &b"another"[..]);
    files.add(
        "manifest.json",
        saved(&[("abc.json", "app:1", "def/layer.tar")]),
    );
    let error = f.import(&files, None, "linux/amd64").unwrap_err();
    assert!(error.contains("layer has digest"), "{error}");
}

#[test]
fn what_holds_no_image_is_said() {
    let f = Fixture::new();
    let mut files = Files::default();
    files.add("file", "x");
    let error = f.import(&files, None, "linux/amd64").unwrap_err();
    assert!(
        error.contains("neither an OCI image layout nor an archive"),
        "{error}"
    );
    let error = f
        .import(&Files::default().layout(vec![]), None, "linux/amd64")
        .unwrap_err();
    assert!(error.contains("it has none at all"), "{error}");
    let mut files = Files::default();
    files.add(
        "abc.json",
        ImageConfig::empty(&"linux/amd64".parse().unwrap()).to_bytes(),
    );
    files.add(
        "manifest.json",
        saved(&[("abc.json", "app:1", "layer.tar")]),
    );
    let error = f.import(&files, None, "linux/amd64").unwrap_err();
    assert!(
        error.contains("it has 1 layers, but its config names 0"),
        "{error}"
    );
    let platform = &"linux/amd64".parse().unwrap();
    let missing = f.store.import(
        Path::new("/no/such/file"),
        Selection {
            name: None,
            platform,
        },
    );
    assert!(matches!(missing, Err(ImportError::Read { .. })));
}

#[test]
fn nothing_is_quoted_of_a_file_that_is_no_archive() {
    let f = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes");
    std::fs::write(&file, "the password is hunter2\n".repeat(100)).unwrap();
    let platform = &"linux/amd64".parse().unwrap();
    let name = None;
    let imported = f.store.import(&file, Selection { name, platform });
    let mut error: &dyn std::error::Error = &imported.unwrap_err();
    let mut said = error.to_string();
    while let Some(source) = error.source() {
        said += &source.to_string();
        error = source;
    }
    assert!(said.contains("it is no tar archive"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_link_out_of_a_layout_leads_nowhere() {
    let f = Fixture::new();
    let mut files = Files::default();
    let manifest = files.image("linux/amd64");
    let secret = f.folder.path().join("secret");
    let mut outside = files.clone();
    let files = files.layout(vec![manifest]);
    let layout = f.folder.path().join("layout");
    files.write_folder(&layout);
    std::fs::remove_file(layout.join("index.json")).unwrap();
    let other = outside.image("linux/amd64");
    std::fs::write(&secret, ImageIndex::new(vec![other]).to_bytes()).unwrap();
    std::os::unix::fs::symlink(&secret, layout.join("index.json")).unwrap();
    let platform = &"linux/amd64".parse().unwrap();
    assert!(
        f.store
            .import(
                &layout,
                Selection {
                    name: None,
                    platform
                }
            )
            .is_err()
    );
}
