//! The batches of a plan's steps, decoded ahead of the device.
//!
//! Invariant: a step's batch depends on the plan's seed and the step alone.

use std::sync::Arc;

use futures::{FutureExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{Batch, Clips, Example, blocking, in_order};
use crate::jobs::augment::{self, Draws};
use crate::jobs::failure::Failure;
use crate::jobs::plan::Plan;
use crate::rng::Stream;
use crate::spec::Sampling;
use crate::video::{Rect, sampling};

/// The training split under a plan.
pub(in crate::jobs) struct Training {
    pub(in crate::jobs) clips: Clips,
    pub(in crate::jobs) examples: Vec<Example>,
    pub(in crate::jobs) plan: Plan,
    pub(in crate::jobs) order: Order,
    /// Batches that may be decoded ahead of the device, the one in the works included: as many as their bytes allow.
    pub(in crate::jobs) ahead: usize,
}

/// In which order an epoch takes its examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::jobs) enum Order {
    /// Shuffled as a whole: jobs that began under release 0.1.
    Shuffled,
    /// A keyed permutation, without an array.
    #[default]
    Permuted,
}

impl Training {
    /// The examples of a step, in the order in which they are in its batch.
    pub(in crate::jobs) fn picked(&self, step: u64) -> Vec<usize> {
        let (epoch, within) = self.plan.position(step);
        let size = self.plan.batch_size as usize;
        let (start, count) = (within as usize * size, self.examples.len());
        let places = start.min(count)..count.min(start.saturating_add(size));
        let draws = Draws::new(self.plan.seed);
        match self.order {
            Order::Shuffled => draws.shuffled(epoch, count)[places].to_vec(),
            Order::Permuted => {
                let order = draws.order(epoch, count as u64);
                places
                    .map(|place| order.at(place as u64) as usize)
                    .collect()
            }
        }
    }

    /// The batches of the steps from `step` on, decoded ahead.
    pub(in crate::jobs) fn batches(self: &Arc<Self>, step: u64) -> Batches {
        let ahead = self.ahead.max(1);
        // Each batch has a permit from before it is decoded until the device takes it, so that the channel is never full.
        let room = Arc::new(Semaphore::new(ahead));
        let (sender, receiver) = mpsc::channel(ahead);
        let training = Arc::clone(self);
        let producer = async move {
            for step in step..training.plan.total_steps() {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    return;
                };
                let batch = training.batch(step).await;
                let is_last = batch.is_err();
                if sender.send((batch, permit)).await.is_err() || is_last {
                    return;
                }
            }
        };
        Batches {
            receiver,
            _producer: AbortOnDropHandle::new(tokio::spawn(producer)),
        }
    }

    async fn batch(&self, step: u64) -> Result<Batch, Failure> {
        let (epoch, _) = self.plan.position(step);
        let picked = self.picked(step);
        let clips = picked
            .iter()
            .map(|i| self.clip(epoch, *i).boxed())
            .collect();
        let frames = in_order(clips).try_collect().await?;
        let labels = picked.iter().map(|i| self.examples[*i].class).collect();
        Ok(Batch { frames, labels })
    }

    async fn clip(&self, epoch: u64, index: usize) -> Result<Arc<[f32]>, Failure> {
        let example = self.examples[index];
        let draws = Draws::new(self.plan.seed);
        let index = index as u64;
        let is_mirrored = self.plan.horizontal_flip && draws.is_mirrored(epoch, index);
        let part = (self.plan.min_crop_area < 1.0).then(|| {
            let crop = draws.crop(epoch, index, example.size, self.plan.min_crop_area);
            Rect {
                x: crop.x,
                y: crop.y,
                width: crop.width,
                height: crop.height,
                flip: false,
            }
        });
        let indices = self.indices(example, draws.frames(epoch, index));
        let planes = self.clips.frames(example, indices, part).await?;
        if !is_mirrored {
            return Ok(planes);
        }
        let side = usize::from(self.clips.side);
        blocking(move || {
            let mut planes = planes.to_vec();
            augment::mirror(&mut planes, side);
            planes.into()
        })
        .await
    }

    fn indices(&self, example: Example, mut random: Stream) -> Vec<u32> {
        let wanted = self.clips.sampling.num_frames.get();
        match self.clips.sampling.sampling {
            Sampling::Uniform => sampling::uniform_training(example.frames, wanted, &mut random),
            Sampling::Strided(rate) => {
                sampling::strided_training(example.frames, wanted, rate, &mut random)
            }
        }
    }
}

/// Batches in the order of their steps; dropping it ends the decoding.
pub(in crate::jobs) struct Batches {
    receiver: mpsc::Receiver<(Result<Batch, Failure>, OwnedSemaphorePermit)>,
    _producer: AbortOnDropHandle<()>,
}

impl Batches {
    /// The next step's batch.
    pub(in crate::jobs) async fn next(&mut self) -> Result<Batch, Failure> {
        // The producer ends early only by a panic.
        match self.receiver.recv().await {
            Some((batch, _permit)) => batch,
            None => Err(Failure::Panicked),
        }
    }
}
