//! One URL to content in the store.
//!
//! What a URL gave before is asked for again only where it may have changed: by its entity tag,
//! first with a HEAD, as some servers give tags and answer no conditions; else by its time. A
//! broken connection is taken up where it broke if the server can say that it still has the same.
//!
//! Nothing that a server says ends up in a path, and no credential leaves the URL's own origin.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flate2::write::MultiGzDecoder;
use reqwest::Method;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use url::Url;

use super::error::HttpError;
use crate::digest::BlobDigest;
use crate::registry::{
    Backoff, Client, ErrorKind, Request, Response, is_transient_status, retry_after, shown,
};
use crate::store::{BlobWriter, DownloadRecord, Store, StoreError};
use crate::time::Timestamp;

/// An attempt that got this far earns the next failure a fresh set of tries.
const ENOUGH_PROGRESS: u64 = 1 << 20;
/// The longest tag or time of a server's that is remembered.
const MAX_VALIDATOR: usize = 1024;
/// Seconds within which a change might not show in a `Last-Modified` header.
const RACY: i64 = 60;

/// Told how many bytes have come so far, and of how many, where that is known.
pub type HttpProgress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// What to fetch.
#[derive(Clone)]
pub struct HttpRequest {
    /// Where it is. A name and a password in it are for its own origin only.
    pub url: String,
    /// The `Authorization` header for its origin.
    pub authorization: Option<HeaderValue>,
    /// What it must be.
    pub checksum: Option<BlobDigest>,
}

/// What a URL gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The content, a blob of the store.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last, as the server has it: seconds since the Unix epoch.
    pub modified: Option<i64>,
    /// Whether the store had it.
    pub was_known: bool,
}

/// Fetches over HTTP into a store.
#[derive(Clone)]
pub struct HttpClient {
    client: Client,
    store: Store,
}

/// A URL fit to be shown: without user, password, query and fragment.
pub fn shown_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => shown(&url),
        Err(_) => {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            let (scheme, rest) = url[..end].split_once("://").unwrap_or(("", &url[..end]));
            let host_end = rest.find('/').unwrap_or(rest.len());
            let start = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[start..])
        }
    }
}

impl HttpClient {
    /// Connects as `client` does.
    pub fn new(client: Client, store: Store) -> Self {
        Self { client, store }
    }

    /// Where what is fetched is kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Brings what the URL gives now into the store. Where a checksum says what that is, and the
    /// URL has given just that before, nobody is asked.
    ///
    /// # Errors
    /// When the server can't be reached or has no answer, or it is not what the checksum says.
    pub async fn fetch(
        &self,
        request: &HttpRequest,
        progress: &HttpProgress,
    ) -> Result<Download, HttpError> {
        let fetch = Fetch::new(self, request, progress)?;
        let known = self.known(&request.url)?;
        if let Some((record, download)) = &known {
            let is_wanted = request.checksum == Some(record.digest);
            if is_wanted || fetch.has_same_tag(record).await {
                return fetch.checked(download);
            }
        }
        match fetch.get(known.as_ref().map(|(record, _)| record)).await? {
            Some(download) => Ok(download),
            None => match &known {
                Some((_, download)) => fetch.checked(download),
                None => Err(fetch.error(ErrorKind::malformed(
                    "the answer",
                    "it says that nothing has changed, and was not asked",
                ))),
            },
        }
    }

    /// What the URL gave last, if it is still in the store.
    fn known(&self, url: &str) -> Result<Option<(DownloadRecord, Download)>, StoreError> {
        let Some(record) = self.store.download(url)? else {
            return Ok(None);
        };
        let Some(size) = self.store.blob_size(&record.digest)? else {
            return Ok(None);
        };
        let download = Download {
            digest: record.digest,
            size,
            modified: modified(record.last_modified.as_deref()),
            was_known: true,
        };
        Ok(Some((record, download)))
    }
}

/// One URL that is being fetched.
struct Fetch<'a> {
    client: &'a HttpClient,
    request: &'a HttpRequest,
    progress: &'a HttpProgress,
    url: Url,
    shown: String,
}

/// Content on its way: what has arrived may outlive the connection it came by.
struct Partial {
    body: Body,
    /// Bytes that have come, as they were sent.
    received: u64,
    /// How many there are to be.
    total: Option<u64>,
    etag: Option<String>,
    last_modified: Option<String>,
    /// With which the rest can be asked for.
    validator: Option<HeaderValue>,
}

/// Where content goes.
enum Body {
    Plain(BlobWriter),
    /// The server has compressed it on its own account.
    Gzip(Box<MultiGzDecoder<BlobWriter>>),
}

/// A failure, and how long the server asks to wait.
type Failure = (ErrorKind, Option<Duration>);

fn at_once(kind: ErrorKind) -> Failure {
    (kind, None)
}

