//! Calls that a load's preparation makes: a clip or a version goes to the server, and what is resident is asked.

use bytes::Bytes;
use futures::stream;

use super::material::NUM_FRAMES;
use super::{Error, during};
use crate::client::{CHUNK, Client};
use crate::proto::v1;

/// Stores a clip; returns its name.
///
/// # Errors
/// When the server refuses.
pub(in crate::tools) async fn upload(client: &Client, clip: &Bytes) -> Result<String, Error> {
    use v1::upload_video_request::Payload;
    let header = v1::UploadVideoHeader {
        display_name: "bench".to_owned(),
        ..Default::default()
    };
    let chunks = clip
        .chunks(CHUNK)
        .map(|chunk| Payload::Chunk(clip.slice_ref(chunk)));
    let messages: Vec<_> = std::iter::once(Payload::Header(header))
        .chain(chunks)
        .map(|payload| v1::UploadVideoRequest {
            payload: Some(payload),
        })
        .collect();
    let answer = client.videos().upload_video(stream::iter(messages)).await;
    Ok(answer.map_err(during("upload a clip"))?.into_inner().name)
}

/// Makes a version of a file; the task is created when there is none.
///
/// # Errors
/// When the server refuses.
pub(in crate::tools) async fn import(
    client: &Client,
    task: &str,
    file: Bytes,
) -> Result<v1::AdapterVersion, Error> {
    let sampling = v1::ClipSampling {
        num_frames: NUM_FRAMES,
        ..Default::default()
    };
    import_as(client, task, sampling, file).await
}

/// As [`import`], with the sampling of the task.
///
/// # Errors
/// When the server refuses.
pub(super) async fn import_as(
    client: &Client,
    task: &str,
    sampling: v1::ClipSampling,
    file: Bytes,
) -> Result<v1::AdapterVersion, Error> {
    use v1::import_adapter_version_request::Payload;
    let header = v1::ImportAdapterVersionHeader {
        parent: task.to_owned(),
        create_task: true,
        sampling: Some(sampling),
        ..Default::default()
    };
    let chunks = file
        .chunks(CHUNK)
        .map(|chunk| Payload::Chunk(file.slice_ref(chunk)));
    let messages: Vec<_> = std::iter::once(Payload::Header(header))
        .chain(chunks)
        .map(|payload| v1::ImportAdapterVersionRequest {
            payload: Some(payload),
        })
        .collect();
    let answer = client
        .tasks()
        .import_adapter_version(stream::iter(messages))
        .await;
    Ok(answer.map_err(during("import a version"))?.into_inner())
}

/// Bytes that a set takes on the device, as the server counts them: of the largest resident one of the caller's.
///
/// # Errors
/// When the server refuses, or nothing is resident.
pub(super) async fn set_bytes(client: &Client) -> Result<u64, Error> {
    let largest = resident(client).await?.into_iter().max();
    largest.filter(|&bytes| bytes > 0).ok_or(Error::Incomplete {
        what: "the size of a resident set",
    })
}

/// Bytes of each of the caller's resident sets.
///
/// # Errors
/// When the server refuses.
pub(super) async fn resident(client: &Client) -> Result<Vec<u64>, Error> {
    let answer = client
        .tasks()
        .list_residency(v1::ListResidencyRequest {})
        .await;
    let sets = answer
        .map_err(during("ask what is resident"))?
        .into_inner()
        .sets;
    let bytes = sets.iter().map(|set| set.size_bytes.unsigned_abs());
    Ok(bytes.collect())
}
