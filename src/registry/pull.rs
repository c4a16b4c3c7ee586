//! Pulling what names blobs: tags, manifests, indexes, and the image for one platform.

use std::pin::Pin;

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};

use super::Client;
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::session::{Session, Tries};
use super::transport::Response;
use crate::digest::{BlobDigest, Digest};
use crate::image::config::{CONFIG_LIMIT, ParsedConfig};
use crate::image::manifest::{
    Descriptor, DescriptorPlatform, Document, MANIFEST_LIMIT, Manifest, ParsedManifest, media_type,
};
use crate::platform::Platform;
use crate::reference::{DEFAULT_TAG, Reference};

/// Every format that can be read.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
const CONTENT_DIGEST: &str = "docker-content-digest";
const IF_MISSING: &str = "check the name and the tag";
/// Indexes may name indexes; honest ones do so once.
const MAX_NESTING: usize = 3;

/// The image that a name means on one platform: all but its layers, verified.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// What the name itself points to: the index, or the manifest of an image without one.
    pub top: Descriptor,
    /// The index, where the name points to one.
    pub index: Option<ParsedManifest>,
    /// The manifest, as it was received.
    pub manifest: ParsedManifest,
    /// The manifest's config.
    pub config_descriptor: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The config, as it was received.
    pub config: ParsedConfig,
}

impl RemoteImage {
    /// The platform that the config names. For an image without an index it may be another
    /// than was asked for: the caller decides what that means.
    pub fn platform(&self) -> Platform {
        self.config.config.platform()
    }
}