impl<'a> Fetch<'a> {
    fn new(
        client: &'a HttpClient,
        request: &'a HttpRequest,
        progress: &'a HttpProgress,
    ) -> Result<Self, HttpError> {
        let invalid = |reason: String| HttpError::Url {
            shown: shown_url(&request.url),
            reason,
        };
        let mut url = Url::parse(&request.url).map_err(|error| invalid(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("it is neither http nor https".to_owned()));
        }
        if request.authorization.is_some() {
            // Only one of them can be sent. A URL with a host takes both changes.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        url.set_fragment(None);
        Ok(Self {
            client,
            request,
            progress,
            shown: shown(&url),
            url,
        })
    }

    fn error(&self, kind: ErrorKind) -> HttpError {
        HttpError::Fetch {
            url: self.shown.clone(),
            kind: Box::new(kind),
        }
    }

    fn mismatch(&self, expected: BlobDigest, found: BlobDigest) -> HttpError {
        HttpError::Mismatch {
            url: self.shown.clone(),
            expected,
            found,
        }
    }

    /// What the store has, if it is what is wanted.
    fn checked(&self, download: &Download) -> Result<Download, HttpError> {
        match self.request.checksum {
            Some(expected) if expected != download.digest => {
                Err(self.mismatch(expected, download.digest))
            }
            _ => Ok(download.clone()),
        }
    }

    fn ask(&self, method: Method, conditions: &[(HeaderName, &str)]) -> Request<'static> {
        let mut request = Request::new(method, self.url.clone());
        request
            .authorization
            .clone_from(&self.request.authorization);
        for (name, value) in conditions {
            // They came out of a header once.
            if let Ok(value) = HeaderValue::from_str(value) {
                request = request.header(name.clone(), value);
            }
        }
        request
    }

    /// Whether the server says that it has what it had. Any other answer is none.
    async fn has_same_tag(&self, record: &DownloadRecord) -> bool {
        let Some(etag) = &record.etag else {
            return false;
        };
        let request = self.ask(Method::HEAD, &[(IF_NONE_MATCH, etag)]);
        match self.client.client.downloads().exchange_once(&request).await {
            Ok(response) => is_unchanged(&response, record, &[200, 304]),
            Err(error) => {
                tracing::debug!("HEAD {}: {error}", self.shown);
                false
            }
        }
    }

    /// Fetches it. `None`: it is what the store has.
    async fn get(&self, known: Option<&DownloadRecord>) -> Result<Option<Download>, HttpError> {
        let mut backoff = Backoff::new(self.client.client.downloads().retry_policy());
        let mut partial: Option<Partial> = None;
        loop {
            let before = partial.as_ref().map_or(0, |partial| partial.received);
            let (kind, wait) = match self.attempt(known, &mut partial).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            if !kind.is_transient() {
                return Err(self.error(kind));
            }
            let after = partial.as_ref().map_or(0, |partial| partial.received);
            if after.saturating_sub(before) >= ENOUGH_PROGRESS {
                backoff.progressed();
            }
            let Some(delay) = backoff.next_delay(wait) else {
                return Err(self.error(kind));
            };
            tracing::debug!("GET {}: {kind}; trying again in {delay:?}", self.shown);
            tokio::time::sleep(delay).await;
        }
        partial.map(|partial| self.finish(partial)).transpose()
    }

    /// Fetches what is missing, over one connection. Without anything in `partial` afterwards,
    /// there was nothing new.
    async fn attempt(
        &self,
        known: Option<&DownloadRecord>,
        partial: &mut Option<Partial>,
    ) -> Result<(), Failure> {
        let resumed = partial.take().filter(|partial| partial.validator.is_some());
        let mut request = self.ask(Method::GET, &conditions(known));
        if let Some(resumed) = &resumed {
            let range = format!("bytes={}-", resumed.received);
            request = self.ask(Method::GET, &[(RANGE, &range)]);
            if let Some(validator) = &resumed.validator {
                request = request.header(IF_RANGE, validator.clone());
            }
        }
        let transport = self.client.client.downloads();
        let response = transport.exchange_once(&request).await.map_err(at_once);
        let mut response = match response {
            Ok(response) => response,
            Err(failure) => {
                *partial = resumed;
                return Err(failure);
            }
        };
        let into = match (response.status(), resumed) {
            (206, Some(resumed)) => {
                let start = response.header(CONTENT_RANGE).and_then(range_start);
                if start != Some(resumed.received) {
                    let reason = format!("it does not begin at byte {}", resumed.received);
                    let what = "the `Content-Range` header";
                    return Err(at_once(ErrorKind::malformed(what, reason)));
                }
                partial.insert(resumed)
            }
            (206, None) => {
                return Err(at_once(ErrorKind::malformed(
                    "the answer",
                    "it is a part, and the whole was asked for",
                )));
            }
            (200..=299, _) => partial.insert(self.begin(&response).map_err(at_once)?),
            (304, None) if known.is_some_and(|record| is_unchanged(&response, record, &[304])) => {
                return Ok(());
            }
            (status, resumed) => {
                let wait = is_transient_status(status)
                    .then(|| retry_after(response.headers(), SystemTime::now()));
                // What can't be continued is begun anew.
                *partial = resumed.filter(|_| is_transient_status(status));
                if status == 416 && request.headers.contains_key(RANGE) {
                    return Err(at_once(ErrorKind::Broken("it can't be resumed".to_owned())));
                }
                return Err((response.into_error().await, wait.flatten()));
            }
        };
        while let Some(chunk) = response.chunk().await.map_err(at_once)? {
            into.body.take(&chunk).map_err(at_once)?;
            into.received += chunk.len() as u64;
            (self.progress)(into.received, into.total);
        }
        match into.total {
            Some(total) if total != into.received => {
                let broken = format!("{} of {total} bytes came", into.received);
                Err(at_once(ErrorKind::Broken(broken)))
            }
            _ => Ok(()),
        }
    }

