//! The small files around images in folders and archives: those of an OCI image layout
//! (OCI image spec 1.1, `image-layout.md`) and those of `docker save`.
//!
//! Names are given and taken as text; what a name may look like is not decided here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::ImageError;
use super::json::{self, Object, null_as_default};
use super::manifest::{Descriptor, MANIFEST_LIMIT};
use crate::digest::BlobDigest;

/// Name of the file that says that a folder is an OCI layout.
pub const LAYOUT_FILE: &str = "oci-layout";

/// Name of an OCI layout's index.
pub const INDEX_FILE: &str = "index.json";

/// Name of the list of images of `docker save`.
pub const DOCKER_MANIFEST_FILE: &str = "manifest.json";

/// Name of the list of tags of old `docker save`.
pub const REPOSITORIES_FILE: &str = "repositories";

/// The tag alone (`latest`), on a descriptor of a layout's index.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The full name (`docker.io/library/app:latest`), which containerd reads, on a descriptor of a
/// layout's index.
pub const IMAGE_NAME_ANNOTATION: &str = "io.containerd.image.name";

/// When the image was made, on a descriptor of a layout's index.
pub const CREATED_ANNOTATION: &str = "org.opencontainers.image.created";

/// The path of a blob in an OCI layout.
pub fn blob_path(digest: &BlobDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The content of `oci-layout`.
pub fn layout_bytes() -> Vec<u8> {
    br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()
}

/// Checks the content of `oci-layout`.
///
/// # Errors
/// When it is not JSON, or of a version whose layout may be another.
pub fn check_layout(bytes: &[u8]) -> Result<(), ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = json::parse("`oci-layout` file", bytes, MANIFEST_LIMIT)?;
    let version = layout.image_layout_version;
    if version.starts_with("1.") {
        return Ok(());
    }
    Err(ImageError::Unsupported(format!(
        "OCI layout of version `{version}`: only 1.x is read"
    )))
}

/// One entry of a layout's index for each name of an image, or one without a name.
pub fn named_descriptors(image: &Descriptor, names: &[ImageName<'_>]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![image.clone()];
    }
    let named = |name: &ImageName<'_>| {
        image
            .clone()
            .with_annotation(IMAGE_NAME_ANNOTATION, name.full)
            .with_annotation(REF_NAME_ANNOTATION, name.tag)
    };
    names.iter().map(named).collect()
}

/// A name of an image, as an index's annotations carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageName<'a> {
    /// `docker.io/library/app:latest`.
    pub full: &'a str,
    /// `latest`.
    pub tag: &'a str,
}

/// One image of `docker save`'s `manifest.json`. Paths are relative to the archive's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SavedImage {
    /// Path of the config.
    #[serde(deserialize_with = "null_as_default")]
    pub config: String,
    /// Names, as `docker images` shows them: `app:latest`, `ghcr.io/me/app:1`.
    #[serde(deserialize_with = "null_as_default")]
    pub repo_tags: Vec<String>,
    /// Paths of the layers, lowest first; plain or compressed tars.
    #[serde(deserialize_with = "null_as_default")]
    pub layers: Vec<String>,
}

impl SavedImage {
    /// Reads a `manifest.json`.
    ///
    /// # Errors
    /// When it is too large, not JSON, or an image has no config.
    pub fn list_from_bytes(bytes: &[u8]) -> Result<Vec<Self>, ImageError> {
        let images: Vec<Self> = json::parse("`manifest.json`", bytes, MANIFEST_LIMIT)?;
        if images.iter().any(|image| image.config.is_empty()) {
            return Err(ImageError::Unsupported(
                "an image of `manifest.json` has no config".to_owned(),
            ));
        }
        Ok(images)
    }

    /// Writes a `manifest.json`.
    pub fn list_to_bytes(images: &[Self]) -> Vec<u8> {
        let images = images.iter().map(|image| {
            let tags = match image.repo_tags.is_empty() {
                true => Value::Null,
                false => image.repo_tags.clone().into(),
            };
            Object::default()
                .always("Config", image.config.as_str())
                .always("RepoTags", tags)
                .always("Layers", image.layers.clone())
                .into_value()
        });
        Value::Array(images.collect()).to_string().into_bytes()
    }
}

/// `docker save`'s `repositories`: repository to tag to the id of the topmost layer. Readers
/// from before 2015 need it; nobody else looks.
pub type Repositories = BTreeMap<String, BTreeMap<String, String>>;

/// Reads a `repositories` file.
///
/// # Errors
/// When it is too large or malformed.
pub fn parse_repositories(bytes: &[u8]) -> Result<Repositories, ImageError> {
    json::parse("`repositories` file", bytes, MANIFEST_LIMIT)
}

/// Writes a `repositories` file.
pub fn repositories_bytes(repositories: &Repositories) -> Vec<u8> {
    let add =
        |object: Object, (name, tags): (&String, &BTreeMap<String, String>)| object.map(name, tags);
    repositories
        .iter()
        .fold(Object::default(), add)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::media_type;

    #[test]
    fn layouts_of_version_1_are_read() {
        assert!(check_layout(&layout_bytes()).is_ok());
        assert!(check_layout(br#"{"imageLayoutVersion":"1.1.0"}"#).is_ok());
        for bad in [&b"{}"[..], b"", br#"{"imageLayoutVersion":"2.0.0"}"#] {
            assert!(check_layout(bad).is_err());
        }
    }

    #[test]
    fn every_name_has_an_entry() {
        let image = Descriptor::of(media_type::OCI_MANIFEST, b"{}");
        assert_eq!(named_descriptors(&image, &[]), std::slice::from_ref(&image));
        let name = ImageName {
            full: "docker.io/library/app:1",
            tag: "1",
        };
        let named = named_descriptors(&image, &[name, name]);
        assert_eq!(named.len(), 2);
        assert_eq!(named[0].annotations[IMAGE_NAME_ANNOTATION], name.full);
        assert_eq!(named[0].annotations[REF_NAME_ANNOTATION], "1");
    }

    #[test]
    fn a_saved_list_reads_as_it_was_written() {
        let json = r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["a/layer.tar"]},{"Config":"d.json","RepoTags":null,"Layers":[]}]"#;
        let images = SavedImage::list_from_bytes(json.as_bytes()).unwrap();
        assert_eq!(images[0].repo_tags, ["app:1"]);
        assert_eq!(images[1].repo_tags, [""; 0]);
        assert_eq!(SavedImage::list_to_bytes(&images), json.as_bytes());
        assert!(SavedImage::list_from_bytes(br#"[{"Layers":[]}]"#).is_err());
    }

    #[test]
    fn repositories_read_as_they_were_written() {
        let json = br#"{"app":{"1":"ab","2":"cd"}}"#;
        let repositories = parse_repositories(json).unwrap();
        assert_eq!(repositories["app"]["2"], "cd");
        assert_eq!(repositories_bytes(&repositories), json);
    }
}
