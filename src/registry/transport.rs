//! One HTTP exchange after the other: connections, schemes, redirects, time-outs, retries.
//!
//! Nothing here knows what a registry is. An `Authorization` header goes only to the origin it
//! was made for: a redirect to any other scheme, host or port is followed without it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Method, StatusCode};
use url::Url;

use super::endpoint::{Address, Endpoint, authority_of, is_loopback};
use super::error::{ErrorKind, explanation, is_transient_status, shown};
use super::retry::{Backoff, RetryPolicy, retry_after};
use super::source::{BlobStream, pieces};
use super::tls::{self, Trust};

const MAX_REDIRECTS: usize = 10;
const MAX_ERROR_BODY: u64 = 64 << 10;
const HTTP2_WINDOW: u32 = 8 << 20;

/// How long the client waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// Between two pieces of a stream, in either direction.
    pub idle: Duration,
    /// For an answer, once the request has been sent.
    pub response: Duration,
    /// For the answer to an upload: a registry may copy a large blob before it answers.
    pub upload_response: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            response: Duration::from_secs(60),
            upload_response: Duration::from_secs(300),
        }
    }
}

/// The part of the client's options that concerns connections.
#[derive(Debug, Clone)]
pub(super) struct TransportOptions {
    pub(super) user_agent: String,
    /// Whether hosts of this machine may be spoken to without TLS or with any certificate.
    pub(super) trusts_loopback: bool,
    pub(super) insecure: BTreeSet<String>,
    pub(super) extra_roots: Vec<PathBuf>,
    pub(super) certificate_folders: Vec<PathBuf>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: RetryPolicy,
}

/// Connections to any number of hosts.
pub(crate) struct Transport {
    options: TransportOptions,
    clients: Mutex<BTreeMap<Route, reqwest::Client>>,
    origins: Mutex<BTreeMap<String, Url>>,
}

/// Connections that may share a pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    trust: Trust,
    /// Past any proxy.
    direct: bool,
    /// `certs.d` folders of the host.
    folders: Vec<PathBuf>,
}

/// What a request carries.
pub(crate) enum Body<'a> {
    Empty,
    Bytes(Bytes),
    /// Opened anew for each try; the second value is the length, where it is known.
    Stream(&'a (dyn Fn() -> (BlobStream, Option<u64>) + Send + Sync)),
}

