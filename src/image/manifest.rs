//! Manifests and indexes (OCI image spec 1.1, `manifest.md`, `image-index.md`, `descriptor.md`;
//! Docker's manifest v2, schema 2, which has the same shape under other media types).
//!
//! The types are our own: the ones at hand keep annotations in an unordered map, and what is
//! written here ends in a digest. A received document is read for what it says and never
//! written again; its bytes are passed on as they came, with [`ParsedManifest`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::ImageError;
use super::json::{self, Object, null_as_default};
use crate::digest::{BlobDigest, Digest};
use crate::platform::Platform;

/// The largest manifest or index that is read, in bytes: what registries must accept
/// (OCI distribution spec 1.1, "Pushing Manifests").
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// Names of the formats.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker manifest, schema 1: retired, never read.
    pub const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker manifest, schema 1, signed: retired, never read.
    pub const DOCKER_SCHEMA_1_SIGNED: &str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether `name` is an index of either family.
    pub fn is_index(name: &str) -> bool {
        matches!(name, OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether `name` is a manifest of either family that rbuild reads.
    pub fn is_manifest(name: &str) -> bool {
        matches!(name, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether `name` is an image config of either family.
    pub fn is_config(name: &str) -> bool {
        matches!(name, OCI_CONFIG | DOCKER_CONFIG)
    }

    /// Docker's name of a format, where it has one.
    pub fn to_docker(name: &str) -> &str {
        match name {
            OCI_MANIFEST => DOCKER_MANIFEST,
            OCI_INDEX => DOCKER_INDEX,
            OCI_CONFIG => DOCKER_CONFIG,
            OCI_LAYER => DOCKER_LAYER,
            OCI_LAYER_GZIP => DOCKER_LAYER_GZIP,
            OCI_LAYER_ZSTD => DOCKER_LAYER_ZSTD,
            other => other,
        }
    }

    /// The OCI name of a format, where it has one.
    pub fn to_oci(name: &str) -> &str {
        match name {
            DOCKER_MANIFEST => OCI_MANIFEST,
            DOCKER_INDEX => OCI_INDEX,
            DOCKER_CONFIG => OCI_CONFIG,
            DOCKER_LAYER => OCI_LAYER,
            DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
            DOCKER_LAYER_ZSTD => OCI_LAYER_ZSTD,
            other => other,
        }
    }
}

/// What BuildKit marks a manifest with that is not an image but says something of one.
const ATTESTATION_ANNOTATION: &str = "vnd.docker.reference.type";

/// Points to a blob: its format, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The blob's format.
    #[serde(default, deserialize_with = "null_as_default")]
    pub media_type: String,
    /// The blob's digest.
    pub digest: BlobDigest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Where else it may be downloaded from.
    #[serde(default, deserialize_with = "null_as_default")]
    pub urls: Vec<String>,
    /// Notes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// What a manifest's image runs on.
    #[serde(default)]
    pub platform: Option<DescriptorPlatform>,
    /// What an artifact is.
    #[serde(default, deserialize_with = "null_as_default")]
    pub artifact_type: String,
}

/// The platform that an index says of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DescriptorPlatform {
    /// Processor architecture, as in GOARCH.
    #[serde(deserialize_with = "null_as_default")]
    pub architecture: String,
    /// Operating system, as in GOOS.
    #[serde(deserialize_with = "null_as_default")]
    pub os: String,
    /// Version of the operating system, for Windows images.
    #[serde(rename = "os.version", deserialize_with = "null_as_default")]
    pub os_version: String,
    /// Features that the operating system must have, for Windows images.
    #[serde(rename = "os.features", deserialize_with = "null_as_default")]
    pub os_features: Vec<String>,
    /// Variant of the architecture; empty where there is none.
    #[serde(deserialize_with = "null_as_default")]
    pub variant: String,
}

/// An image: its config and its layers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Its own format.
    #[serde(default, deserialize_with = "null_as_default")]
    pub media_type: String,
    /// What it is, where it is not an image.
    #[serde(default, deserialize_with = "null_as_default")]
    pub artifact_type: String,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something of.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests, one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Its own format.
    #[serde(default, deserialize_with = "null_as_default")]
    pub media_type: String,
    /// What it is, where it is not a list of images.
    #[serde(default, deserialize_with = "null_as_default")]
    pub artifact_type: String,
    /// The manifests.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// Notes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// Either of the documents that a tag can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(ImageIndex),
}