    fn begin(&self, response: &Response) -> Result<Partial, ErrorKind> {
        let writer = self.client.store.ingest();
        let writer = writer.map_err(|error| ErrorKind::Sink(std::io::Error::other(error)))?;
        let remembered = |name| {
            let value = response.header(name)?.trim();
            (!value.is_empty() && value.len() <= MAX_VALIDATOR).then(|| value.to_owned())
        };
        let (etag, last_modified) = (remembered(ETAG), remembered(LAST_MODIFIED));
        let is_compressed = response
            .header(CONTENT_ENCODING)
            .is_some_and(|encoding| encoding.trim().eq_ignore_ascii_case("gzip"));
        // A weak tag doesn't promise the same bytes.
        let strong = etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        let total = response.content_length();
        (self.progress)(0, total);
        Ok(Partial {
            received: 0,
            total,
            validator: strong
                .filter(|_| !is_compressed)
                .and_then(|etag| HeaderValue::from_str(etag).ok()),
            etag,
            last_modified,
            body: if is_compressed {
                Body::Gzip(Box::new(MultiGzDecoder::new(writer)))
            } else {
                Body::Plain(writer)
            },
        })
    }

    fn finish(&self, partial: Partial) -> Result<Download, HttpError> {
        let writer = match partial.body {
            Body::Plain(writer) => writer,
            Body::Gzip(decoder) => decoder
                .finish()
                .map_err(|error| self.error(undecodable(&error)))?,
        };
        let (digest, size) = match writer.commit(self.request.checksum) {
            Err(StoreError::WrongDigest { expected, found }) => {
                return Err(self.mismatch(expected, found));
            }
            committed => committed?,
        };
        let record = DownloadRecord {
            digest,
            etag: partial.etag,
            last_modified: partial.last_modified,
            fetched: Timestamp::now().seconds(),
        };
        self.client.store.put_download(&self.request.url, &record)?;
        Ok(Download {
            digest,
            size,
            modified: modified(record.last_modified.as_deref()),
            was_known: false,
        })
    }
}

impl Body {
    fn take(&mut self, chunk: &[u8]) -> Result<(), ErrorKind> {
        match self {
            Self::Plain(writer) => writer.write_all(chunk).map_err(ErrorKind::Sink),
            Self::Gzip(decoder) => decoder
                .write_all(chunk)
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                        undecodable(&error)
                    }
                    _ => ErrorKind::Sink(error),
                }),
        }
    }
}

fn undecodable(error: &std::io::Error) -> ErrorKind {
    ErrorKind::malformed("the gzip encoding of the answer", error.to_string())
}

/// The headers that ask for content only where it is other than `known`.
fn conditions(known: Option<&DownloadRecord>) -> Vec<(HeaderName, &str)> {
    let Some(record) = known else {
        return Vec::new();
    };
    if let Some(etag) = &record.etag {
        return vec![(IF_NONE_MATCH, etag)];
    }
    let time = record.last_modified.as_deref();
    let is_settled = |time: &&str| {
        let changed = Timestamp::from_http_date(time);
        changed.is_some_and(|changed| changed.seconds() < record.fetched.saturating_sub(RACY))
    };
    let time = time.filter(is_settled);
    time.map(|time| (IF_MODIFIED_SINCE, time))
        .into_iter()
        .collect()
}

/// Whether an answer says that what `record` is of has not changed.
fn is_unchanged(response: &Response, record: &DownloadRecord, statuses: &[u16]) -> bool {
    let status = response.status();
    if !statuses.contains(&status) {
        return false;
    }
    match (response.header(ETAG), &record.etag) {
        (Some(now), Some(then)) => opaque(now) == opaque(then),
        // Of one tag, and only that was asked about, 304 need not repeat which.
        (None, Some(_)) => status == 304,
        (_, None) => status == 304,
    }
}

/// A tag without its mark of weakness: equality is all that is asked here.
fn opaque(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag)
}

/// The first byte of a `Content-Range`.
fn range_start(value: &str) -> Option<u64> {
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.trim().parse().ok()
}

fn modified(header: Option<&str>) -> Option<i64> {
    header
        .and_then(Timestamp::from_http_date)
        .map(Timestamp::seconds)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
