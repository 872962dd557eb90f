//! Forwards of a job outside training: the metrics on the validation split, and the frozen features of a linear probe.
//!
//! Invariant: a video's scores are those that classification gives: softmax of each view's logits, then the mean.

use std::sync::Arc;

use futures::{FutureExt, TryStreamExt};

use super::dataset::{Clips, Example, blocking, in_order};
use super::failure::Failure;
use super::score::{self, Tally};
use super::trainer::{Forward, ForwardWalk};
use crate::device::{self, Priority};
use crate::model::{AdapterSet, Backbone, Error, Features, Inference, Segment};
use crate::spec::Evaluation;

/// Frames of one forward: enough to fill the device, small beside a training step.
const FRAMES: usize = 128;

/// Where forwards run.
#[derive(Clone)]
pub(super) struct Forwards {
    pub(super) device: device::Handle,
    pub(super) backbone: Arc<Backbone>,
    /// Frames of one clip.
    pub(super) num_frames: usize,
}

impl Forwards {
    fn clips(&self) -> usize {
        (FRAMES / self.num_frames.max(1)).max(1)
    }

    async fn run(
        &self,
        make: impl FnOnce() -> Result<Forward, Error> + Send + 'static,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let forward = blocking(make).await??;
        Ok(self
            .device
            .run(ForwardWalk::new(forward), Priority::Training)
            .await??)
    }

    /// Frozen features `[C]` of the central clip of each example.
    pub(super) async fn features(
        &self,
        clips: &Clips,
        examples: &[Example],
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let mut found = Vec::with_capacity(examples.len());
        for group in examples.chunks(self.clips()) {
            let central = group.iter().map(|example| clips.central(*example).boxed());
            let frames: Vec<Arc<[f32]>> = in_order(central.collect()).try_collect().await?;
            let backbone = Arc::clone(&self.backbone);
            let make = move || {
                Ok(Forward::Features(Box::new(Features::new(
                    backbone, frames,
                )?)))
            };
            found.extend(self.run(make).await?);
        }
        Ok(found)
    }

    /// Metrics of a set on examples; zeros when there is none.
    pub(super) async fn evaluate(
        &self,
        clips: &Clips,
        examples: &[Example],
        set: &Arc<AdapterSet>,
    ) -> Result<Evaluation, Failure> {
        // As it will serve.
        let set = &Arc::new(set.in_precision(self.backbone.precision()));
        let mut tally = Tally::new(set.classes());
        let views = examples.iter().map(|example| {
            let views = clips.views(*example);
            async { Ok::<_, Failure>((example.class, views.await?)) }.boxed()
        });
        let mut decoded = in_order(views.collect());
        let mut group = Vec::new();
        let mut count = 0;
        while let Some((class, views)) = decoded.try_next().await? {
            count += views.len();
            group.push((class, views));
            if count >= self.clips() {
                self.score(std::mem::take(&mut group), set, &mut tally)
                    .await?;
                count = 0;
            }
        }
        self.score(group, set, &mut tally).await?;
        Ok(tally.finish())
    }

    async fn score(
        &self,
        group: Vec<(u32, Vec<Arc<[f32]>>)>,
        set: &Arc<AdapterSet>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        if group.is_empty() {
            return Ok(());
        }
        let counts: Vec<(u32, usize)> = group
            .iter()
            .map(|(class, views)| (*class, views.len()))
            .collect();
        let frames: Vec<Arc<[f32]>> = group.into_iter().flat_map(|(_, views)| views).collect();
        let segment = Segment {
            set: Arc::clone(set),
            clips: 0..frames.len(),
            num_frames: self.num_frames,
        };
        let backbone = Arc::clone(&self.backbone);
        let make = move || {
            let inference = Inference::new(backbone, frames, vec![segment])?;
            Ok(Forward::Logits(Box::new(inference)))
        };
        let mut logits = self.run(make).await?.into_iter();
        for (class, views) in counts {
            let views: Vec<Vec<f32>> = logits.by_ref().take(views).collect();
            tally.add(class as usize, &score::scores(&views));
        }
        Ok(())
    }
}
