//! A video's blob between the moment when it is written and the moment when a record names it.
//!
//! Invariant: when the caller leaves in between, the blob is deleted, unless a record names it or may do so.

use std::sync::Arc;

use super::{Error, Inner, Result};
use crate::ids::{TenantId, VideoId};
use crate::metadata::{self, VideoRecord};
use crate::store::{Key, Writer, Written, layout};

/// A blob that no record names yet. Dropping this deletes it, in the background.
pub(super) struct Unrecorded {
    inner: Arc<Inner>,
    tenant: TenantId,
    video: VideoId,
    key: Key,
    is_armed: bool,
}

impl Unrecorded {
    pub(super) fn new(inner: &Arc<Inner>, tenant: &TenantId, video: VideoId) -> Self {
        Self {
            inner: Arc::clone(inner),
            tenant: tenant.clone(),
            video,
            key: layout::video(tenant, video),
            is_armed: true,
        }
    }

    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub(super) fn video(&self) -> VideoId {
        self.video
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Makes the blob appear. When the caller leaves meanwhile, the blob appears first and goes then: a deletion never overtakes it.
    pub(super) async fn written(self, writer: Writer) -> Result<(Self, Written)> {
        let finishing = tokio::spawn(async move {
            let written = writer.finish().await;
            (self, written)
        });
        let (blob, written) = finishing.await.map_err(|_| Error::Interrupted)?;
        Ok((blob, written?))
    }

    /// Waits for the record, also when the caller leaves. Deletes the blob when another video answers, or when the record does not come to be.
    pub(super) async fn recorded(
        self,
        record: impl Future<Output = metadata::Result<VideoRecord>> + Send + 'static,
    ) -> Result<VideoRecord> {
        let recording = tokio::spawn(metadata::carried(async move {
            let recorded = record.await;
            match &recorded {
                Ok(video) if video.id == self.video => self.kept(),
                // Another upload with the same request, or another stream of this upload, was faster.
                Ok(_) => self.dropped().await,
                // A server may still commit what it has not confirmed: the collector looks later.
                Err(error) if error.is_temporary() && !self.inner.metadata.is_exclusive() => {
                    self.kept();
                }
                // A transaction may have failed only in saying that it had not: the record decides.
                Err(_) => {
                    let found = self.inner.metadata.get_video(&self.tenant, self.video);
                    match found.await {
                        Err(metadata::Error::NotFound { .. }) => self.dropped().await,
                        Ok(_) | Err(_) => self.kept(),
                    }
                }
            }
            recorded
        }));
        Ok(recording.await.map_err(|_| Error::Interrupted)??)
    }

    /// Leaves the blob where it is.
    fn kept(mut self) {
        self.is_armed = false;
    }

    /// Deletes the blob now.
    pub(super) async fn dropped(mut self) {
        self.is_armed = false;
        self.inner.drop_blob(&self.key).await;
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.is_armed {
            let (inner, key) = (Arc::clone(&self.inner), self.key.clone());
            runtime.spawn(async move { inner.drop_blob(&key).await });
        }
    }
}
