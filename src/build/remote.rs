//! Brings what ADD and contexts name by URLs into the store, each URL once in a build.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt, stream};
use reqwest::header::HeaderValue;
use tokio::runtime::Handle;
use url::Url;

use super::run::{BuildEnvironment, materializer};
use crate::digest::BlobDigest;
use crate::graph::{CopySource, Graph, Operation, RemoteSource, VertexIndex};
use crate::remote::git::{GitFetcher, GitSource};
use crate::remote::{
    Download, DownloadedFile, GitError, HttpClient, HttpError, HttpProgress, HttpRequest,
    RemoteError, shown_url,
};
use crate::snapshot::FileTree;
use crate::solver;
use crate::solver::cancel::Cancel;
use crate::solver::events::{Outcome, Reporter};
use crate::step::{FetchRemote, Secrets};
use crate::store::Store;

/// So many downloads go on at a time before a step asks for them.
const AT_ONCE: usize = 4;

/// A download that goes on or has ended.
type Downloading = Shared<BoxFuture<'static, Result<Download, RemoteError>>>;

/// Fetches for one build.
pub(super) struct Remotes {
    http: HttpClient,
    git: Arc<GitFetcher>,
    reporter: Arc<Reporter>,
    runtime: Handle,
    cancel: Cancel,
    /// Among them credentials for hosts, by their names.
    secrets: Arc<Secrets>,
    downloads: Downloads,
    repositories: Repositories,
    /// Nobody wants anything more.
    is_over: Arc<AtomicBool>,
}

