//! Uploads: in one stream, or resumable in parts that survive any crash.
//!
//! Invariant: what [`Upload::commit`] or a `finish` acknowledged is on the disk; memory is bounded by one part, whatever the file's size.

use std::sync::Arc;

use bytes::Bytes;

use super::unrecorded::Unrecorded;
use super::{Error, Inner, Library, Result, probed};
use crate::faults;
use crate::ids::{RequestId, TenantId, UploadId, VideoId};
use crate::metadata::{
    self, EndedPart, NewVideo, Page, PageRequest, PartRecord, UploadRecord, VideoRecord,
    check_display_name,
};
use crate::spec::Digest;
use crate::store::{self, Key, Writer, Written, layout};
use crate::video;

/// Where an upload in one stream begins.
pub enum Started {
    /// An earlier call with the same request id made this video; nothing more is to be sent.
    Done(Box<VideoRecord>),
    /// The bytes are awaited.
    Open(Box<SingleUpload>),
}

impl Library {
    /// Begins an upload in one stream; idempotent by `request`. A repetition is known before its bytes come when it promises their sha256 now,
    /// else when they have come.
    ///
    /// # Errors
    /// When the display name is malformed, [`metadata::Error::RequestReused`], or when the store or the database fails.
    pub async fn upload_video(
        &self,
        tenant: &TenantId,
        display_name: &str,
        promised: Option<Digest>,
        request: Option<RequestId>,
    ) -> Result<Started> {
        check_display_name(display_name)?;
        if let (Some(request), Some(sha256)) = (request, promised) {
            let metadata = &self.inner.metadata;
            let found = metadata
                .find_uploaded(tenant, display_name, sha256, request)
                .await?;
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
            promised,
            request,
            video,
            writer,
        })))
    }

    /// Opens a resumable upload; idempotent by `request`.
    ///
    /// # Errors
    /// When the display name is malformed, [`metadata::Error::TooManyUploads`], [`metadata::Error::RequestReused`], or when the database fails.
    pub async fn create_upload(
        &self,
        tenant: &TenantId,
        display_name: &str,
        request: Option<RequestId>,
    ) -> Result<UploadRecord> {
        check_display_name(display_name)?;
        let metadata = &self.inner.metadata;
        Ok(metadata
            .create_upload(tenant, display_name, request, &self.inner.config.uploads)
            .await?)
    }

    /// Lists unfinished uploads, oldest first.
    ///
    /// # Errors
    /// When the page token is not from this listing, or the database fails.
    pub async fn list_uploads(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<UploadRecord>> {
        Ok(self.inner.metadata.list_uploads(tenant, page).await?)
    }

    /// Gives up an unfinished upload and its bytes; one that has expired or was given up already stays so.
    ///
    /// # Errors
    /// [`metadata::Error::UploadFinished`] when it is a video already; when the tenant has no such upload, or the database fails.
    pub async fn delete_upload(&self, tenant: &TenantId, upload: UploadId) -> Result<()> {
        let metadata = &self.inner.metadata;
        let parts = metadata.abandon_upload(tenant, upload).await?;
        self.inner.drop_ended(tenant, upload, &parts).await;
        Ok(())
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
        // Refused now rather than when a part has come; each part's bytes are reserved when they are known.
        self.inner
            .metadata
            .begin_part(tenant, upload, offset, 0, &self.inner.config.uploads)
            .await?;
        Ok(Upload {
            library: self.clone(),
            tenant: tenant.clone(),
            id: upload,
            committed: offset,
            buffer: Vec::new(),
            is_detached: false,
        })
    }

    /// Checks and probes a blob that was just written; the blob goes with the guard when it does not become a video.
    async fn accept(
        &self,
        blob: &Unrecorded,
        written: Written,
        promised: Option<Digest>,
    ) -> Result<NewVideo> {
        faults::point("blob-put");
        expected(promised, written)?;
        let probe = self.probe(blob.tenant(), blob.key()).await?;
        Ok(NewVideo {
            id: blob.video(),
            size_bytes: written.size,
            sha256: written.sha256,
            probe: probed(&probe),
        })
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
    promised: Option<Digest>,
    request: Option<RequestId>,
    video: VideoId,
    writer: Writer,
}

impl SingleUpload {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or when the store fails; the upload cannot be used afterwards.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let size = self.writer.size().saturating_add(chunk.len() as u64);
        self.library.check_size(size)?;
        Ok(self.writer.write(chunk).await?)
    }

    /// Makes a video of the bytes, which must have the promised sha256 if there is one. When the caller leaves before the video is on record, its
    /// blob goes.
    ///
    /// # Errors
    /// [`Error::Sha256Mismatch`], [`Error::Probe`], or when the store or the database fails.
    pub async fn finish(self) -> Result<VideoRecord> {
        let (library, tenant) = (self.library, self.tenant);
        let blob = Unrecorded::new(&library.inner, &tenant, self.video);
        let (blob, written) = blob.written(self.writer).await?;
        let video = match library.accept(&blob, written, self.promised).await {
            Ok(video) => video,
            Err(error) => {
                blob.dropped().await;
                return Err(error);
            }
        };
        faults::point("before-commit");
        let metadata = Arc::clone(&library.inner.metadata);
        let (name, request) = (self.display_name, self.request);
        let record = blob
            .recorded(async move { metadata.record_video(&tenant, &name, video, request).await });
        let record = record.await?;
        faults::point("after-commit");
        Ok(record)
    }
}

