//! Pushing blobs and manifests (OCI distribution spec 1.1, "Push").
//!
//! Small blobs go in one PUT. Large ones go in one streamed PATCH and a closing PUT, never in
//! several PATCHes: some registries keep only the first. A broken upload begins anew.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use url::Url;

use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError, StatusError};
use super::pull::{content_digest, verify};
use super::retry::{Backoff, retry_after};
use super::session::{Session, Tries};
use super::source::{BlobSource, BlobStream};
use super::transport::{Body, Request, Response};
use super::{Client, Progress};
use crate::digest::{BlobDigest, Digest, HashingStream};
use crate::image::manifest::Descriptor;
use crate::reference::Reference;

/// The largest blob that is pushed in a single request.
const MONOLITHIC_LIMIT: u64 = 64 << 20;
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const IF_MISSING: &str = "check the repository's name, and that it may be pushed to";

/// How a blob came to be in the repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It was there before.
    Existing,
    /// The registry linked it from another of its repositories.
    Mounted,
    /// It was sent.
    Uploaded,
}

impl Client {
    /// Whether `reference`'s repository has the blob.
    ///
    /// # Errors
    /// The registry can't be reached or refuses.
    pub async fn has_blob(
        &self,
        reference: &Reference,
        digest: &BlobDigest,
    ) -> Result<bool, RegistryError> {
        let action = format!(
            "look for blob `{digest}` in `{}`",
            reference.familiar_name()
        );
        let session = self.push_session(reference, action).await?;
        match exists(&session, digest).await {
            Ok(exists) => Ok(exists),
            Err(kind) => Err(session.error(kind, "").await),
        }
    }

    /// Sees to it that `reference`'s repository has the blob: nothing is sent if it has, or if
    /// the registry can mount it from `mount_from`, a repository of the same registry.
    ///
    /// # Errors
    /// The registry can't be reached or refuses; the source fails or is not what the
    /// descriptor says.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &BlobSource,
        mount_from: Option<&Reference>,
        progress: Option<&Progress>,
    ) -> Result<Pushed, RegistryError> {
        let digest = descriptor.digest;
        let action = format!("push blob `{digest}` to `{}`", reference.familiar_name());
        let session = self.push_session(reference, action).await?;
        match exists(&session, &digest).await {
            Ok(true) => return Ok(Pushed::Existing),
            Ok(false) => {}
            Err(kind) => return Err(session.error(kind, IF_MISSING).await),
        }
        let begun = match mount_from {
            Some(from) => match self.mount(reference, from, &digest).await? {
                Mount::Done => return Ok(Pushed::Mounted),
                Mount::Upload(location) => location,
            },
            None => None,
        };
        let upload = Upload {
            session: &session,
            source,
            expected: Some((digest, descriptor.size)),
            progress,
        };
        match upload.run(begun).await {
            Ok(_) => Ok(Pushed::Uploaded),
            Err(kind) => Err(session.error(kind, IF_MISSING).await),
        }
    }

    /// Pushes a blob whose digest is known only once it has been sent. Gives its digest and size.
    ///
    /// # Errors
    /// As [`push_blob`](Self::push_blob).
    pub async fn push_stream(
        &self,
        reference: &Reference,
        source: &BlobSource,
        progress: Option<&Progress>,
    ) -> Result<(BlobDigest, u64), RegistryError> {
        let action = format!("push a blob to `{}`", reference.familiar_name());
        let session = self.push_session(reference, action).await?;
        let upload = Upload {
            session: &session,
            source,
            expected: None,
            progress,
        };
        match upload.run(None).await {
            Ok(pushed) => Ok(pushed),
            Err(kind) => Err(session.error(kind, IF_MISSING).await),
        }
    }

    /// Links a blob of `from`'s repository into `reference`'s, without sending it. `false` if
    /// the registry can't: other registry, no such blob there, no right to read it.
    ///
    /// # Errors
    /// The registry can't be reached, or `reference` may not be pushed to.
    pub async fn mount_blob(
        &self,
        reference: &Reference,
        from: &Reference,
        digest: &BlobDigest,
    ) -> Result<bool, RegistryError> {
        Ok(matches!(
            self.mount(reference, from, digest).await?,
            Mount::Done
        ))
    }

    async fn mount(
        &self,
        reference: &Reference,
        from: &Reference,
        digest: &BlobDigest,
    ) -> Result<Mount, RegistryError> {
        if from.domain() != reference.domain() || from.repository() == reference.repository() {
            return Ok(Mount::Upload(None));
        }
        let action = format!("mount blob `{digest}` into `{}`", reference.familiar_name());
        let session = self
            .push_session(reference, action)
            .await?
            .reading_from(from.repository());
        match mount_in(&session, from.repository(), digest).await {
            Ok(mount) => Ok(mount),
            Err(kind) => Err(session.error(kind, IF_MISSING).await),
        }
    }

    /// Puts a manifest or index under `reference`'s tag, or under its digest where the
    /// reference has no tag. Everything it names must be there already.
    ///
    /// # Errors
    /// The registry can't be reached or refuses, or stored other bytes than were sent.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<BlobDigest, RegistryError> {
        let bytes = bytes.into();
        let digest = BlobDigest(Digest::of(&bytes));
        let action = format!("push the manifest of `{}`", reference.familiar());
        let session = self.push_session(reference, action).await?;
        match put_manifest(&session, reference, media_type, bytes, digest).await {
            Ok(()) => Ok(digest),
            Err(kind) => Err(session.error(kind, IF_MISSING).await),
        }
    }

    async fn push_session(
        &self,
        reference: &Reference,
        action: String,
    ) -> Result<Session<'_>, RegistryError> {
        Session::open(self, Endpoint::of(reference), reference, true, action).await
    }
}