/// A manifest or index as it was received: its value, and the bytes that its digest is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedManifest {
    bytes: Vec<u8>,
    digest: BlobDigest,
    media_type: String,
    /// The value.
    pub document: Document,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: &str, digest: BlobDigest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: String::new(),
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        let digest = BlobDigest(Digest::of(bytes));
        Self::new(media_type, digest, bytes.len() as u64)
    }

    /// The same with one more annotation.
    #[must_use]
    pub fn with_annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same with a platform.
    #[must_use]
    pub fn with_platform(mut self, platform: &Platform) -> Self {
        self.platform = Some(DescriptorPlatform::from(platform));
        self
    }

    /// Whether it names provenance or a bill of materials, not an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(ATTESTATION_ANNOTATION)
            || !self.artifact_type.is_empty()
            || matches!(&self.platform, Some(p) if p.os == "unknown" && p.architecture == "unknown")
    }

    /// It as JSON, in the order of the specification.
    pub fn to_json(&self) -> Value {
        self.to_object().into_value()
    }

    fn to_object(&self) -> Object {
        let object = Object::default()
            .always("mediaType", self.media_type.as_str())
            .always("digest", self.digest.to_string())
            .always("size", self.size)
            .list("urls", &self.urls)
            .map("annotations", &self.annotations);
        let object = match &self.platform {
            Some(platform) => object.always("platform", platform.to_object()),
            None => object,
        };
        object.text("artifactType", &self.artifact_type)
    }
}

impl DescriptorPlatform {
    /// The normalised platform; `None` where system or architecture are missing.
    pub fn normalised(&self) -> Option<Platform> {
        if self.os.is_empty() || self.architecture.is_empty() {
            return None;
        }
        let variant = Some(self.variant.as_str()).filter(|variant| !variant.is_empty());
        Some(Platform::new(&self.os, &self.architecture, variant))
    }

    fn to_object(&self) -> Object {
        Object::default()
            .always("architecture", self.architecture.as_str())
            .always("os", self.os.as_str())
            .text("os.version", &self.os_version)
            .list("os.features", &self.os_features)
            .text("variant", &self.variant)
    }
}

impl From<&Platform> for DescriptorPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl Manifest {
    /// An OCI manifest of an image.
    pub fn new(
        config: Descriptor,
        layers: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        Self {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: String::new(),
            config,
            layers,
            subject: None,
            annotations,
        }
    }

    /// Its bytes; the same for the same value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let object = Object::default()
            .always("schemaVersion", 2)
            .text("mediaType", &self.media_type)
            .text("artifactType", &self.artifact_type)
            .always("config", self.config.to_object())
            .always("layers", descriptors(&self.layers));
        let object = match &self.subject {
            Some(subject) => object.always("subject", subject.to_object()),
            None => object,
        };
        object
            .map("annotations", &self.annotations)
            .into_indented_bytes()
    }

    /// Whether it is an image: a config and layers that can be run, not some other artifact.
    pub fn is_image(&self) -> bool {
        media_type::is_config(&self.config.media_type)
    }
}

impl ImageIndex {
    /// An OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            media_type: media_type::OCI_INDEX.to_owned(),
            artifact_type: String::new(),
            manifests,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads an index, such as a layout's `index.json`.
    ///
    /// # Errors
    /// When it is too large, malformed, or says that it is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        match parse_document(Some(media_type::OCI_INDEX), bytes)?.1 {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => Err(ImageError::Unsupported(
                "expected an image index, found a manifest".to_owned(),
            )),
        }
    }

    /// Its bytes; the same for the same value.
    pub fn to_bytes(&self) -> Vec<u8> {
        Object::default()
            .always("schemaVersion", 2)
            .text("mediaType", &self.media_type)
            .text("artifactType", &self.artifact_type)
            .always("manifests", descriptors(&self.manifests))
            .map("annotations", &self.annotations)
            .into_indented_bytes()
    }

    /// The manifests that may hold an image for `platform`, best first. Those of which the
    /// index doesn't say the platform come last: their configs must be asked.
    pub fn candidates(&self, platform: &Platform) -> Vec<&Descriptor> {
        let rank = |descriptor: &Descriptor| {
            if descriptor.is_attestation() {
                return None;
            }
            let offered = descriptor.platform.as_ref();
            match offered.and_then(DescriptorPlatform::normalised) {
                Some(offered) => platform.rank(&offered).map(u16::from),
                None => Some(u16::MAX),
            }
        };
        let mut ranked: Vec<(u16, &Descriptor)> = self
            .manifests
            .iter()
            .filter_map(|descriptor| Some((rank(descriptor)?, descriptor)))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked
            .into_iter()
            .map(|(_, descriptor)| descriptor)
            .collect()
    }

    /// The manifest for `platform`.
    ///
    /// # Errors
    /// When none fits; the message lists what there is.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor, ImageError> {
        self.candidates(platform).first().copied().ok_or_else(|| {
            let offered: Vec<String> = self.platforms().iter().map(Platform::to_string).collect();
            let offered = match offered.is_empty() {
                true => "it has none at all".to_owned(),
                false => format!("it has {}", offered.join(", ")),
            };
            ImageError::Unsupported(format!("no image for {platform} in the index: {offered}"))
        })
    }

    /// The platforms that it has images for, in its order, each once.
    pub fn platforms(&self) -> Vec<Platform> {
        let mut platforms = Vec::new();
        for descriptor in self.manifests.iter().filter(|d| !d.is_attestation()) {
            let offered = descriptor.platform.as_ref();
            if let Some(platform) = offered.and_then(DescriptorPlatform::normalised)
                && !platforms.contains(&platform)
            {
                platforms.push(platform);
            }
        }
        platforms
    }
}