/// A resumable upload that is being written. Dropping it commits, in the background, what has come so far: a cut stream loses nothing, unless very many parts of
/// the tenant wait for the store.
pub struct Upload {
    library: Library,
    tenant: TenantId,
    id: UploadId,
    committed: u64,
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
    /// fails; this value cannot be used afterwards. What was committed stays.
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
        let library = self.library.clone();
        let inner = &library.inner;
        let (tenant, upload) = (self.tenant.clone(), self.id);
        if let Some(video) = inner.metadata.get_upload(&tenant, upload).await?.video {
            return Ok(video);
        }
        let blob = Unrecorded::new(inner, &tenant, VideoId::generate());
        let (blob, written) = match self.join_parts(blob, sha256).await {
            Err(Error::Store(store::Error::NotFound { key })) => {
                // Another stream may have finished or ended the upload and dropped the parts; if not, one is lost.
                let found = inner.metadata.get_upload(&tenant, upload).await?;
                let lost = Error::Store(store::Error::NotFound { key });
                return found.video.ok_or(lost);
            }
            Err(error) => {
                if error.is_refusal() {
                    library.delete_upload(&tenant, upload).await?;
                }
                return Err(error);
            }
            Ok(joined) => joined,
        };
        let video = match library.accept(&blob, written, sha256).await {
            Ok(video) => video,
            Err(error) => {
                blob.dropped().await;
                if error.is_refusal() {
                    library.delete_upload(&tenant, upload).await?;
                }
                return Err(error);
            }
        };
        let parts = inner.metadata.list_parts(&tenant, upload).await?;
        let id = video.id;
        faults::point("before-commit");
        let metadata = Arc::clone(&inner.metadata);
        let owner = tenant.clone();
        let record = blob
            .recorded(async move { metadata.finish_upload(&owner, upload, video).await })
            .await?;
        faults::point("after-commit");
        if record.id == id {
            inner.drop_parts(&tenant, upload, &parts).await;
        }
        Ok(record)
    }

    /// Makes the video's blob of the parts, one part in memory at a time. A promised sha256 is compared before anything is written, since on a full
    /// disk a refusal is the way out; a single part becomes the blob without being written again.
    async fn join_parts(
        &self,
        blob: Unrecorded,
        promised: Option<Digest>,
    ) -> Result<(Unrecorded, Written)> {
        let inner = &self.library.inner;
        let parts = inner.metadata.list_parts(&self.tenant, self.id).await?;
        let keys: Vec<Key> = parts
            .iter()
            .map(|part| layout::part(&self.tenant, self.id, part.number))
            .collect();
        if let [only] = keys.as_slice() {
            let written = inner.store.written(&keys).await?;
            expected(promised, written)?;
            inner.store.copy(only, blob.key()).await?;
            return Ok((blob, written));
        }
        if promised.is_some() {
            expected(promised, inner.store.written(&keys).await?)?;
        }
        let mut writer = inner.store.writer(blob.key()).await?;
        for key in &keys {
            writer.write(&inner.store.get(key).await?).await?;
        }
        blob.written(writer).await
    }

    /// The part that follows the committed bytes.
    fn next_part(&self) -> Part {
        Part {
            inner: Arc::clone(&self.library.inner),
            tenant: self.tenant.clone(),
            upload: self.id,
            offset: self.committed,
        }
    }

    /// Stores and commits the bytes that follow the committed ones. Goes on although its caller leaves, once the tenant has a place for it: the part is then
    /// committed all the same.
    async fn flush(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.is_detached = true;
        let part = self.next_part();
        let place = part.inner.parts.enter(&part.tenant).await;
        let stored = tokio::spawn(metadata::carried(async move {
            let _place = place;
            part.store(bytes.into()).await
        }))
        .await;
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
        let part = self.next_part();
        // A tenant that cuts streams faster than the store takes their ends loses ends, which a cut may lose anyway.
        let Some(place) = part.inner.parts.try_enter(&part.tenant) else {
            tracing::debug!("the end of a cut upload is lost: too many parts are on their way");
            return;
        };
        runtime.spawn(metadata::carried(async move {
            let _place = place;
            if let Err(error) = part.store(rest.into()).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the end of a cut upload is lost"
                );
            }
        }));
    }
}

