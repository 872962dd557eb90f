//! Uploads: in one stream, or resumable in parts that survive any crash.
//!
//! Invariant: what [`Upload::commit`] or a `finish` acknowledged is on the disk; memory is bounded by one part, whatever the file's size.

use std::sync::Arc;

use bytes::Bytes;

use super::{Error, Inner, Library, Result, probed};
use crate::faults;
use crate::ids::{RequestId, TenantId, UploadId, VideoId};
use crate::metadata::{self, NewVideo, PartRecord, UploadRecord, VideoRecord, check_display_name};
use crate::spec::Digest;
use crate::store::{Key, Writer, Written, layout};
use crate::video;

/// Where an upload in one stream begins.
pub enum Started {
    /// The same request made this video before; nothing more is to be sent.
    Done(Box<VideoRecord>),
    /// The bytes are awaited.
    Open(Box<SingleUpload>),
}

impl Library {
    /// Begins an upload in one stream; idempotent by `request`.
    ///
    /// # Errors
    /// When the display name is malformed, or the store or the database fails.
    pub async fn upload_video(
        &self,
        tenant: &TenantId,
        display_name: &str,
        request: Option<RequestId>,
    ) -> Result<Started> {
        check_display_name(display_name)?;
        if let Some(request) = request {
            let found = self.inner.metadata.find_uploaded(tenant, request).await?;
            if let Some(video) = found {
                return Ok(Started::Done(Box::new(video)));
            }
        }
        let video = VideoId::generate();
        let writer = self
            .inner
            .store
            .writer(&layout::video(tenant, video))
            .await?;
        Ok(Started::Open(Box::new(SingleUpload {
            library: self.clone(),
            tenant: tenant.clone(),
            display_name: display_name.into(),
            request,
            video,
            writer,
        })))
    }

    /// Opens a resumable upload; idempotent by `request`.
    ///
    /// # Errors
    /// When the display name is malformed, or the database fails.
    pub async fn create_upload(
        &self,
        tenant: &TenantId,
        display_name: &str,
        request: Option<RequestId>,
    ) -> Result<UploadRecord> {
        check_display_name(display_name)?;
        let metadata = &self.inner.metadata;
        Ok(metadata
            .create_upload(tenant, display_name, request)
            .await?)
    }

    /// Reads an upload with its committed offset.
    ///
    /// # Errors
    /// When the tenant has no such upload, or the database fails.
    pub async fn get_upload(&self, tenant: &TenantId, upload: UploadId) -> Result<UploadRecord> {
        Ok(self.inner.metadata.get_upload(tenant, upload).await?)
    }

    /// Goes on with an upload from `offset`, which must be the committed one.
    ///
    /// # Errors
    /// [`crate::metadata::Error::OffsetMismatch`], [`crate::metadata::Error::UploadFinished`], or when the database fails.
    pub async fn write_upload(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        offset: u64,
    ) -> Result<Upload> {
        let number = self
            .inner
            .metadata
            .begin_part(tenant, upload, offset)
            .await?;
        Ok(Upload {
            library: self.clone(),
            tenant: tenant.clone(),
            id: upload,
            committed: offset,
            number: Some(number),
            buffer: Vec::new(),
            is_detached: false,
        })
    }

    /// Checks and probes a blob that was just written. Deletes it when it does not become a video.
    async fn accept(
        &self,
        tenant: &TenantId,
        id: VideoId,
        written: Written,
        promised: Option<Digest>,
    ) -> Result<NewVideo> {
        faults::point("blob-put");
        let key = layout::video(tenant, id);
        let probe = match expected(promised, written) {
            Ok(()) => self.probe(tenant, &key).await,
            Err(error) => Err(error),
        };
        match probe {
            Ok(probe) => Ok(NewVideo {
                id,
                size_bytes: written.size,
                sha256: written.sha256,
                probe: probed(&probe),
            }),
            Err(error) => {
                self.inner.drop_blob(&key).await;
                Err(error)
            }
        }
    }

    async fn probe(&self, tenant: &TenantId, key: &Key) -> Result<video::Probe> {
        let file = self.inner.store.open_file(key).await?;
        let input = video::Input::File(file);
        Ok(self.inner.prober.probe(tenant, input).await?)
    }
}

