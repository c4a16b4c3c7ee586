//! Brings base images' blobs from registries into the store, several at once.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;

use crate::digest::CacheKeyBuilder;
use crate::image::manifest::Descriptor;
use crate::registry::{Client, Progress, WriteSink};
use crate::snapshot::{FetchBlobs, RemoteBlob, SnapshotError};
use crate::solver::cancel::Cancel;
use crate::solver::events::{Activity, Reporter};
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
}

impl FetchBlobs for Fetcher {
    fn fetch(&self, blobs: &[RemoteBlob]) -> Result<(), SnapshotError> {
        let Some(first) = blobs.first() else {
            return Ok(());
        };
        let name = format!("[internal] pull {}", first.repository);
        let activity = Arc::new(self.reporter.begin(&name));
        let all = stream::iter(blobs)
            .map(|blob| self.fetch_one(blob, Arc::clone(&activity)))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>();
        // Steps run on threads of their own, where waiting for the network is allowed.
        let result = self.runtime.block_on(async {
            tokio::select! {
                result = all => result,
                () = self.cancel.canceled() => Err(SnapshotError::Canceled),
            }
        });
        match Arc::into_inner(activity) {
            Some(activity) => activity.end(result),
            None => result,
        }
    }
}

impl Fetcher {
    async fn fetch_one(
        &self,
        blob: &RemoteBlob,
        activity: Arc<Activity>,
    ) -> Result<(), SnapshotError> {
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
        let progress: Progress = Arc::new(move |current| activity.progress(&item, current, total));
        let mut sink = WriteSink(self.store.ingest()?);
        self.client
            .blob(&blob.repository, &descriptor, &mut sink, Some(&progress))
            .await?;
        drop(progress);
        sink.0.commit(Some(blob.digest))?;
        Ok(())
    }
}
