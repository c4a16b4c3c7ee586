//! Pulling blobs: streamed, resumed where a connection broke, verified.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError, is_transient_status};
use super::pull::no_endpoint;
use super::retry::{Backoff, retry_after};
use super::session::{Session, Tries};
use super::{Client, Progress};
use crate::digest::{BlobDigest, HashingStream};
use crate::image::manifest::Descriptor;
use crate::reference::Reference;

/// An attempt that got this far earns the next failure a fresh set of tries. Less does not,
/// or a registry that breaks off after each byte would never be given up.
const ENOUGH_PROGRESS: u64 = 1 << 20;

/// Lets a blocking writer (a file, a hasher) take a blob. Each piece is written at once, on
/// the runtime's thread: for a writer that may wait long, use an asynchronous one.
#[derive(Debug)]
pub struct WriteSink<W>(pub W);

impl<W: Write + Unpin> AsyncWrite for WriteSink<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.0.write(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

/// A blob on its way: what has arrived outlives the connection it came by.
struct Download<'a, W: ?Sized> {
    descriptor: &'a Descriptor,
    sink: &'a mut W,
    progress: Option<&'a Progress>,
    hasher: HashingStream<io::Sink>,
}

impl Client {
    /// Pulls a blob of `reference`'s repository into `sink`, from mirrors where there are any.
    /// A broken connection is taken up again where it broke. Success means that exactly the
    /// descriptor's bytes have been written and flushed; after an error the sink holds
    /// anything and must be thrown away.
    ///
    /// # Errors
    /// The registry can't be reached, refuses, or does not have the blob; size or digest are
    /// not the descriptor's; the sink fails.
    pub async fn blob<W: AsyncWrite + Unpin + Send + ?Sized>(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut W,
        progress: Option<&Progress>,
    ) -> Result<(), RegistryError> {
        let name = reference.familiar_name();
        let action = format!("pull blob `{}` of `{name}`", descriptor.digest);
        let mut download = Download {
            descriptor,
            sink,
            progress,
            hasher: HashingStream::new(io::sink()),
        };
        let mut last = None;
        for endpoint in self.inner.endpoints(reference) {
            match self
                .blob_at(endpoint.clone(), reference, &action, &mut download)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => last = Some(self.inner.passed_over(&endpoint, error, last)),
            }
        }
        Err(last.unwrap_or_else(|| no_endpoint(action, reference)))
    }

    async fn blob_at<W: AsyncWrite + Unpin + Send + ?Sized>(
        &self,
        endpoint: Endpoint,
        reference: &Reference,
        action: &str,
        download: &mut Download<'_, W>,
    ) -> Result<(), RegistryError> {
        let session = Session::open(self, endpoint, reference, false, action).await?;
        match download.run(&session).await {
            Ok(()) => Ok(()),
            Err(kind) => Err(session
                .error(kind, "the registry has lost it: push the image again")
                .await),
        }
    }

    /// A whole blob, held in memory.
    ///
    /// # Errors
    /// As [`blob`](Self::blob); the descriptor names more than `limit` bytes.
    pub async fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size > limit {
            let action = format!("pull {what} of `{}`", reference.familiar());
            let kind = ErrorKind::TooLarge { what, limit };
            return Err(RegistryError::new(action, reference.domain(), kind));
        }
        let mut bytes = Vec::new();
        self.blob(reference, descriptor, &mut bytes, None).await?;
        Ok(bytes)
    }
}

impl RegistryError {
    /// Whether no other host can do better: the sink has failed or holds wrong bytes.
    fn is_final(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Sink(_) | ErrorKind::DigestMismatch { .. } | ErrorKind::SizeMismatch { .. }
        )
    }
}