fn descriptors(descriptors: &[Descriptor]) -> Vec<Value> {
    let objects = descriptors.iter().map(Descriptor::to_object);
    objects.map(Object::into_value).collect()
}

impl ParsedManifest {
    /// Reads a manifest or an index. `media_type` is what the descriptor or the registry's
    /// answer called it; without one, the document's own word or its shape decides.
    ///
    /// # Errors
    /// When it is larger than [`MANIFEST_LIMIT`], malformed, ambiguous, or of a retired format.
    pub fn from_bytes(media_type: Option<&str>, bytes: Vec<u8>) -> Result<Self, ImageError> {
        let (media_type, document) = parse_document(media_type, &bytes)?;
        let digest = BlobDigest(Digest::of(&bytes));
        Ok(Self {
            bytes,
            digest,
            media_type,
            document,
        })
    }

    /// The same, of bytes that must have `expected` as digest.
    ///
    /// # Errors
    /// As [`ParsedManifest::from_bytes`], and when the digest is another.
    pub fn verified(
        media_type: Option<&str>,
        bytes: Vec<u8>,
        expected: BlobDigest,
    ) -> Result<Self, ImageError> {
        let found = Digest::of(&bytes);
        if found != expected.0 {
            return Err(ImageError::WrongDigest {
                what: "manifest",
                expected: expected.0,
                found,
            });
        }
        Self::from_bytes(media_type, bytes)
    }

    /// The bytes as they were received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> BlobDigest {
        self.digest
    }

    /// The format.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// A descriptor of it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.bytes.len() as u64)
    }

    /// Whether it is an index.
    pub fn is_index(&self) -> bool {
        matches!(self.document, Document::Index(_))
    }
}

/// The members that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    media_type: String,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

fn parse_document(given: Option<&str>, bytes: &[u8]) -> Result<(String, Document), ImageError> {
    let unsupported = |text: String| Err(ImageError::Unsupported(text));
    let shape: Shape = json::parse("manifest", bytes, MANIFEST_LIMIT)?;
    let is_retired = |name: &str| {
        matches!(
            name,
            media_type::DOCKER_SCHEMA_1 | media_type::DOCKER_SCHEMA_1_SIGNED
        )
    };
    if shape.fs_layers.is_some() || is_retired(&shape.media_type) || shape.schema_version == Some(1)
    {
        return unsupported(
            "the image has a manifest of the retired schema 1: push it again with a current tool"
                .to_owned(),
        );
    }
    let (one, many) = (
        shape.config.is_some() || shape.layers.is_some(),
        shape.manifests.is_some(),
    );
    if one && many {
        return unsupported(
            "the manifest is ambiguous: it has both layers and a list of manifests".to_owned(),
        );
    }
    let known = |name: &str| media_type::is_index(name) || media_type::is_manifest(name);
    let own = shape.media_type.as_str();
    let name = match given.map(without_parameters).filter(|name| known(name)) {
        Some(name) => name,
        None if known(own) => own,
        None if !own.is_empty() => {
            return unsupported(format!("`{own}` is not the manifest of an image"));
        }
        None if many => media_type::OCI_INDEX,
        None => media_type::OCI_MANIFEST,
    };
    if known(own) && media_type::is_index(own) != media_type::is_index(name) {
        return unsupported(format!(
            "the manifest says it is `{own}` but was given as `{name}`"
        ));
    }
    let document = match media_type::is_index(name) {
        true if one => return unsupported("expected an image index, found a manifest".to_owned()),
        false if many => {
            return unsupported("expected a manifest, found an image index".to_owned());
        }
        true => Document::Index(json::parse("image index", bytes, MANIFEST_LIMIT)?),
        false => Document::Manifest(Box::new(json::parse("manifest", bytes, MANIFEST_LIMIT)?)),
    };
    Ok((name.to_owned(), document))
}

/// `application/json; charset=utf-8` without what follows the name.
fn without_parameters(name: &str) -> &str {
    name.split_once(';').map_or(name, |(name, _)| name).trim()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
