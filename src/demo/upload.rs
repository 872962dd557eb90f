//! Uploads a tenant's clips and makes a data set of them.

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::clips::TRAINING;
use super::console::Console;
use super::{Error, Party, during};
use crate::client::Client;
use crate::proto::v1::{self, upload_video_request::Payload};

/// Uploads of a tenant at once: each waits for the disk, so several share the wait.
const AT_ONCE: usize = 6;
/// Examples of one request: the API's limit.
const PAGE: usize = 1000;
/// The data set's id; both tenants use the same, and never meet.
pub(super) const DATASET: &str = "motion";

/// Uploads all clips and labels them; returns the videos' names in the order of the clips.
pub(super) async fn all(party: &Party, console: &Console) -> Result<Vec<String>, Error> {
    let material = &party.material;
    let total = material.videos.len();
    let bar = console.bar(party.role.tenant, total as u64);
    let videos: Vec<String> = stream::iter(0..total)
        .map(|index| {
            let name = format!("{}-{index}.mp4", material.label(index));
            one(&party.client, name, material.videos[index].file.clone())
        })
        .buffered(AT_ONCE)
        .inspect_ok(|_| bar.add())
        .try_collect()
        .await?;
    label(party, &videos).await?;
    Ok(videos)
}

async fn one(client: &Client, display_name: String, file: bytes::Bytes) -> Result<String, Error> {
    let header = v1::UploadVideoHeader {
        display_name,
        sha256: Sha256::digest(&file).to_vec().into(),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let messages = [Payload::Header(header), Payload::Chunk(file)];
    let messages = messages.map(|payload| v1::UploadVideoRequest {
        payload: Some(payload),
    });
    let answer = client.videos().upload_video(stream::iter(messages)).await;
    Ok(answer.map_err(during("upload a clip"))?.into_inner().name)
}

async fn label(party: &Party, videos: &[String]) -> Result<(), Error> {
    let mut datasets = party.client.datasets();
    let created = datasets
        .create_dataset(v1::CreateDatasetRequest {
            dataset_id: DATASET.to_owned(),
            display_name: "drawn motion clips".to_owned(),
            request_id: uuid::Uuid::now_v7().to_string(),
            ..Default::default()
        })
        .await
        .map_err(during("create a data set"))?
        .into_inner();
    let examples: Vec<v1::Example> = videos
        .iter()
        .enumerate()
        .map(|(index, video)| v1::Example {
            video: video.clone(),
            label: party.material.label(index).to_owned(),
            split: match index < TRAINING {
                true => v1::Split::Train.into(),
                false => v1::Split::Validation.into(),
            },
            ..Default::default()
        })
        .collect();
    for page in examples.chunks(PAGE) {
        let request = v1::AddExamplesRequest {
            name: created.name.clone(),
            examples: page.to_vec(),
        };
        datasets
            .add_examples(request)
            .await
            .map_err(during("label the clips"))?;
    }
    Ok(())
}
