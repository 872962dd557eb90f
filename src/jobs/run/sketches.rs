//! What the videos of a data set look like: sketches of frozen features, by which near-duplicates and scenes are found before anything is trained.
//!
//! Invariant: a video is looked at once for a backbone, whatever the job, and its sketch is on record; what cannot be read is left to the check of the
//! videos. Of the test split nothing but a warning follows.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};

use super::Run;
use super::survey::Survey;
use crate::blocking::blocking;
use crate::ids::VideoId;
use crate::jobs::dataset::{Clips, Example, GLANCE, Truths, in_order};
use crate::jobs::evaluation::Forwards;
use crate::jobs::failure::Failure;
use crate::library::{self, Sketch};
use crate::metadata::JobUpdate;
use crate::spec::{AdapterConfig, Digest};

/// Videos whose pictures wait for the device at a time.
const GROUP: usize = 32;

impl Run {
    /// What sketches of the resident backbone are kept under.
    pub(super) fn sketches(&self) -> Digest {
        library::sketches_of(self.context.parts.backbone.digest())
    }

    /// Looks at every video of the snapshot that nobody has looked at.
    pub(super) async fn look_at_videos(&self, clips: &Clips) -> Result<(), Failure> {
        let num_frames = usize::from(GLANCE.get());
        let forwards = Forwards {
            device: self.device(),
            backbone: Arc::clone(&self.context.parts.backbone),
            num_frames,
            truths: Truths::default(),
            demand: self.demand_of(AdapterConfig::LINEAR_PROBE, 1, num_frames)?,
        };
        let (mut after, mut checked) = (None, 0);
        loop {
            let page = self.page(after).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.video);
            let videos: Vec<VideoId> = page.iter().map(|example| example.video).collect();
            let unseen = self.undecoded(self.sketches(), &videos).await?;
            let unseen: Vec<VideoId> = videos
                .into_iter()
                .filter(|own| unseen.contains(own))
                .collect();
            for group in unseen.chunks(GROUP) {
                self.look_at_some(clips, &forwards, group).await?;
                checked += group.len() as u64;
                let update = JobUpdate {
                    checked: Some(checked),
                    ..JobUpdate::default()
                };
                self.journal.progress(update).await?;
            }
        }
    }

    async fn look_at_some(
        &self,
        clips: &Clips,
        forwards: &Forwards,
        videos: &[VideoId],
    ) -> Result<(), Failure> {
        let records = clips.records(videos).await?;
        let known = videos.iter().filter_map(|video| records.get(video));
        let looks = known.map(|record| {
            let example = clips.example(record, 0);
            async move { (record.id, clips.glance(example, record).await) }.boxed()
        });
        let mut looks = in_order(looks.collect());
        let (mut seen, mut frames) = (Vec::new(), Vec::new());
        while let Some((video, glance)) = looks.next().await {
            match glance {
                Ok(planes) => {
                    seen.push(video);
                    frames.push(planes);
                }
                // The check says so, of all videos at once.
                Err(Failure::Video { .. }) => {}
                Err(failure) if super::check::is_gone(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
        if frames.is_empty() {
            return Ok(());
        }
        let features = forwards.looks(frames).await?;
        let sketched = move || {
            let own = seen.into_iter().zip(features);
            let own = own.filter_map(|(video, row)| Some((video, Sketch::of(&row)?.to_text())));
            own.collect::<Vec<_>>()
        };
        let sketches = blocking(sketched).await?;
        let metadata = &self.context.parts.metadata;
        let (tenant, kind) = (&self.lease.tenant, self.sketches());
        let write = || async {
            let written = metadata.remember_sketches(tenant, kind, &sketches);
            Ok(written.await?)
        };
        self.journal.patiently(write).await
    }

    /// For each training example the first one of those with almost the same pictures; empty when nobody looked.
    pub(super) async fn alike(&self, survey: &Survey) -> Result<Vec<u32>, Failure> {
        let library = &self.context.parts.library;
        let (tenant, kind) = (&self.lease.tenant, self.sketches());
        let mut sketches = Vec::with_capacity(survey.training.len());
        for page in survey.training.chunks(super::survey::PAGE as usize) {
            let videos: Vec<VideoId> = page.iter().map(|own: &Example| own.video).collect();
            let read = || async { Ok(library.sketches(tenant, kind, &videos).await?) };
            let known = self.journal.patiently(read).await?;
            sketches.extend(videos.iter().map(|video| known.get(video).copied()));
        }
        Ok(blocking(move || library::alike_groups(&sketches)).await?)
    }
}