impl Client {
    /// What a name points to, by one HEAD where the registry answers it fully.
    ///
    /// # Errors
    /// The registry can't be reached, refuses, or has no such manifest.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        let action = format!("resolve `{}`", reference.familiar());
        let mut last = None;
        for endpoint in self.inner.endpoints(reference) {
            match self.resolve_at(endpoint.clone(), reference, &action).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => last = Some(self.inner.passed_over(&endpoint, error, last)),
            }
        }
        Err(last.unwrap_or_else(|| no_endpoint(action, reference)))
    }

    async fn resolve_at(
        &self,
        endpoint: Endpoint,
        reference: &Reference,
        action: &str,
    ) -> Result<Descriptor, RegistryError> {
        let session = Session::open(self, endpoint, reference, false, action).await?;
        match resolve_in(&session, reference).await {
            Ok(descriptor) => Ok(descriptor),
            Err(kind) => Err(session.error(kind, IF_MISSING).await),
        }
    }

    /// A manifest or index of `reference`'s repository: the one that `digest` names, or else
    /// the one that the reference itself does. Its digest is verified.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); the document is too large, malformed, of a retired
    /// format, or not the one that was asked for.
    pub async fn manifest(
        &self,
        reference: &Reference,
        digest: Option<&BlobDigest>,
    ) -> Result<ParsedManifest, RegistryError> {
        let wanted = match digest {
            Some(digest) => reference.clone().with_digest(*digest),
            None => reference.clone(),
        };
        let action = format!("pull the manifest of `{}`", wanted.familiar());
        let mut last = None;
        for endpoint in self.inner.endpoints(&wanted) {
            match self.manifest_at(endpoint.clone(), &wanted, &action).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => last = Some(self.inner.passed_over(&endpoint, error, last)),
            }
        }
        Err(last.unwrap_or_else(|| no_endpoint(action, reference)))
    }

    async fn manifest_at(
        &self,
        endpoint: Endpoint,
        reference: &Reference,
        action: &str,
    ) -> Result<ParsedManifest, RegistryError> {
        let session = Session::open(self, endpoint, reference, false, action).await?;
        match manifest_in(&session, reference).await {
            Ok(manifest) => Ok(manifest),
            Err(kind) => Err(session.error(kind, IF_MISSING).await),
        }
    }

    /// The image that `reference` means on `platform`, with its config; the layers are named,
    /// not pulled.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest); the index has no image for the platform, or the name
    /// does not point to a container image.
    pub async fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<RemoteImage, RegistryError> {
        let top = self.manifest(reference, None).await?;
        self.image_of(reference, top, platform).await
    }

    /// The same for a manifest or index of `reference`'s repository that has been pulled before.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub async fn image_of(
        &self,
        reference: &Reference,
        top: ParsedManifest,
        platform: &Platform,
    ) -> Result<RemoteImage, RegistryError> {
        let descriptor = top.descriptor();
        let index = top.is_index().then(|| top.clone());
        let fail = |kind| {
            let action = format!("pull the image `{}`", reference.familiar());
            RegistryError::new(action, reference.domain(), kind)
        };
        match self.select(reference, top, platform, 0).await? {
            Selection::Found(found) => Ok(RemoteImage {
                top: descriptor,
                index,
                ..*found
            }),
            Selection::Nothing(available) => Err(fail(ErrorKind::NoPlatform {
                wanted: platform.clone(),
                available,
            })),
        }
    }

    /// Descends from an index to the image for `platform`. Manifests of which the index does
    /// not say the platform come last, and their configs are asked.
    fn select<'a>(
        &'a self,
        reference: &'a Reference,
        parsed: ParsedManifest,
        platform: &'a Platform,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Selection, RegistryError>> + Send + 'a>> {
        Box::pin(async move {
            let index = match &parsed.document {
                Document::Index(index) => index,
                Document::Manifest(manifest) => {
                    let manifest = (**manifest).clone();
                    let image = self.complete(reference, parsed, manifest).await?;
                    return Ok(Selection::Found(Box::new(image)));
                }
            };
            let mut available = index.platforms();
            if depth >= MAX_NESTING {
                return Ok(Selection::Nothing(available));
            }
            for descriptor in index.candidates(platform) {
                let named = descriptor.platform.as_ref();
                let is_named = named.and_then(DescriptorPlatform::normalised).is_some();
                let parsed = self.manifest(reference, Some(&descriptor.digest)).await?;
                match self.select(reference, parsed, platform, depth + 1).await? {
                    Selection::Found(image) if is_named || platform.accepts(&image.platform()) => {
                        return Ok(Selection::Found(image));
                    }
                    Selection::Found(image) => available.push(image.platform()),
                    Selection::Nothing(platforms) => available.extend(platforms),
                }
            }
            Ok(Selection::Nothing(available))
        })
    }

    async fn complete(
        &self,
        reference: &Reference,
        parsed: ParsedManifest,
        manifest: Manifest,
    ) -> Result<RemoteImage, RegistryError> {
        let fail = |kind| {
            let action = format!("pull the image `{}`", reference.familiar());
            RegistryError::new(action, reference.domain(), kind)
        };
        if !manifest.is_image() {
            let named = match manifest.artifact_type.as_str() {
                "" => manifest.config.media_type,
                artifact => artifact.to_owned(),
            };
            return Err(fail(ErrorKind::NotAnImage(named)));
        }
        let bytes = self
            .blob_bytes(
                reference,
                &manifest.config,
                "the image config",
                CONFIG_LIMIT,
            )
            .await?;
        let config =
            ParsedConfig::from_bytes(bytes).map_err(|error| fail(ErrorKind::Image(error)))?;
        let (layers, diff_ids) = (manifest.layers.len(), config.config.rootfs.diff_ids.len());
        if layers != diff_ids {
            let reason = format!("the manifest has {layers} layers, the config {diff_ids}");
            return Err(fail(ErrorKind::malformed("the image", reason)));
        }
        Ok(RemoteImage {
            top: parsed.descriptor(),
            index: None,
            manifest: parsed,
            config_descriptor: manifest.config,
            layers: manifest.layers,
            config,
        })
    }

    /// The manifests that say something of `subject`, such as signatures and bills of material
    /// (distribution spec 1.1, "Listing Referrers"), by the API or else the fallback tag.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest); having none is not an error.
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &BlobDigest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let action = format!(
            "list the referrers of `{subject}` in `{}`",
            reference.familiar_name()
        );
        let session =
            Session::open(self, Endpoint::of(reference), reference, false, action).await?;
        match referrers_in(&session, subject).await {
            Ok(referrers) => Ok(referrers),
            Err(kind) => Err(session.error(kind, "").await),
        }
    }
}

enum Selection {
    Found(Box<RemoteImage>),
    Nothing(Vec<Platform>),
}