enum Mount {
    Done,
    /// Not mounted; the registry may have begun an upload instead.
    Upload(Option<Url>),
}

async fn exists(session: &Session<'_>, digest: &BlobDigest) -> Result<bool, ErrorKind> {
    let mut request = session.request(Method::HEAD, &format!("blobs/{digest}"))?;
    let response = session.exchange(&mut request, Tries::Policy).await?;
    match response.status() {
        200..=299 => Ok(true),
        404 => Ok(false),
        // The registry knew the blob well enough to send us to its storage, which signs URLs
        // for one method only.
        403 | 405 if response.foreign => Ok(true),
        _ => Err(response.into_error().await),
    }
}

async fn mount_in(
    session: &Session<'_>,
    from: &str,
    digest: &BlobDigest,
) -> Result<Mount, ErrorKind> {
    let mut request = session.request(Method::POST, "blobs/uploads/")?;
    request
        .url
        .query_pairs_mut()
        .append_pair("mount", &digest.to_string())
        .append_pair("from", from);
    let response = match session.exchange(&mut request, Tries::Policy).await {
        Ok(response) => response,
        // A token server may refuse the second scope as a whole.
        Err(ErrorKind::Status(StatusError {
            status: 400..=403, ..
        })) => return Ok(Mount::Upload(None)),
        Err(error) => return Err(error),
    };
    match response.status() {
        201 => Ok(Mount::Done),
        202 => Ok(Mount::Upload(Some(session.upload_location(&response)?))),
        // No right to read the other repository, or no support for mounting: send it then.
        400..=405 => Ok(Mount::Upload(None)),
        _ => Err(response.into_error().await),
    }
}

async fn put_manifest(
    session: &Session<'_>,
    reference: &Reference,
    media_type: &str,
    bytes: Bytes,
    digest: BlobDigest,
) -> Result<(), ErrorKind> {
    verify(reference.digest(), digest)?;
    let selector = match reference.tag() {
        Some(tag) => tag.to_owned(),
        None => digest.to_string(),
    };
    let content_type = HeaderValue::from_str(media_type)
        .map_err(|_| ErrorKind::malformed("the media type", "it is not ASCII"))?;
    let mut request = session
        .request(Method::PUT, &format!("manifests/{selector}"))?
        .header(CONTENT_TYPE, content_type)
        .body(Body::Bytes(bytes));
    let response = session.exchange(&mut request, Tries::Policy).await?;
    match response.status() {
        200..=202 => verify(Some(&digest), content_digest(&response).unwrap_or(digest)),
        _ => Err(response.into_error().await),
    }
}

