//! From a video to the clips of each way of sampling it.
//!
//! Invariant: a video is opened once, and decoded once for each sampling, whatever the number of tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};

use super::answer::{self, SampledFrame};
use super::{Caller, Error, Resident, Serving, Video};
use crate::engine::Load;
use crate::fair::Class;
use crate::spec::ClipSampling;
use crate::telemetry::Metrics;
use crate::telemetry::trace::{Stage, stage};
use crate::video::{self, ClipSpec, Input, Lane};

/// Decodings of one request at once: enough for the processors of a small machine, and few beside the decoder's queue.
const DECODES: usize = 4;

/// The different samplings of a request's tasks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Samplings {
    /// Each sampling once, in the order of the first task that has it.
    pub(super) distinct: Vec<ClipSampling>,
    /// Index of each task's sampling among the distinct ones.
    pub(super) places: Vec<usize>,
}

impl Samplings {
    /// The samplings of tasks, in their order.
    pub(super) fn of(tasks: impl Iterator<Item = ClipSampling>) -> Self {
        let mut distinct = Vec::new();
        let places = tasks.map(|sampling| {
            let known = distinct.iter().position(|own| *own == sampling);
            known.unwrap_or_else(|| {
                distinct.push(sampling);
                distinct.len() - 1
            })
        });
        let places = places.collect();
        Self { distinct, places }
    }

    /// What the engine has to have room for.
    pub(super) fn loads(&self) -> Vec<Load> {
        let load = |(place, sampling): (usize, &ClipSampling)| Load {
            clips: sampling.views(),
            frames: sampling.num_frames.get().into(),
            readers: self.places.iter().filter(|own| **own == place).count(),
        };
        self.distinct.iter().enumerate().map(load).collect()
    }
}

/// The clips that one sampling took from a video.
pub(super) struct Decoded {
    /// Normalised planes `[3, T, S, S]` of each view, spatial-major, temporal-minor.
    pub(super) planes: Vec<Arc<[f32]>>,
    /// Frames that were used, temporal view by temporal view.
    pub(super) frames: Vec<SampledFrame>,
    /// Time that decoding took.
    pub(super) took: Duration,
}

impl Serving {
    /// The clips of each distinct sampling, in their order.
    pub(super) async fn decoded(
        &self,
        caller: &Caller,
        video: Video,
        samplings: &Samplings,
    ) -> Result<Vec<Decoded>, Error> {
        let mut decoding = stage(Stage::Decode);
        decoding.count("frameshift.decodings", samplings.distinct.len());
        let decoded = self.decoded_all(caller, video, samplings).await;
        decoding.end(decoded.is_ok());
        decoded
    }

    async fn decoded_all(
        &self,
        caller: &Caller,
        video: Video,
        samplings: &Samplings,
    ) -> Result<Vec<Decoded>, Error> {
        let input = self.input(caller, video).await?;
        let decodings: Vec<_> = samplings
            .distinct
            .iter()
            .map(|sampling| self.decode(caller, input.clone(), sampling))
            .collect();
        stream::iter(decodings)
            .buffered(DECODES)
            .try_collect()
            .await
    }

    /// The clips of one sampling.
    async fn decode(
        &self,
        caller: &Caller,
        input: Input,
        sampling: &ClipSampling,
    ) -> Result<Decoded, Error> {
        let Resident {
            image_size,
            normalization,
            ..
        } = self.parts.resident;
        let spec = ClipSpec::of_task(sampling, image_size, normalization);
        let mut decoding = Decoding {
            metrics: &self.parts.metrics,
            began: Instant::now(),
            outcome: "cancelled",
        };
        let decoder = &self.parts.decoder;
        let lane = match caller.class {
            Class::Interactive => Lane::Interactive,
            Class::Batch => Lane::Batch,
        };
        let clip = decoder.clip(&caller.tenant, lane, input, spec).await;
        decoding.outcome = match &clip {
            Ok(_) => "ok",
            Err(video::Error::Rejected(_)) => "rejected",
            Err(_) => "failed",
        };
        let clip = clip?;
        Ok(Decoded {
            frames: answer::frames(&clip),
            planes: clip.planes,
            took: decoding.began.elapsed(),
        })
    }
}

/// Counts a decoding when it ends, also when its caller leaves.
struct Decoding<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: &'static str,
}

impl Drop for Decoding<'_> {
    fn drop(&mut self) {
        self.metrics.decoded(self.outcome, self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SpatialViews;

    fn sampling(frames: u16, spatial_views: SpatialViews) -> ClipSampling {
        ClipSampling {
            spatial_views,
            ..ClipSampling::uniform(frames.try_into().unwrap())
        }
    }

    #[test]
    fn equal_samplings_share_one_decoding_and_its_room() {
        let (eight, three) = (
            sampling(8, SpatialViews::Center),
            sampling(8, SpatialViews::Three),
        );
        let samplings = Samplings::of([eight, three, eight, eight].into_iter());
        assert_eq!(samplings.distinct, [eight, three]);
        assert_eq!(samplings.places, [0, 1, 0, 0]);
        let load = |clips, readers| Load {
            clips,
            frames: 8,
            readers,
        };
        assert_eq!(samplings.loads(), [load(1, 3), load(3, 1)]);
    }
}
