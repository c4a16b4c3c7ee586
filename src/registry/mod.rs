//! The registry client: pulling and pushing over the OCI distribution API 1.1.
//!
//! What it owns: connections, tokens, retries, and the proof that every byte is the one its
//! digest names. What it must never know: Dockerfiles, the store, the terminal. It reads no
//! environment variable but those of its TLS roots and proxies, and runs no program: the
//! caller hands in [`Credentials`].
//!
//! ```text
//! pull, blob, push         one file per direction: which requests an act is made of
//!    session               one act at one host: URLs, authentication, explained errors
//!       auth, challenge, credentials    who asks; login, credential_file: who will ask from now on
//!       transport, tls, endpoint, retry   how it gets there
//! ```
//!
//! Invariants:
//! - Nothing is reported as pulled before its size and digest have been verified.
//! - Credentials go to their own registry and the token server it names, never to where a
//!   redirect leads, and never over plain HTTP except to loopback and hosts listed as insecure.
//! - No credential, token or query string of a URL reaches an error or a log.

mod auth;
mod blob;
mod challenge;
mod credential_file;
mod credentials;
mod endpoint;
mod error;
mod login;
mod pull;
mod push;
mod retry;
mod session;
mod source;
mod tls;
mod transport;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use blob::WriteSink;
pub use credential_file::{CredentialFile, Kept};
pub use credentials::{Credential, Credentials, CredentialsError, HelperOutput, RunHelper, Secret};
pub use endpoint::{InvalidMirror, Mirror};
pub use error::{ErrorKind, RegistryError, StatusError};
pub use login::{InvalidServer, host_of_server};
pub use pull::RemoteImage;
pub use push::Pushed;
pub use retry::RetryPolicy;
pub use source::{BlobSource, BlobStream};
pub use transport::Timeouts;

pub(crate) use error::{is_transient_status, shown};
pub(crate) use retry::{Backoff, retry_after};
pub(crate) use transport::{Request, Response, Transport};

use auth::Authenticator;
use endpoint::Endpoint;
use transport::TransportOptions;

use crate::reference::Reference;

/// Told how many bytes of a blob have gone through so far. It may be called from any thread,
/// and should return soon. The number falls back where an upload begins anew.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Mirrors of Docker Hub, tried in order before Docker Hub itself when pulling.
    pub mirrors: Vec<Mirror>,
    /// Hosts (`host` or `host:port`, exactly as in image names) that may be spoken to with an
    /// unverified certificate or without TLS. Loopback hosts always may, as in Docker.
    pub insecure: Vec<String>,
    /// Where credentials come from.
    pub credentials: Credentials,
    /// Files of CA certificates (PEM) trusted in addition to the system's.
    pub extra_roots: Vec<PathBuf>,
    /// Folders laid out as `/etc/docker/certs.d`: `HOST[:PORT]/{*.crt,NAME.cert,NAME.key}`.
    pub certificate_folders: Vec<PathBuf>,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often to try.
    pub retry: RetryPolicy,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            mirrors: Vec::new(),
            insecure: Vec::new(),
            credentials: Credentials::none(),
            extra_roots: Vec::new(),
            certificate_folders: Vec::new(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
        }
    }
}

/// A client for any number of registries. Clones share connections and tokens. Its futures
/// need a tokio runtime with time and I/O enabled.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    /// For what is no registry's: no host gets the liberties that registries get.
    downloads: Transport,
    authenticator: Authenticator,
    mirrors: Vec<Mirror>,
    /// Mirrors that could not be reached: not asked again, or each blob would wait for them.
    silent_mirrors: Mutex<BTreeSet<String>>,
}

impl Inner {
    /// Where to pull from, in order; the last one is the registry itself.
    fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let silent = self
            .silent_mirrors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut endpoints = Endpoint::for_pull(reference, &self.mirrors);
        endpoints.retain(|endpoint| !endpoint.is_mirror() || !silent.contains(&endpoint.name));
        endpoints
    }

    /// Takes note of a failure after which the next endpoint is asked.
    fn passed_over(
        &self,
        endpoint: &Endpoint,
        error: RegistryError,
        earlier: Option<RegistryError>,
    ) -> RegistryError {
        tracing::debug!("{error}");
        if endpoint.is_mirror() && error.is_unreachable() {
            let mut silent = self
                .silent_mirrors
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            silent.insert(endpoint.name.clone());
        }
        match earlier {
            Some(mirror) => error.after(mirror),
            None => error,
        }
    }
}

impl Client {
    /// A client. Nothing is read or connected yet: broken certificate or credential files show
    /// in the first act that needs them.
    pub fn new(options: ClientOptions) -> Self {
        let insecure = options
            .insecure
            .iter()
            .map(|host| host.to_ascii_lowercase());
        let for_registries = TransportOptions {
            user_agent: options.user_agent,
            trusts_loopback: true,
            insecure: insecure.collect(),
            extra_roots: options.extra_roots,
            certificate_folders: options.certificate_folders,
            timeouts: options.timeouts,
            retry: options.retry,
        };
        let for_downloads = TransportOptions {
            trusts_loopback: false,
            insecure: BTreeSet::new(),
            certificate_folders: Vec::new(),
            ..for_registries.clone()
        };
        Self {
            inner: Arc::new(Inner {
                transport: Transport::new(for_registries),
                downloads: Transport::new(for_downloads),
                authenticator: Authenticator::new(options.credentials),
                mirrors: options.mirrors,
                silent_mirrors: Mutex::default(),
            }),
        }
    }

    /// Connections to servers that are no registries, with the same patience, proxies and CAs.
    pub(crate) fn downloads(&self) -> &Transport {
        &self.inner.downloads
    }
}