/// A part on its way into the store.
struct Part {
    inner: Arc<Inner>,
    tenant: TenantId,
    upload: UploadId,
    offset: u64,
}

impl Part {
    /// Writes the blob, then commits it. Returns the new committed offset.
    async fn store(self, bytes: Bytes) -> Result<u64> {
        let Self { inner, tenant, .. } = &self;
        let (metadata, limits) = (&inner.metadata, &inner.config.uploads);
        let size = bytes.len() as u64;
        let number = metadata
            .begin_part(tenant, self.upload, self.offset, size, limits)
            .await?;
        let part = PartRecord {
            number,
            offset: self.offset,
            size,
        };
        let key = layout::part(tenant, self.upload, number);
        inner.store.put(&key, bytes).await?;
        faults::point("part-stored");
        let committed = metadata
            .commit_part(tenant, self.upload, part, limits)
            .await;
        if let Err(
            metadata::Error::OffsetMismatch { .. }
            | metadata::Error::NotFound { .. }
            | metadata::Error::UploadExpired { .. }
            | metadata::Error::UploadFinished { .. }
            | metadata::Error::TooManyUploadBytes { .. },
        ) = committed
        {
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
    /// Drops the blobs of the parts of an upload that has ended, then their rows. What this leaves, the janitor takes.
    async fn drop_ended(&self, tenant: &TenantId, upload: UploadId, parts: &[PartRecord]) {
        for part in parts {
            let key = layout::part(tenant, upload, part.number);
            if let Err(error) = self.store.delete(&key).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%key, error, "cannot delete a part of an upload that has ended");
                return;
            }
        }
        let ended = |part: &PartRecord| EndedPart {
            tenant: tenant.clone(),
            upload,
            number: part.number,
        };
        let ended: Vec<_> = parts.iter().map(ended).collect();
        if let Err(error) = self.metadata.forget_parts(&ended).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%upload, error, "cannot forget the parts of an upload that has ended");
        }
    }

    async fn drop_parts(&self, tenant: &TenantId, upload: UploadId, parts: &[PartRecord]) {
        for part in parts {
            let key = layout::part(tenant, upload, part.number);
            self.drop_blob(&key).await;
        }
    }
}
