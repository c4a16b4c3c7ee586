//! Brings base images' blobs from registries into the store, several at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;

use crate::digest::CacheKeyBuilder;
use crate::image::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::{Client, Progress, WriteSink};
use crate::snapshot::{FetchBlobs, RemoteBlob, SnapshotError, Unpacking};
use crate::solver::cancel::Cancel;
use crate::solver::events::{Activity, Outcome, Reporter};
use crate::store::Store;

/// How many blobs of one image are on their way at a time.
const AT_ONCE: usize = 6;

/// Fetches through one registry client into one store.
pub(super) struct Fetcher {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) reporter: Arc<Reporter>,
    pub(super) runtime: Handle,
    pub(super) cancel: Cancel,
    pub(super) pulls: Pulls,
}

/// The pulls that go on, by their name: steps that want the same image at once show one.
#[derive(Default)]
pub(super) struct Pulls(Mutex<BTreeMap<String, Weak<Pull>>>);

/// A pull as it is shown, until the last step that waits for it has what it wants.
struct Pull {
    activity: Option<Activity>,
    cancel: Cancel,
    outcome: Mutex<Outcome>,
}

impl Pulls {
    fn join(&self, name: &str, reporter: &Arc<Reporter>, cancel: &Cancel) -> Arc<Pull> {
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = pulls.get(name).and_then(Weak::upgrade) {
            return pull;
        }
        let pull = Arc::new(Pull {
            activity: Some(reporter.begin(name)),
            cancel: cancel.clone(),
            outcome: Mutex::new(Outcome::Canceled),
        });
        pulls.insert(name.to_owned(), Arc::downgrade(&pull));
        pull
    }
}

impl Pull {
    fn progress(&self, item: &str, current: u64, total: Option<u64>) {
        if let Some(activity) = &self.activity {
            activity.progress(item, current, total);
        }
    }

    /// Says how it ended for one of those who wait; a failure stands.
    fn note(&self, result: Result<(), &SnapshotError>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            _ if matches!(*outcome, Outcome::Failed(_)) => {}
            Ok(()) => *outcome = Outcome::Done,
            Err(_) if self.cancel.is_canceled() => {}
            Err(error) => *outcome = Outcome::Failed(error.to_string()),
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let outcome = self.outcome.get_mut();
        let outcome = outcome.unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(activity) = self.activity.take() {
            activity.end_as(outcome);
        }
    }
}

impl FetchBlobs for Fetcher {
    fn fetch(&self, blobs: &[RemoteBlob]) -> Result<(), SnapshotError> {
        let mut missing = Vec::with_capacity(blobs.len());
        for blob in blobs {
            if !self.store.has_blob(&blob.digest)? {
                missing.push(blob);
            }
        }
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let name = format!("[internal] pull {}", first.repository);
        let pull = self.pulls.join(&name, &self.reporter, &self.cancel);
        let all = stream::iter(missing)
            .map(|blob| self.fetch_one(blob, &pull))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>();
        // Steps run on threads of their own, where waiting for the network is allowed.
        let result = self.runtime.block_on(async {
            tokio::select! {
                result = all => result,
                () = self.cancel.canceled() => Err(SnapshotError::Canceled),
            }
        });
        pull.note(result.as_ref().map(drop));
        result
    }

    fn unpack(&self, image: &Reference) -> Arc<dyn Unpacking> {
        let name = format!("[internal] unpack {image}");
        self.pulls.join(&name, &self.reporter, &self.cancel)
    }
}

impl Unpacking for Pull {
    fn progress(&self, layer: &RemoteBlob, current: u64, total: u64) -> bool {
        let item = format!("extracting {}", layer.digest);
        Pull::progress(self, &item, current, Some(total));
        !self.cancel.is_canceled()
    }

    fn end(&self, result: Result<(), &SnapshotError>) {
        self.note(result);
    }
}

impl Fetcher {
    async fn fetch_one(&self, blob: &RemoteBlob, pull: &Arc<Pull>) -> Result<(), SnapshotError> {
        let key = CacheKeyBuilder::new("blob")
            .field(blob.digest.0.as_bytes())
            .finish();
        let store = self.store.clone();
        let lock = tokio::task::spawn_blocking(move || store.lock(&key)).await;
        let _lock = lock.map_err(|_| SnapshotError::Canceled)??;
        if self.store.has_blob(&blob.digest)? {
            return Ok(());
        }
        let descriptor = Descriptor::new(&blob.media_type, blob.digest, blob.size);
        let item = blob.digest.to_string();
        let total = Some(blob.size);
        let shown = Arc::clone(pull);
        let progress: Progress = Arc::new(move |current| shown.progress(&item, current, total));
        let mut sink = WriteSink(self.store.ingest()?);
        self.client
            .blob(&blob.repository, &descriptor, &mut sink, Some(&progress))
            .await?;
        drop(progress);
        sink.0.commit(Some(blob.digest))?;
        Ok(())
    }
}