pub(super) fn no_endpoint(action: String, reference: &Reference) -> RegistryError {
    let kind = ErrorKind::Setup("no host serves it".to_owned());
    RegistryError::new(action, reference.domain(), kind)
}

/// The last part of a manifest's URL: the digest before the tag.
fn selector(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or(DEFAULT_TAG).to_owned(),
    }
}

async fn resolve_in(session: &Session<'_>, reference: &Reference) -> Result<Descriptor, ErrorKind> {
    let mut request = session
        .request(Method::HEAD, &format!("manifests/{}", selector(reference)))?
        .header(ACCEPT, HeaderValue::from_static(ACCEPTED));
    let response = session.exchange(&mut request, Tries::Policy).await?;
    match response.status() {
        200 => {
            if let Some(descriptor) = described(&response, reference.digest())? {
                return Ok(descriptor);
            }
        }
        // These hold for a GET too; other errors may only mean that HEAD is not supported.
        401 | 403 | 404 | 429 => return Err(response.into_error().await),
        _ => {}
    }
    Ok(manifest_in(session, reference).await?.descriptor())
}

/// The descriptor in an answer's headers; `None` where they do not tell all.
fn described(
    response: &Response,
    expected: Option<&BlobDigest>,
) -> Result<Option<Descriptor>, ErrorKind> {
    refuse_schema_1(response)?;
    let named = response.content_type();
    let known = named.filter(|n| media_type::is_index(n) || media_type::is_manifest(n));
    let (Some(known), Some(digest), Some(size)) =
        (known, content_digest(response), response.content_length())
    else {
        return Ok(None);
    };
    verify(expected, digest)?;
    Ok((size > 0).then(|| Descriptor::new(known, digest, size)))
}

async fn manifest_in(
    session: &Session<'_>,
    reference: &Reference,
) -> Result<ParsedManifest, ErrorKind> {
    let mut request = session
        .request(Method::GET, &format!("manifests/{}", selector(reference)))?
        .header(ACCEPT, HeaderValue::from_static(ACCEPTED));
    let response = session.exchange(&mut request, Tries::Policy).await?;
    if response.status() != 200 {
        return Err(response.into_error().await);
    }
    refuse_schema_1(&response)?;
    let named = response.content_type().map(str::to_owned);
    let claimed = content_digest(&response);
    let bytes = response.bytes("the manifest", MANIFEST_LIMIT).await?;
    let actual = BlobDigest(Digest::of(&bytes));
    verify(reference.digest().or(claimed.as_ref()), actual)?;
    Ok(ParsedManifest::from_bytes(
        named.as_deref(),
        bytes.to_vec(),
    )?)
}

async fn referrers_in(
    session: &Session<'_>,
    subject: &BlobDigest,
) -> Result<Vec<Descriptor>, ErrorKind> {
    let fallback = format!("manifests/{}", subject.to_string().replace(':', "-"));
    for path in [format!("referrers/{subject}"), fallback] {
        let mut request = session
            .request(Method::GET, &path)?
            .header(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
        let response = session.exchange(&mut request, Tries::Policy).await?;
        match response.status() {
            200 => {
                let bytes = response
                    .bytes("the list of referrers", MANIFEST_LIMIT)
                    .await?;
                let index = crate::image::manifest::ImageIndex::from_bytes(&bytes)?;
                return Ok(index.manifests);
            }
            404 => {}
            _ => return Err(response.into_error().await),
        }
    }
    Ok(Vec::new())
}

fn refuse_schema_1(response: &Response) -> Result<(), ErrorKind> {
    match response.content_type() {
        Some(media_type::DOCKER_SCHEMA_1 | media_type::DOCKER_SCHEMA_1_SIGNED) => {
            Err(ErrorKind::Schema1)
        }
        _ => Ok(()),
    }
}

/// The `Docker-Content-Digest` header, where it is a SHA-256 digest.
pub(super) fn content_digest(response: &Response) -> Option<BlobDigest> {
    response.header(CONTENT_DIGEST)?.trim().parse().ok()
}

pub(super) fn verify(expected: Option<&BlobDigest>, actual: BlobDigest) -> Result<(), ErrorKind> {
    match expected {
        Some(expected) if *expected != actual => Err(ErrorKind::DigestMismatch {
            expected: *expected,
            actual,
        }),
        _ => Ok(()),
    }
}
