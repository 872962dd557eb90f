//! The client streams of VideoService: a header, then chunks, in bounded memory.
//!
//! Invariant: a chunk is handed on before the next one is read, so that a fast client is held back by the disk and not by memory.

use bytes::Bytes;
use tonic::{Status, Streaming};

use super::convert::{names, sha256};
use super::{CHUNK_BYTES, Parts, status};
use crate::ids::TenantId;
use crate::library::{self, Started};
use crate::metadata::{self, UploadRecord, VideoRecord};
use crate::proto::v1;

/// Memory that one upload takes at most: a part that is collected (in a buffer that grows to twice its 8 MiB), one that is written or joined, and a chunk.
pub(super) const UPLOAD_BYTES: u64 = 25 << 20;

/// Returns the next message of a stream; `None` at its end.
pub(super) async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    stream.message().await.map_err(status::broken_stream)
}

/// Returns a chunk that is not larger than allowed; refuses others.
pub(super) fn checked(chunk: Bytes) -> Result<Bytes, Status> {
    if chunk.len() > CHUNK_BYTES {
        return Err(status::stream("a chunk has more than 1048576 bytes"));
    }
    Ok(chunk)
}

/// Answers UploadVideo.
pub(super) async fn upload_video(
    parts: &Parts,
    tenant: &TenantId,
    mut stream: Streaming<v1::UploadVideoRequest>,
) -> Result<VideoRecord, Status> {
    use v1::upload_video_request::Payload;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let digest = sha256(&header.sha256, "header.sha256")?;
    let request = names::request_of(&header.request_id, "header.request_id")?;
    names::display(&header.display_name, "header.display_name")?;
    let library = &parts.library;
    let _memory = parts.pools.memory.take(UPLOAD_BYTES).await?;
    let in_header = status::below("header");
    let begun = library
        .upload_video(tenant, &header.display_name, digest, request)
        .await
        .map_err(|error| in_header(error.into()))?;
    let mut upload = match begun {
        Started::Done(video) => return Ok(*video),
        Started::Open(upload) => upload,
    };
    while let Some(message) = next(&mut stream).await? {
        let Some(Payload::Chunk(chunk)) = message.payload else {
            return Err(status::stream("chunks have to follow the header"));
        };
        upload.write(&checked(chunk)?).await?;
    }
    let video = match upload.finish().await {
        Ok(video) => video,
        // Only now is the sha256 of what came known, when the header did not promise one.
        Err(error @ library::Error::Metadata(metadata::Error::RequestReused { .. })) => {
            return Err(in_header(error.into()));
        }
        Err(error) => return Err(error.into()),
    };
    parts.metrics.uploaded(tenant, video.size_bytes);
    Ok(video)
}

/// Answers WriteUpload.
pub(super) async fn write_upload(
    parts: &Parts,
    tenant: &TenantId,
    mut stream: Streaming<v1::WriteUploadRequest>,
) -> Result<UploadRecord, Status> {
    use v1::write_upload_request::Payload;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let id = names::upload(&header.name, "header.name")?;
    let offset = u64::try_from(header.offset)
        .map_err(|_| status::invalid("header.offset", "expected 0 or more"))?;
    let library = &parts.library;
    let _memory = parts.pools.memory.take(UPLOAD_BYTES).await?;
    let mut upload = library.write_upload(tenant, id, offset).await?;
    while let Some(message) = next(&mut stream).await? {
        match message.payload {
            Some(Payload::Chunk(chunk)) => upload.write(&checked(chunk)?).await?,
            Some(Payload::Finish(finish)) => {
                let digest = sha256(&finish.sha256, "finish.sha256")?;
                let video = upload.finish(digest).await?;
                parts.metrics.uploaded(tenant, video.size_bytes);
                return Ok(library.get_upload(tenant, id).await?);
            }
            Some(Payload::Header(_)) | None => {
                return Err(status::stream(
                    "chunks or the finish have to follow the header",
                ));
            }
        }
    }
    upload.commit().await?;
    Ok(library.get_upload(tenant, id).await?)
}