/// One blob on its way to one repository.
struct Upload<'a> {
    session: &'a Session<'a>,
    source: &'a BlobSource,
    expected: Option<(BlobDigest, u64)>,
    progress: Option<&'a Progress>,
}

type Failure = (ErrorKind, Option<std::time::Duration>);

impl Upload<'_> {
    /// Uploads, as often as it takes; `begun` is an upload that the registry has opened already.
    async fn run(&self, mut begun: Option<Url>) -> Result<(BlobDigest, u64), ErrorKind> {
        let mut backoff = Backoff::new(self.session.client().transport.retry_policy());
        loop {
            let (kind, wait) = match self.attempt(begun.take()).await {
                Ok(pushed) => return Ok(pushed),
                Err(failure) => failure,
            };
            // Behind a load balancer a session may be gone with the machine that held it.
            let is_lost = matches!(
                &kind,
                ErrorKind::Status(StatusError { status: 404, code: Some(code), .. })
                    if code == "BLOB_UPLOAD_UNKNOWN"
            );
            if !kind.is_transient() && !is_lost {
                return Err(kind);
            }
            match backoff.next_delay(wait) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(kind),
            }
            // The answer may have been lost after the blob had been stored.
            if let Some((digest, size)) = self.expected
                && exists(self.session, &digest).await?
            {
                return Ok((digest, size));
            }
        }
    }

    async fn attempt(&self, begun: Option<Url>) -> Result<(BlobDigest, u64), Failure> {
        let location = match begun {
            Some(location) => location,
            None => self.begin().await.map_err(|kind| (kind, None))?,
        };
        match self.expected {
            Some((digest, size)) if size <= MONOLITHIC_LIMIT => {
                let url = with_digest(location, &digest);
                self.send(Method::PUT, url).await?;
                Ok((digest, size))
            }
            _ => {
                let (response, digest, size) = self.send(Method::PATCH, location.clone()).await?;
                let next = match response.header(reqwest::header::LOCATION) {
                    Some(_) => self
                        .session
                        .upload_location(&response)
                        .map_err(|kind| (kind, None))?,
                    None => location,
                };
                self.close(with_digest(next, &digest)).await?;
                Ok((digest, size))
            }
        }
    }

    async fn begin(&self) -> Result<Url, ErrorKind> {
        let mut request = self.session.request(Method::POST, "blobs/uploads/")?;
        let response = self.session.exchange(&mut request, Tries::Policy).await?;
        match response.status() {
            200..=202 => self.session.upload_location(&response),
            _ => Err(response.into_error().await),
        }
    }

    /// Sends the whole source as one body. Gives the digest and size of what was sent.
    async fn send(&self, method: Method, url: Url) -> Result<(Response, BlobDigest, u64), Failure> {
        let meter = Meter::default();
        let length = match (self.expected, self.source.in_memory()) {
            (Some((_, size)), _) => Some(size),
            (None, Some(bytes)) => Some(bytes.len() as u64),
            (None, None) => None,
        };
        let open = || {
            (
                meter.measure(self.source.open(), length, self.progress.cloned()),
                length,
            )
        };
        let mut request = Request::new(method, url)
            .header(CONTENT_TYPE, OCTETS)
            .body(Body::Stream(&open));
        let outcome = self.session.exchange(&mut request, Tries::One).await;
        let (digest, size, failed) = meter.finish();
        if let Some(error) = failed {
            return Err((ErrorKind::Source(error), None));
        }
        let response = accepted(outcome).await?;
        if length.is_some_and(|length| length != size) {
            let broken = "the registry answered before it had the whole blob".to_owned();
            return Err((ErrorKind::Broken(broken), None));
        }
        let expected = self.expected.as_ref().map(|(digest, _)| digest);
        verify(expected, digest).map_err(|kind| (kind, None))?;
        Ok((response, digest, size))
    }

    async fn close(&self, url: Url) -> Result<(), Failure> {
        let mut request = Request::new(Method::PUT, url).header(CONTENT_TYPE, OCTETS);
        let outcome = self.session.exchange(&mut request, Tries::One).await;
        accepted(outcome).await.map(|_| ())
    }
}