/// Refuses bytes that are not those that were promised.
fn expected(promised: Option<Digest>, written: Written) -> Result<()> {
    match promised {
        Some(expected) if expected != written.sha256 => Err(Error::Sha256Mismatch {
            expected,
            found: written.sha256,
        }),
        Some(_) | None => Ok(()),
    }
}

/// An upload in one stream: nothing is kept unless it finishes.
pub struct SingleUpload {
    library: Library,
    tenant: TenantId,
    display_name: String,
    request: Option<RequestId>,
    video: VideoId,
    writer: Writer,
}

impl SingleUpload {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or when the store fails; then the upload is of no more use.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let size = self.writer.size().saturating_add(chunk.len() as u64);
        self.library.check_size(size)?;
        Ok(self.writer.write(chunk).await?)
    }

    /// Makes a video of the bytes, which must have the given sha256 if there is one.
    ///
    /// # Errors
    /// [`Error::Sha256Mismatch`], [`Error::Probe`], or when the store or the database fails.
    pub async fn finish(self, sha256: Option<Digest>) -> Result<VideoRecord> {
        let inner = &self.library.inner;
        let written = self.writer.finish().await?;
        let video = self
            .library
            .accept(&self.tenant, self.video, written, sha256)
            .await?;
        faults::point("before-commit");
        let record = inner
            .metadata
            .record_video(&self.tenant, &self.display_name, video, self.request)
            .await?;
        faults::point("after-commit");
        if record.id != self.video {
            // Another upload with the same request was faster.
            let own = layout::video(&self.tenant, self.video);
            inner.drop_blob(&own).await;
        }
        Ok(record)
    }
}

/// A resumable upload that is being written. Dropping it commits, in the background, what has come so far: a cut stream loses nothing.
pub struct Upload {
    library: Library,
    tenant: TenantId,
    id: UploadId,
    committed: u64,
    /// The number for the next part, when it was given out already.
    number: Option<u32>,
    /// What follows the committed bytes, less than a part between calls.
    buffer: Vec<u8>,
    /// Whether the buffer does not follow the committed bytes: a part before it is on its way or was lost.
    is_detached: bool,
}

