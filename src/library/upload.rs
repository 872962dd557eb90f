//! Uploads: in one stream, or resumable in parts that survive any crash.
//!
//! Invariant: what [`Upload::commit`] or a `finish` acknowledged is on the disk; memory is bounded by one part, whatever the file's size.

use bytes::Bytes;

use super::{Error, Library, Result};
use crate::faults;
use crate::ids::{RequestId, TenantId, UploadId, VideoId};
use crate::metadata::{NewVideo, PartRecord, UploadRecord, VideoRecord, check_display_name};
use crate::spec::Digest;
use crate::store::{Writer, Written, layout};
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
        })
    }

    /// Stores the video's record once its blob is written. Deletes the blob when it does not become a video.
    async fn accept(
        &self,
        tenant: &TenantId,
        video: VideoId,
        written: Written,
        sha256: Option<Digest>,
    ) -> Result<NewVideo> {
        let _ = (tenant, video, written, sha256);
        todo!()
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
        let _ = chunk;
        todo!()
    }

    /// Makes a video of the bytes, which must have the given sha256 if there is one.
    ///
    /// # Errors
    /// [`Error::Sha256Mismatch`], [`Error::Probe`], or when the store or the database fails.
    pub async fn finish(self, sha256: Option<Digest>) -> Result<VideoRecord> {
        let _ = sha256;
        todo!()
    }
}

/// A resumable upload that is being written. Dropping it commits, in the background, what has come so far: a cut stream loses nothing.
pub struct Upload {
    library: Library,
    tenant: TenantId,
    id: UploadId,
    committed: u64,
    number: Option<u32>,
    buffer: Vec<u8>,
}

impl Upload {
    /// Appends bytes; every full part is durable before this returns.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`crate::metadata::Error::OffsetMismatch`] when another stream wrote in between, or when the store or the database
    /// fails. What was committed stays.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let _ = chunk;
        todo!()
    }

    /// Makes what has come so far durable. Returns the committed offset.
    ///
    /// # Errors
    /// As [`Upload::write`].
    pub async fn commit(&mut self) -> Result<u64> {
        todo!()
    }

    /// Makes a video of the whole file, which must have the given sha256 if there is one.
    ///
    /// # Errors
    /// [`Error::Sha256Mismatch`] or a refusal by [`Error::Probe`]: the upload is abandoned. Other failures leave it as it is, to be finished later.
    pub async fn finish(self, sha256: Option<Digest>) -> Result<VideoRecord> {
        let _ = sha256;
        todo!()
    }
}