async fn accepted(outcome: Result<Response, ErrorKind>) -> Result<Response, Failure> {
    let response = outcome.map_err(|kind| (kind, None))?;
    match response.status() {
        200..=204 => Ok(response),
        _ => {
            let wait = retry_after(response.headers(), SystemTime::now());
            Err((response.into_error().await, wait))
        }
    }
}

/// An upload's location keeps its own query: the registry's state is in it.
fn with_digest(mut location: Url, digest: &BlobDigest) -> Url {
    location
        .query_pairs_mut()
        .append_pair("digest", &digest.to_string());
    location
}

/// Watches a body as it is sent: hashes and counts it, and keeps the source's error apart from
/// the connection's.
#[derive(Default)]
struct Meter {
    state: Arc<Mutex<MeterState>>,
}

struct MeterState {
    hasher: HashingStream<io::Sink>,
    failed: Option<io::Error>,
}

impl Default for MeterState {
    fn default() -> Self {
        Self {
            hasher: HashingStream::new(io::sink()),
            failed: None,
        }
    }
}

impl Meter {
    /// Measures a stream from its beginning; what was measured before is forgotten.
    fn measure(
        &self,
        stream: BlobStream,
        length: Option<u64>,
        progress: Option<Progress>,
    ) -> BlobStream {
        *locked(&self.state) = MeterState::default();
        let (state, at_end, on_error) =
            (self.state.clone(), self.state.clone(), self.state.clone());
        let counted = stream.and_then(move |piece| {
            let counted = count(&mut locked(&state), &piece, length);
            if let (Ok(sent), Some(progress)) = (&counted, &progress) {
                progress(*sent);
            }
            std::future::ready(counted.map(|_| piece))
        });
        let end = futures_util::stream::once(async move { check_end(&locked(&at_end), length) });
        let whole = counted.chain(end.try_filter_map(|()| std::future::ready(Ok(None))));
        Box::pin(whole.map_err(move |error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            locked(&on_error).failed = Some(error);
            copy
        }))
    }

    fn finish(&self) -> (BlobDigest, u64, Option<io::Error>) {
        let state = std::mem::take(&mut *locked(&self.state));
        let (_, digest, size) = state.hasher.finish();
        (BlobDigest(digest), size, state.failed)
    }
}

fn count(state: &mut MeterState, piece: &[u8], length: Option<u64>) -> io::Result<u64> {
    state.hasher.write_all(piece)?;
    let sent = state.hasher.bytes();
    match length {
        Some(length) if sent > length => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than the {length} bytes announced"),
        )),
        _ => Ok(sent),
    }
}

fn check_end(state: &MeterState, length: Option<u64>) -> io::Result<()> {
    let sent = state.hasher.bytes();
    match length {
        Some(length) if sent < length => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("it has only {sent} of the {length} bytes announced"),
        )),
        _ => Ok(()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_an_upload_location_is_kept() {
        let digest = BlobDigest(Digest::of(b""));
        let location = Url::parse("https://h/v2/a/blobs/uploads/1?_state=a%2Fb%3D&x").unwrap();
        assert_eq!(
            with_digest(location, &digest).as_str(),
            format!(
                "https://h/v2/a/blobs/uploads/1?_state=a%2Fb%3D&x&digest=sha256%3A{}",
                digest.hex()
            )
        );
    }

    #[tokio::test]
    async fn a_source_that_gives_too_much_fails_by_itself() {
        let meter = Meter::default();
        let source = BlobSource::bytes("hello");
        let stream = meter.measure(source.open(), Some(3), None);
        assert!(stream.try_collect::<Vec<Bytes>>().await.is_err());
        let (_, _, failed) = meter.finish();
        assert_eq!(
            failed.unwrap().to_string(),
            "it has more than the 3 bytes announced"
        );
    }
}
