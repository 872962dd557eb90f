//! Whether every video of a job decodes, before anything is trained.
//!
//! Invariant: a video is decoded unless a job has decoded it before under equal sampling, limits and release; what is decoded is remembered, so that a
//! validation that is interrupted goes on where it was.

use std::collections::HashSet;

use futures::{FutureExt, StreamExt};

use super::Run;
use super::survey::{Survey, gone};
use crate::ids::VideoId;
use crate::jobs::dataset::{Clips, Example, in_order};
use crate::jobs::failure::Failure;
use crate::jobs::validation::Problems;
use crate::library;
use crate::metadata::{self, JobUpdate, VideoRecord};
use crate::spec::Digest;

/// Videos after which it is written down how far the check is: what an interruption costs at most.
const NOTED: usize = 256;

impl Run {
    /// Decodes every video of training and validation that is not known to decode; keeps those of training where `keep` says so and there is room.
    pub(super) async fn check(
        &self,
        clips: &Clips,
        survey: &Survey,
        keep: bool,
        problems: &mut Problems,
    ) -> Result<(), Failure> {
        let sampling = clips.decoding()?;
        let mut checked = 0;
        for (examples, keep) in [(&survey.training, keep), (&survey.validation, false)] {
            for some in examples.chunks(NOTED) {
                let decoded = self.check_some(clips, (some, keep), sampling, problems);
                let decoded = decoded.await?;
                self.remember(sampling, &decoded).await;
                checked += some.len() as u64;
                let update = JobUpdate {
                    checked: Some(checked),
                    ..JobUpdate::default()
                };
                self.journal.progress(update).await?;
            }
        }
        Ok(())
    }

    /// Checks some videos. Returns those that were decoded for the first time.
    async fn check_some(
        &self,
        clips: &Clips,
        (examples, keep): (&[Example], bool),
        sampling: Digest,
        problems: &mut Problems,
    ) -> Result<Vec<VideoId>, Failure> {
        let videos: Vec<VideoId> = examples.iter().map(|example| example.video).collect();
        let records = clips.records(&videos).await?;
        let unknown = self.undecoded(sampling, &videos).await?;
        let checks = examples.iter().map(|example| {
            let record = records.get(&example.video);
            let is_unknown = unknown.contains(&example.video);
            async move {
                let checked = match record {
                    None => None,
                    Some(record) if is_unknown => Some(clips.check(*example, record, keep).await),
                    Some(record) => Some(clips.look_at(record).await),
                };
                (example.video, record, checked)
            }
            .boxed()
        });
        let mut checks = in_order(checks.collect());
        let mut decoded = Vec::new();
        while let Some((video, record, checked)) = checks.next().await {
            match checked {
                Some(Ok(())) => decoded.extend(Some(video).filter(|video| unknown.contains(video))),
                Some(Err(Failure::Video { why, .. })) => {
                    problems.push_unavailable(unavailable(video, record, &why));
                }
                Some(Err(failure)) if !is_gone(&failure) => return Err(failure),
                Some(Err(_)) | None => problems.push(gone(video)),
            }
        }
        Ok(decoded)
    }

    /// Of some videos, those that nobody has decoded in this way.
    pub(super) async fn undecoded(
        &self,
        sampling: Digest,
        videos: &[VideoId],
    ) -> Result<HashSet<VideoId>, Failure> {
        let metadata = &self.context.parts.metadata;
        let tenant = &self.lease.tenant;
        let ask = || async { Ok(metadata.undecoded(tenant, sampling, videos).await?) };
        let unknown = self.journal.patiently(ask).await?;
        Ok(unknown.into_iter().collect())
    }

    /// Remembers what was decoded. What cannot be written is decoded again by the next job.
    async fn remember(&self, sampling: Digest, decoded: &[VideoId]) {
        if decoded.is_empty() {
            return;
        }
        let metadata = &self.context.parts.metadata;
        let write = metadata.remember_decoded(&self.lease.tenant, sampling, decoded);
        if let Err(error) = self.context.patience.records(write).await {
            tracing::warn!(job = %self.lease.job, error = &error as &dyn std::error::Error, "cannot remember which videos decode");
        }
    }
}

fn unavailable(video: VideoId, record: Option<&VideoRecord>, why: &str) -> String {
    let name = record.map_or("", |record| record.display_name.as_str());
    format!("video {video} ({name:?}): {why}")
}

/// Whether the video has no record any more.
pub(super) fn is_gone(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Library(library::Error::Metadata(metadata::Error::NotFound { .. }))
    )
}