impl Upload {
    /// Appends bytes; every full part is durable before this returns.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`crate::metadata::Error::OffsetMismatch`] when another stream wrote in between, or when the store or the database
    /// fails; then this value is of no more use. What was committed stays.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let size = self.committed + self.buffer.len() as u64;
        self.library
            .check_size(size.saturating_add(chunk.len() as u64))?;
        self.buffer.extend_from_slice(chunk);
        let part_bytes = self.library.inner.config.part_bytes.max(1);
        while self.buffer.len() >= part_bytes {
            let rest = self.buffer.split_off(part_bytes);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.flush(part).await?;
        }
        Ok(())
    }

    /// Makes what has come so far durable. Returns the committed offset.
    ///
    /// # Errors
    /// As [`Upload::write`].
    pub async fn commit(&mut self) -> Result<u64> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.flush(rest).await?;
        }
        Ok(self.committed)
    }

    /// Makes a video of the whole file, which must have the given sha256 if there is one.
    ///
    /// # Errors
    /// [`Error::Sha256Mismatch`] or a refusal by [`Error::Probe`]: the upload is abandoned. Other failures leave it as it is, to be finished later.
    pub async fn finish(mut self, sha256: Option<Digest>) -> Result<VideoRecord> {
        self.commit().await?;
        let video = VideoId::generate();
        let accepted = match self.join_parts(video, sha256).await {
            Ok(written) => {
                let library = &self.library;
                library.accept(&self.tenant, video, written, sha256).await
            }
            Err(error) => Err(error),
        };
        let inner = &self.library.inner;
        let video = match accepted {
            Ok(video) => video,
            Err(
                error @ (Error::Sha256Mismatch { .. } | Error::Probe(video::Error::Rejected(_))),
            ) => {
                let parts = inner.metadata.abandon_upload(&self.tenant, self.id).await?;
                inner.drop_parts(&self.tenant, self.id, &parts).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let parts = inner.metadata.list_parts(&self.tenant, self.id).await?;
        let (id, metadata) = (video.id, &inner.metadata);
        faults::point("before-commit");
        let record = metadata.finish_upload(&self.tenant, self.id, video).await?;
        faults::point("after-commit");
        if record.id == id {
            inner.drop_parts(&self.tenant, self.id, &parts).await;
        } else {
            // Another stream finished the upload first.
            inner.drop_blob(&layout::video(&self.tenant, id)).await;
        }
        Ok(record)
    }

    /// Makes the video's blob of the parts, one part in memory at a time. A promised sha256 is compared before anything is written, since on a full
    /// disk a refusal is the way out; a single part becomes the blob without being written again.
    async fn join_parts(&self, video: VideoId, promised: Option<Digest>) -> Result<Written> {
        let inner = &self.library.inner;
        let parts = inner.metadata.list_parts(&self.tenant, self.id).await?;
        let keys: Vec<Key> = parts
            .iter()
            .map(|part| layout::part(&self.tenant, self.id, part.number))
            .collect();
        let key = layout::video(&self.tenant, video);
        if let [only] = keys.as_slice() {
            let written = inner.store.written(&keys).await?;
            expected(promised, written)?;
            inner.store.copy(only, &key).await?;
            return Ok(written);
        }
        if promised.is_some() {
            expected(promised, inner.store.written(&keys).await?)?;
        }
        let mut writer = inner.store.writer(&key).await?;
        for key in &keys {
            writer.write(&inner.store.get(key).await?).await?;
        }
        Ok(writer.finish().await?)
    }

    /// Stores and commits the bytes that follow the committed ones. Goes on although its caller leaves: the part is then committed all the same.
    async fn flush(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.is_detached = true;
        let part = Part {
            inner: Arc::clone(&self.library.inner),
            tenant: self.tenant.clone(),
            upload: self.id,
            number: self.number.take(),
            offset: self.committed,
        };
        let stored = tokio::spawn(part.store(bytes.into())).await;
        self.committed = stored.map_err(|_| Error::Interrupted)??;
        self.is_detached = false;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let rest = std::mem::take(&mut self.buffer);
        if self.is_detached || rest.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let part = Part {
            inner: Arc::clone(&self.library.inner),
            tenant: self.tenant.clone(),
            upload: self.id,
            number: self.number.take(),
            offset: self.committed,
        };
        runtime.spawn(async move {
            if let Err(error) = part.store(rest.into()).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the end of a cut upload is lost"
                );
            }
        });
    }
}

/// A part on its way into the store.
struct Part {
    inner: Arc<Inner>,
    tenant: TenantId,
    upload: UploadId,
    number: Option<u32>,
    offset: u64,
}

impl Part {
    /// Writes the blob, then commits it. Returns the new committed offset.
    async fn store(self, bytes: Bytes) -> Result<u64> {
        let Self { inner, tenant, .. } = &self;
        let metadata = &inner.metadata;
        let number = match self.number {
            Some(number) => number,
            None => {
                metadata
                    .begin_part(tenant, self.upload, self.offset)
                    .await?
            }
        };
        let part = PartRecord {
            number,
            offset: self.offset,
            size: bytes.len() as u64,
        };
        let key = layout::part(tenant, self.upload, number);
        inner.store.put(&key, bytes).await?;
        faults::point("part-stored");
        let committed = metadata.commit_part(tenant, self.upload, part).await;
        if let Err(metadata::Error::OffsetMismatch { .. }) = committed {
            inner.drop_blob(&key).await;
        }
        Ok(committed?)
    }
}

impl Library {
    fn check_size(&self, size: u64) -> Result<()> {
        let limit = self.inner.config.upload_bytes;
        if size > limit {
            return Err(Error::TooLarge { limit });
        }
        Ok(())
    }
}

impl Inner {
    async fn drop_parts(&self, tenant: &TenantId, upload: UploadId, parts: &[PartRecord]) {
        for part in parts {
            let key = layout::part(tenant, upload, part.number);
            self.drop_blob(&key).await;
        }
    }
}
