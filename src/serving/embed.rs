//! The use case of an embedding: a video becomes features of a version or of the bare backbone, on the path of a classification.
//!
//! Invariant: the features of a clip are what a head reads: the final norm of the mean of its frames' class tokens. Those of a video are the mean over
//! its views.

use std::time::Duration;

use super::clips::Samplings;
use super::{Asked, Caller, Choice, Error, SampledFrame, Serving, Video};
use crate::engine::ClipFeatures;
use crate::ids::VersionRef;
use crate::spec::ClipSampling;
use crate::telemetry::trace::{Open, Stage, stage};

/// Model whose features are computed, and how clips are sampled for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The bare backbone, for clips of this sampling.
    Backbone(ClipSampling),
    /// The backbone with the adapters of a version, for clips of this sampling, or of the version's own.
    Version(Choice, Option<ClipSampling>),
}

/// Features as their caller asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureRequest {
    /// What makes the features.
    pub subject: Subject,
    /// Whether the features have passed the backbone's final norm.
    pub final_norm: bool,
    /// Whether each row of features is divided by its Euclidean length.
    pub normalize: bool,
}

/// Features of a video, each row as wide as the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Version whose adapters were used; `None` for the bare backbone.
    pub version: Option<VersionRef>,
    /// Features of the video: the mean over its views.
    pub video: Vec<f32>,
    /// Features of each view, and of its frames.
    pub views: Vec<ClipFeatures>,
    /// Frames that were used, temporal view by temporal view.
    pub frames: Vec<SampledFrame>,
    /// Time that decoding took.
    pub decode: Duration,
    /// Time from the request's entry into the queue until the last of its batches formed.
    pub queue: Duration,
    /// Sum of the times of the batches that held the views.
    pub device: Duration,
}

impl Serving {
    /// Checks whether features can be computed now, before the video has arrived.
    ///
    /// # Errors
    /// Same as [`Serving::embed`], as far as they do not depend on the video.
    pub async fn check_embed(&self, caller: &Caller, wanted: &FeatureRequest) -> Result<(), Error> {
        self.subject(caller, wanted).await.map(drop)
    }

    /// Features of a video.
    ///
    /// # Errors
    /// When the task or version is missing or cannot serve, the queue is full, the video is refused, or the deadline passes.
    pub async fn embed(
        &self,
        caller: &Caller,
        wanted: &FeatureRequest,
        video: Video,
    ) -> Result<Embedding, Error> {
        let admission = stage(Stage::Admit);
        let subject = self.subject(caller, wanted).await;
        let (asked, sampling) = match subject {
            Ok(subject) => subject,
            Err(error) => {
                admission.end(false);
                return Err(error);
            }
        };
        let version = asked.as_ref().map(|asked| &asked.version);
        let embedding = self.embedding(caller, wanted, (version, sampling), video, admission);
        let embedding = embedding.await;
        if let Some(asked) = &asked {
            self.tell(asked, &embedding).await;
        }
        embedding
    }

    /// The version whose adapters are used, and how clips are taken.
    async fn subject(
        &self,
        caller: &Caller,
        wanted: &FeatureRequest,
    ) -> Result<(Option<Asked>, ClipSampling), Error> {
        match &wanted.subject {
            Subject::Backbone(sampling) => Ok((None, *sampling)),
            Subject::Version(choice, given) => {
                let asked = self.version(&caller.tenant, choice).await?;
                let sampling = given.unwrap_or(asked.essentials.sampling);
                Ok((Some(asked), sampling))
            }
        }
    }

    async fn embedding(
        &self,
        caller: &Caller,
        wanted: &FeatureRequest,
        (version, sampling): (Option<&VersionRef>, ClipSampling),
        video: Video,
        admission: Open,
    ) -> Result<Embedding, Error> {
        let samplings = Samplings::of(std::iter::once(sampling));
        let permit = self.admitted(caller, &samplings, admission)?;
        let engine = &self.parts.engine;
        engine.prefetch(version);
        let decoded = self.decoded(caller, video, &samplings).await?;
        let (mut clips, mut frames, mut decode) = (Vec::new(), Vec::new(), Duration::ZERO);
        for decoded in decoded {
            clips.extend(decoded.planes);
            frames.extend(decoded.frames);
            decode += decoded.took;
        }
        let features = engine
            .embed(&permit, version, wanted.final_norm, clips, caller.deadline)
            .await?;
        let mut views = features.clips;
        let mut video = mean(&views);
        if wanted.normalize {
            let of_view = |view: &mut ClipFeatures| {
                normalize(&mut view.pooled);
                view.frames.iter_mut().for_each(|row| normalize(row));
            };
            views.iter_mut().for_each(of_view);
            normalize(&mut video);
        }
        Ok(Embedding {
            version: version.cloned(),
            video,
            views,
            frames,
            decode,
            queue: features.queue,
            device: features.device,
        })
    }
}

/// The mean of the views' features. That of one view is the view's, to the bit.
fn mean(views: &[ClipFeatures]) -> Vec<f32> {
    let width = views.first().map_or(0, |view| view.pooled.len());
    let sum = |i: usize| -> f64 {
        let values = views.iter().filter_map(|view| view.pooled.get(i));
        values.copied().map(f64::from).sum()
    };
    let mean = |i| (sum(i) / views.len() as f64) as f32;
    (0..width).map(mean).collect()
}

/// Divides a row by its Euclidean length, unless that is 0.
fn normalize(row: &mut [f32]) {
    let square = |&x: &f32| f64::from(x) * f64::from(x);
    let length = row.iter().map(square).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut()
            .for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(pooled: &[f32]) -> ClipFeatures {
        ClipFeatures {
            pooled: pooled.to_vec(),
            frames: Vec::new(),
        }
    }

    #[test]
    fn a_videos_features_are_the_mean_of_its_views() {
        assert_eq!(mean(&[view(&[0.1, 1e-30])]), [0.1, 1e-30]);
        assert_eq!(mean(&[view(&[1.0, 4.0]), view(&[2.0, -4.0])]), [1.5, 0.0]);
    }

    #[test]
    fn a_normalised_row_has_length_1_and_a_row_of_zeros_stays() {
        for mut row in [vec![3.0, -4.0], vec![1e-20, 1e-20], vec![3e38, 3e38]] {
            normalize(&mut row);
            let length: f64 = row.iter().map(|x| f64::from(x * x)).sum();
            assert!((length - 1.0).abs() < 1e-6, "{row:?}");
        }
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }
}