impl Drop for Remotes {
    fn drop(&mut self) {
        // Git may run for a step that nobody waits for.
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// The downloads of a build, by URL and checksum.
#[derive(Default)]
struct Downloads(Mutex<BTreeMap<(String, Option<BlobDigest>), Downloading>>);

/// A repository that is being loaded or was.
type Loading = Shared<BoxFuture<'static, Result<Arc<dyn FileTree>, RemoteError>>>;

/// The repositories of a build.
#[derive(Default)]
struct Repositories(Mutex<HashMap<GitSource, Loading>>);

impl FetchRemote for Remotes {
    fn fetch(&self, source: &RemoteSource) -> Result<Arc<dyn FileTree>, RemoteError> {
        // Steps run on threads of their own, where waiting for the network is allowed.
        self.runtime.block_on(self.tree(source))
    }

    fn foretell(&self, source: &RemoteSource) -> Option<Arc<dyn FileTree>> {
        match source {
            // What is in an archive can't be told without it.
            RemoteSource::Http(file) if file.unpack => None,
            RemoteSource::Http(file) => {
                let store = self.store().clone();
                let tree = DownloadedFile::foretold(store, file.checksum?, &file.name)?;
                Some(Arc::new(tree))
            }
            // Which commit it is now has to be asked, or costs nothing to find out.
            RemoteSource::Git(_) => None,
        }
    }
}

impl Remotes {
    /// Fetches as `environment` does and tells `reporter`. Must be called on a tokio runtime.
    pub(super) fn new(
        environment: &BuildEnvironment,
        reporter: &Arc<Reporter>,
        secrets: &Arc<Secrets>,
    ) -> Self {
        let cancel = environment.cancel.clone();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let git = GitFetcher::new(
            environment.outside.clone(),
            materializer(environment, reporter),
            Arc::clone(secrets),
            move || cancel.is_canceled() || over.load(Ordering::SeqCst),
        );
        Self {
            http: HttpClient::new(environment.client.clone(), environment.store.clone()),
            git: Arc::new(git),
            reporter: Arc::clone(reporter),
            runtime: Handle::current(),
            cancel: environment.cancel.clone(),
            secrets: Arc::clone(secrets),
            downloads: Downloads::default(),
            repositories: Repositories::default(),
            is_over,
        }
    }

    /// Who is told.
    pub(super) fn reporter(&self) -> &Arc<Reporter> {
        &self.reporter
    }

    /// Where what is fetched is kept.
    pub(super) fn store(&self) -> &Store {
        self.http.store()
    }

    /// What a source stands for now.
    pub(super) async fn tree(
        &self,
        source: &RemoteSource,
    ) -> Result<Arc<dyn FileTree>, RemoteError> {
        match source {
            RemoteSource::Http(file) => {
                let download = self.download(&file.url, file.checksum).await?;
                let store = self.store().clone();
                Ok(Arc::new(DownloadedFile::new(store, &download, &file.name)))
            }
            RemoteSource::Git(source) => self.repository(source).await,
        }
    }

    /// Loads a repository, or joins whoever does.
    fn repository(&self, source: &GitSource) -> Loading {
        let mut loading = self
            .repositories
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let loading = loading.entry(source.clone()).or_insert_with(|| {
            let (git, reporter) = (Arc::clone(&self.git), Arc::clone(&self.reporter));
            let source = source.clone();
            let load = async move {
                let loading = tokio::task::spawn_blocking(move || load(&git, &source, &reporter));
                loading.await.map_err(|_| RemoteError::Canceled)?
            };
            load.boxed().shared()
        });
        loading.clone()
    }

    /// Begins to fetch what steps that `target` needs are sure to ask for, so that they needn't
    /// wait for it. Where a checksum says what it is, the cache may have the answer.
    pub(super) fn fetch_ahead(self: &Arc<Self>, graph: &Graph, targets: &[VertexIndex]) {
        let vertices = solver::needed(graph, targets.iter().copied()).into_iter();
        let copies = vertices.filter_map(|index| match &graph.vertex(index).operation {
            Operation::Copy(copy) => Some(copy),
            _ => None,
        });
        let sources = copies.flat_map(|copy| copy.sources.iter().filter_map(CopySource::remote));
        let downloads = sources.filter_map(|source| match source {
            RemoteSource::Http(file) if file.checksum.is_none() => {
                Some(self.download(&file.url, None).map(drop).boxed())
            }
            RemoteSource::Http(_) => None,
            RemoteSource::Git(source) => Some(self.repository(source).map(drop).boxed()),
        });
        let downloads: Vec<BoxFuture<'static, ()>> = downloads.collect();
        // Whoever wants one hears what has become of it.
        let all = stream::iter(downloads).for_each_concurrent(AT_ONCE, |one| one);
        self.runtime.spawn(all);
    }

    /// Fetches a URL, or joins whoever does.
    fn download(&self, url: &str, checksum: Option<BlobDigest>) -> Downloading {
        let mut downloads = self
            .downloads
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (url.to_owned(), checksum);
        let download = downloads.entry(key).or_insert_with(|| {
            let (http, reporter) = (self.http.clone(), Arc::clone(&self.reporter));
            let (url, cancel) = (url.to_owned(), self.cancel.clone());
            let authorization = authorization(&url, &self.secrets);
            let download = async move {
                let request = HttpRequest {
                    authorization: authorization.map_err(Arc::new)?,
                    url,
                    checksum,
                };
                tokio::select! {
                    download = fetch(&http, &request, &reporter) => Ok(download.map_err(Arc::new)?),
                    () = cancel.canceled() => Err(RemoteError::Canceled),
                }
            };
            download.boxed().shared()
        });
        download.clone()
    }
}

/// The files of a commit. Blocking.
fn load(
    git: &GitFetcher,
    source: &GitSource,
    reporter: &Arc<Reporter>,
) -> Result<Arc<dyn FileTree>, RemoteError> {
    let activity = reporter.begin(&format!("[internal] load git source {}", source.shown()));
    let checkout = git.checkout(source).map_err(RemoteError::from);
    activity.end_as(match &checkout {
        Ok(checkout) if checkout.cached => Outcome::Cached,
        Ok(_) => Outcome::Done,
        Err(RemoteError::Canceled) => Outcome::Canceled,
        Err(error) => Outcome::Failed(error.to_string()),
    });
    let tree = git.tree(&checkout?).map_err(GitError::from)?;
    Ok(Arc::new(tree))
}

async fn fetch(
    http: &HttpClient,
    request: &HttpRequest,
    reporter: &Arc<Reporter>,
) -> Result<Download, HttpError> {
    let shown = shown_url(&request.url);
    let activity = Arc::new(reporter.begin(&format!("[internal] fetch {shown}")));
    let progress: HttpProgress = {
        let activity = Arc::clone(&activity);
        Arc::new(move |current, total| activity.progress("downloading", current, total))
    };
    let download = http.fetch(request, &progress).await;
    drop(progress);
    if let Some(activity) = Arc::into_inner(activity) {
        activity.end_as(match &download {
            Ok(download) if download.was_known => Outcome::Cached,
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
    }
    download
}

/// What a secret says is to be sent to the URL's host: `HTTP_AUTH_TOKEN_host` is a bearer token,
/// `HTTP_AUTH_HEADER_host` a whole header, as in BuildKit.
fn authorization(url: &str, secrets: &Secrets) -> Result<Option<HeaderValue>, HttpError> {
    let Some(host) = Url::parse(url)
        .ok()
        .and_then(|url| Some(url.host_str()?.to_owned()))
    else {
        return Ok(None);
    };
    for (prefix, scheme) in [("HTTP_AUTH_TOKEN_", "Bearer "), ("HTTP_AUTH_HEADER_", "")] {
        let name = format!("{prefix}{}", host.trim_matches(['[', ']']));
        if let Some(secret) = secrets.get(&name) {
            // Files end with a newline.
            let value = [scheme.as_bytes(), secret.trim_ascii_end()].concat();
            let mut value =
                HeaderValue::from_bytes(&value).map_err(|_| HttpError::Authorization(name))?;
            value.set_sensitive(true);
            return Ok(Some(value));
        }
    }
    Ok(None)
}
