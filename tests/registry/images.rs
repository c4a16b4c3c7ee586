//! Small images to pull and push.

use rbuild::digest::{BlobDigest, DiffId, Digest};
use rbuild::image::config::ImageConfig;
use rbuild::image::manifest::{Descriptor, ImageIndex, Manifest, media_type};
use rbuild::platform::Platform;

/// An image of one layer: every document with its bytes.
pub(crate) struct Image {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) layer_descriptor: Descriptor,
    pub(crate) config_descriptor: Descriptor,
    pub(crate) manifest_descriptor: Descriptor,
}

pub(crate) fn image(platform: &str, layer: &[u8]) -> Image {
    let platform: Platform = platform.parse().unwrap();
    let mut config = ImageConfig::empty(&platform);
    config.rootfs.diff_ids.push(DiffId(Digest::of(layer)));
    let config = config.to_bytes();
    let layer_descriptor = Descriptor::of(media_type::OCI_LAYER, layer);
    let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
    let manifest = Manifest::new(
        config_descriptor.clone(),
        vec![layer_descriptor.clone()],
        Default::default(),
    )
    .to_bytes();
    Image {
        layer: layer.to_vec(),
        config,
        manifest_descriptor: Descriptor::of(media_type::OCI_MANIFEST, &manifest)
            .with_platform(&platform),
        manifest,
        layer_descriptor,
        config_descriptor,
    }
}

pub(crate) fn index(images: &[&Image]) -> Vec<u8> {
    let descriptors = images.iter().map(|image| image.manifest_descriptor.clone());
    ImageIndex::new(descriptors.collect()).to_bytes()
}

pub(crate) fn digest(bytes: &[u8]) -> BlobDigest {
    BlobDigest(Digest::of(bytes))
}

/// Bytes without a period, so that a shifted or repeated part changes the digest.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