impl<W: AsyncWrite + Unpin + Send + ?Sized> Download<'_, W> {
    async fn run(&mut self, session: &Session<'_>) -> Result<(), ErrorKind> {
        let mut backoff = Backoff::new(session.client().transport.retry_policy());
        loop {
            let before = self.hasher.bytes();
            let (kind, wait) = match self.attempt(session).await {
                Ok(()) => return self.finish().await,
                Err(failure) => failure,
            };
            if !kind.is_transient() {
                return Err(kind);
            }
            if self.hasher.bytes() - before >= ENOUGH_PROGRESS {
                backoff.progressed();
            }
            match backoff.next_delay(wait) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(kind),
            }
        }
    }

    /// Fetches what is missing, over one connection. The second part of a failure is how long
    /// the registry asks to wait.
    async fn attempt(
        &mut self,
        session: &Session<'_>,
    ) -> Result<(), (ErrorKind, Option<std::time::Duration>)> {
        let at_once = |kind| (kind, None);
        let digest = self.descriptor.digest;
        let received = self.hasher.bytes();
        let mut request = session
            .request(Method::GET, &format!("blobs/{digest}"))
            .map_err(at_once)?;
        if received > 0 {
            let range = HeaderValue::from_str(&format!("bytes={received}-"));
            let range = range.map_err(|error| at_once(ErrorKind::Setup(error.to_string())))?;
            request = request.header(RANGE, range);
        }
        let mut response = session
            .exchange(&mut request, Tries::One)
            .await
            .map_err(at_once)?;
        let mut skip = match response.status() {
            // Without support for ranges the blob comes from its beginning.
            200 => received,
            206 => {
                let start = response.header(CONTENT_RANGE).and_then(range_start);
                if start != Some(received) {
                    let reason = format!("it does not begin at byte {received}");
                    return Err(at_once(ErrorKind::malformed(
                        "the `Content-Range` header",
                        reason,
                    )));
                }
                0
            }
            404 if is_foreign_layer(self.descriptor) => {
                return Err(at_once(ErrorKind::ForeignLayer(digest)));
            }
            status => {
                let wait = is_transient_status(status)
                    .then(|| retry_after(response.headers(), SystemTime::now()));
                return Err((response.into_error().await, wait.flatten()));
            }
        };
        while let Some(mut chunk) = response.chunk().await.map_err(at_once)? {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            // `skipped` is at most the chunk's length.
            let _ = chunk.split_to(skipped as usize);
            self.take(&chunk).await.map_err(at_once)?;
        }
        if self.hasher.bytes() < self.descriptor.size {
            let broken = "it ended before the whole blob had come".to_owned();
            return Err(at_once(ErrorKind::Broken(broken)));
        }
        Ok(())
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), ErrorKind> {
        let after = self.hasher.bytes().saturating_add(chunk.len() as u64);
        if after > self.descriptor.size {
            return Err(ErrorKind::SizeMismatch {
                expected: self.descriptor.size,
                actual: after,
            });
        }
        self.sink.write_all(chunk).await.map_err(ErrorKind::Sink)?;
        self.hasher.write_all(chunk).map_err(ErrorKind::Sink)?;
        if let Some(progress) = self.progress {
            progress(after);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ErrorKind> {
        let hasher = std::mem::replace(&mut self.hasher, HashingStream::new(io::sink()));
        let (_, digest, _) = hasher.finish();
        super::pull::verify(Some(&self.descriptor.digest), BlobDigest(digest))?;
        self.sink.flush().await.map_err(ErrorKind::Sink)
    }
}

/// The first byte that a `Content-Range: bytes FIRST-LAST/SIZE` names.
fn range_start(value: &str) -> Option<u64> {
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    let (first, _) = range.split_once('-')?;
    first.trim().parse().ok()
}

fn is_foreign_layer(descriptor: &Descriptor) -> bool {
    let name = &descriptor.media_type;
    name.contains(".foreign.") || name.contains(".nondistributable.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (value, expected) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-0/*", Some(0)),
            ("bytes */10", None),
            ("5-9/10", None),
            ("", None),
        ] {
            assert_eq!(range_start(value), expected, "{value}");
        }
    }

    #[test]
    fn layers_kept_elsewhere_are_known_by_their_media_type() {
        let digest = BlobDigest(crate::digest::Digest::of(b""));
        for (name, expected) in [
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                true,
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                true,
            ),
            ("application/vnd.oci.image.layer.v1.tar+gzip", false),
        ] {
            let descriptor = Descriptor::new(name, digest, 0);
            assert_eq!(is_foreign_layer(&descriptor), expected, "{name}");
        }
    }
}