/// A request that can be made several times.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) body: Body<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: Body::Empty,
        }
    }

    pub(crate) fn header(mut self, name: reqwest::header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn body(mut self, body: Body<'a>) -> Self {
        self.body = body;
        self
    }
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(crate) struct Response {
    inner: reqwest::Response,
    /// Where it came from in the end.
    pub(crate) url: Url,
    /// Whether a redirect led away from the origin that was asked.
    pub(super) foreign: bool,
    idle: Duration,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header's value, where it is there and readable.
    pub(crate) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The length that the `Content-Length` header announces. (For the answer to a HEAD, the
    /// length of the body says nothing.)
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The media type without its parameters.
    pub(super) fn content_type(&self) -> Option<&str> {
        let value = self.header(CONTENT_TYPE)?;
        let name = value.split_once(';').map_or(value, |(name, _)| name).trim();
        (!name.is_empty()).then_some(name)
    }

    /// The `Location` header, resolved against the URL that sent it.
    pub(super) fn location(&self) -> Result<Url, ErrorKind> {
        let malformed = |reason: &str| ErrorKind::malformed("the `Location` header", reason);
        let value = self
            .headers()
            .get(LOCATION)
            .ok_or_else(|| malformed("it is missing"))?;
        let text = value.to_str().map_err(|_| malformed("it is not ASCII"))?;
        let url = self
            .url
            .join(text)
            .map_err(|error| malformed(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(malformed("it is not an HTTP URL"));
        }
        Ok(url)
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ErrorKind> {
        match tokio::time::timeout(self.idle, self.inner.chunk()).await {
            Ok(chunk) => chunk.map_err(ErrorKind::from_http),
            Err(_) => Err(ErrorKind::Timeout {
                doing: "receiving",
                after: self.idle,
            }),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// The connection breaks, or the body has more than `limit` bytes.
    pub(super) async fn bytes(
        mut self,
        what: &'static str,
        limit: u64,
    ) -> Result<Bytes, ErrorKind> {
        let too_large = ErrorKind::TooLarge { what, limit };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large);
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// The error that this answer is: its status and the body's explanation.
    pub(crate) async fn into_error(self) -> ErrorKind {
        let status = self.status();
        let foreign = self.foreign.then(|| authority_of(&self.url));
        let body = self.bytes("the error's explanation", MAX_ERROR_BODY).await;
        let (code, message) = explanation(&body.unwrap_or_default());
        ErrorKind::Status(super::error::StatusError {
            status,
            code,
            message,
            hint: foreign.map(|host| format!("the answer came from `{host}`, after a redirect")),
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    pub(super) fn new(options: TransportOptions) -> Self {
        Self {
            options,
            clients: Mutex::default(),
            origins: Mutex::default(),
        }
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        self.options.retry
    }

    /// Whether `url`'s host may be spoken to without TLS or with any certificate.
    fn may_be_insecure(&self, url: &Url) -> bool {
        (self.options.trusts_loopback && is_loopback(url))
            || self.options.insecure.contains(&authority_of(url))
    }

    fn client(&self, url: &Url) -> Result<reqwest::Client, ErrorKind> {
        let authority = authority_of(url);
        let route = Route {
            trust: if self.may_be_insecure(url) {
                Trust::Unverified
            } else {
                Trust::Verified
            },
            direct: is_loopback(url),
            folders: self
                .options
                .certificate_folders
                .iter()
                .map(|folder| folder.join(&authority))
                .filter(|folder| url.scheme() == "https" && folder.is_dir())
                .collect(),
        };
        let mut clients = locked(&self.clients);
        if let Some(client) = clients.get(&route) {
            return Ok(client.clone());
        }
        let tls = tls::configure(route.trust, &self.options.extra_roots, &route.folders)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(&self.options.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.options.timeouts.connect)
            .tcp_keepalive(Duration::from_secs(30))
            // The defaults hold a layer back on links with much delay.
            .http2_initial_stream_window_size(HTTP2_WINDOW)
            .http2_initial_connection_window_size(2 * HTTP2_WINDOW);
        if route.direct {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(ErrorKind::from_http)?;
        clients.insert(route, client.clone());
        Ok(client)
    }

    /// The base URL of an endpoint. HTTPS, except that a host which may be insecure is asked
    /// whether it speaks TLS, once, and plain HTTP is taken if it does not.
    pub(super) async fn origin(&self, endpoint: &Endpoint) -> Result<Url, ErrorKind> {
        let authority = match &endpoint.address {
            Address::Fixed(url) => return Ok(url.clone()),
            Address::Authority(authority) => authority,
        };
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{authority}/")).map_err(|error| {
                ErrorKind::malformed("the registry's host name", error.to_string())
            })
        };
        let (secure, plain) = (parse("https")?, parse("http")?);
        if !self.may_be_insecure(&secure) && !self.may_be_insecure(&plain) {
            return Ok(secure);
        }
        if let Some(origin) = locked(&self.origins).get(authority) {
            return Ok(origin.clone());
        }
        let origin = match self.speaks(&secure).await {
            Ok(()) => secure,
            Err(_) => match self.speaks(&plain).await {
                Ok(()) => plain,
                Err(error) => return Err(error),
            },
        };
        locked(&self.origins).insert(authority.clone(), origin.clone());
        Ok(origin)
    }

    async fn speaks(&self, origin: &Url) -> Result<(), ErrorKind> {
        const PROBE: Duration = Duration::from_secs(5);
        let url = origin.join("v2/").map_err(|_| {
            ErrorKind::malformed("the registry's host name", "it cannot be part of a URL")
        })?;
        let client = self.client(&url)?;
        match tokio::time::timeout(PROBE, client.get(url).send()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ErrorKind::from_http(error)),
            Err(_) => Err(ErrorKind::Timeout {
                doing: "connecting",
                after: PROBE,
            }),
        }
    }

    /// Makes the request until it is answered with anything but a passing failure, or the
    /// tries are used up; the last answer is returned whatever it is.
    pub(crate) async fn exchange(&self, request: &Request<'_>) -> Result<Response, ErrorKind> {
        let mut backoff = Backoff::new(self.options.retry);
        loop {
            let outcome = self.exchange_once(request).await;
            let wait = match &outcome {
                Ok(response) if !is_transient_status(response.status()) => return outcome,
                Ok(response) => retry_after(response.headers(), SystemTime::now()),
                Err(error) if error.is_transient() => None,
                Err(_) => return outcome,
            };
            let Some(delay) = backoff.next_delay(wait) else {
                return outcome;
            };
            tracing::debug!(
                "{} {}: trying again in {delay:?}",
                request.method,
                shown(&request.url)
            );
            tokio::time::sleep(delay).await;
        }
    }

    /// Makes the request once, redirects followed.
    pub(crate) async fn exchange_once(&self, request: &Request<'_>) -> Result<Response, ErrorKind> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let foreign = url.origin() != request.url.origin();
            let inner = self.send(request, &url, foreign).await?;
            let response = Response {
                inner,
                url,
                foreign,
                idle: self.options.timeouts.idle,
            };
            if !is_redirect(&request.method, response.inner.status()) {
                return Ok(response);
            }
            let next = response.location()?;
            if response.url.scheme() == "https"
                && next.scheme() == "http"
                && !self.may_be_insecure(&next)
            {
                return Err(ErrorKind::InsecureRedirect(shown(&next)));
            }
            url = next;
        }
        Err(ErrorKind::TooManyRedirects(MAX_REDIRECTS))
    }

    async fn send(
        &self,
        request: &Request<'_>,
        url: &Url,
        foreign: bool,
    ) -> Result<reqwest::Response, ErrorKind> {
        let mut builder = self
            .client(url)?
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone());
        if let Some(authorization) = request.authorization.as_ref().filter(|_| !foreign) {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let timeouts = &self.options.timeouts;
        let is_read = matches!(request.method, Method::GET | Method::HEAD);
        let patience = match is_read {
            true => timeouts.response,
            false => timeouts.upload_response,
        };
        let activity = Activity::default();
        builder = match &request.body {
            // Go's registries answer 411 to a body without a length, even an absent one.
            Body::Empty if is_read => builder,
            Body::Empty => builder.header(CONTENT_LENGTH, 0),
            Body::Bytes(bytes) => builder
                .header(CONTENT_LENGTH, bytes.len())
                .body(activity.watch(pieces(bytes.clone()), Some(bytes.len() as u64))),
            Body::Stream(open) => {
                let (stream, length) = open();
                if let Some(length) = length {
                    builder = builder.header(CONTENT_LENGTH, length);
                }
                builder.body(activity.watch(stream, length))
            }
        };
        let sent = builder.send();
        tokio::select! {
            sent = sent => sent.map_err(ErrorKind::from_http),
            error = activity.stalled(timeouts.idle, patience) => Err(error),
        }
    }
}

fn is_redirect(method: &Method, status: StatusCode) -> bool {
    match status.as_u16() {
        307 | 308 => true,
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

/// Sees whether a body still flows.
#[derive(Default)]
struct Activity {
    state: Arc<ActivityState>,
}

#[derive(Default)]
struct ActivityState {
    pieces: AtomicU64,
    is_sending: AtomicBool,
}

impl Activity {
    fn watch(&self, stream: BlobStream, length: Option<u64>) -> reqwest::Body {
        self.state.is_sending.store(true, Ordering::Relaxed);
        let (state, at_end) = (self.state.clone(), self.state.clone());
        let mut sent = 0;
        let watched = stream.inspect_ok(move |piece| {
            sent += piece.len() as u64;
            state.pieces.fetch_add(1, Ordering::Relaxed);
            // A body of known length is not asked for more once it is complete.
            if length.is_some_and(|length| sent >= length) {
                state.is_sending.store(false, Ordering::Relaxed);
            }
        });
        let end = futures_util::stream::poll_fn(move |_| {
            at_end.is_sending.store(false, Ordering::Relaxed);
            std::task::Poll::Ready(None)
        });
        reqwest::Body::wrap_stream(watched.chain(end))
    }

    /// Returns when nothing has moved for `idle` while the body was sent, or for `patience`
    /// after it.
    async fn stalled(&self, idle: Duration, patience: Duration) -> ErrorKind {
        let mut seen = self.state.pieces.load(Ordering::Relaxed);
        loop {
            let is_sending = self.state.is_sending.load(Ordering::Relaxed);
            let (after, doing) = match is_sending {
                true => (idle, "sending"),
                false => (patience, "waiting for the answer"),
            };
            tokio::time::sleep(after).await;
            let now = self.state.pieces.load(Ordering::Relaxed);
            let still_sending = self.state.is_sending.load(Ordering::Relaxed);
            if now == seen && still_sending == is_sending {
                return ErrorKind::Timeout { doing, after };
            }
            seen = now;
        }
    }
}
