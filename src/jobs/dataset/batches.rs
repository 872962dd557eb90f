//! The batches of a plan's steps, decoded ahead of the device.
//!
//! Invariant: a step's batch depends on the plan's seed and the step alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{Balance, Batch, Clips, Example, Prefixes, Targets, Truths, in_order};
use crate::blocking::blocking;
use crate::ids::VideoId;
use crate::jobs::augment::{self, Draws, Fallback, Mix};
use crate::jobs::failure::Failure;
use crate::jobs::plan::Plan;
use crate::model::{Goal, Kept};
use crate::rng::Stream;
use crate::spec::Sampling;
use crate::video::{Rect, sampling};

/// Clips whose videos are asked for before their steps come, where they have to be fetched.
const FETCHED_AHEAD: usize = 64;

/// The training split under a plan.
pub(in crate::jobs) struct Training {
    pub(in crate::jobs) clips: Clips,
    pub(in crate::jobs) examples: Vec<Example>,
    pub(in crate::jobs) plan: Plan,
    pub(in crate::jobs) order: Order,
    /// Labels with unequal numbers of clips.
    pub(in crate::jobs) balance: Balance,
    /// What the examples are.
    pub(in crate::jobs) truths: Truths,
    /// Where the tokens of frames are kept, when every epoch shows the same pixels of them.
    pub(in crate::jobs) prefixes: Option<Prefixes>,
    /// Videos that cannot be decoded any more. Held for a look-up only, never across an await.
    pub(in crate::jobs) skipped: Mutex<BTreeSet<VideoId>>,
    /// Batches that may be decoded ahead of the device, the one in the works included: as many as their bytes allow.
    pub(in crate::jobs) ahead: usize,
}

/// In which order an epoch takes its examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::jobs) enum Order {
    /// Shuffled as a whole: jobs that began under release 0.1.
    Shuffled,
    /// A keyed permutation, without an array, in whole batches and what is left: jobs that began under the release before.
    Permuted,
    /// A keyed permutation, in batches that are as large as each other, or one clip smaller.
    #[default]
    Equal,
}

impl Order {
    /// What is taken of a picture in which no drawn crop fits.
    fn fallback(self) -> Fallback {
        match self {
            Self::Shuffled | Self::Permuted => Fallback::Square,
            Self::Equal => Fallback::Shape,
        }
    }
}

/// One of so many training clips may become undecodable while a job trains.
const MOST_SKIPPED: usize = 100;

impl Batch {
    /// The clips mixed with their partners, and what they are to be.
    fn mixed(self, mix: Mix, side: usize) -> Self {
        let share = mix.share(side);
        let own = self.frames.iter().zip(&self.targets.labels);
        let partners = self.frames.iter().zip(&self.targets.labels).rev();
        let (mut frames, mut goals) = (Vec::new(), Vec::new());
        for ((own, _), (partner, other)) in own.zip(partners) {
            frames.push(match mix {
                Mix::Blend(share) => augment::mixed(own, partner, share).into(),
                Mix::Cut(part) => augment::cut(own, partner, side, part).into(),
            });
            goals.push(Goal {
                other: *other,
                share,
                weight: 1.0,
            });
        }
        Self {
            frames,
            // Blended pictures are no frames of a video.
            kept: Vec::new(),
            targets: Targets {
                labels: self.targets.labels,
                goals,
                marks: None,
            },
        }
    }
}

impl Training {
    /// The examples of a step, in the order in which they are in its batch.
    pub(in crate::jobs) fn picked(&self, step: u64) -> Vec<usize> {
        self.picked_by(&self.plan, step)
    }

    /// The examples of a step of another plan for the same examples.
    pub(in crate::jobs) fn picked_by(&self, plan: &Plan, step: u64) -> Vec<usize> {
        let (epoch, _) = plan.position(step);
        let draws = Draws::new(plan.seed);
        let places = match self.order {
            Order::Shuffled | Order::Permuted => plan.whole_places(step),
            Order::Equal => plan.places(step),
        };
        let count = self.examples.len();
        match self.order {
            Order::Shuffled => {
                let order = draws.shuffled(epoch, count);
                let places = places.filter_map(|place| order.get(place as usize));
                places.copied().collect()
            }
            Order::Permuted | Order::Equal => {
                let order = draws.order(epoch, count as u64);
                let example = |place| self.balance.example(&draws, epoch, order.at(place));
                places.map(example).collect()
            }
        }
    }

    /// The clip of a row of frozen features, of which each example has `draws`: the one that classification takes from the middle, then those of the
    /// training's draws.
    pub(in crate::jobs) async fn frozen_clip(
        &self,
        row: usize,
        draws: usize,
    ) -> Result<Arc<[f32]>, Failure> {
        let draws = draws.max(1);
        let (index, draw) = (row / draws, (row % draws) as u64);
        let example = self.examples[index];
        if draw == 0 {
            return self.clips.central(example).await;
        }
        let random = Draws::new(self.plan.seed).frames(draw, index as u64);
        let indices = self.indices(example, random);
        self.clips
            .frames(example, indices, (None, Vec::new()))
            .await
    }

    /// The batches of the steps from `step` on, decoded ahead.
    pub(in crate::jobs) fn batches(self: &Arc<Self>, step: u64) -> Batches {
        let ahead = self.ahead.max(1);
        // Each batch has a permit from before it is decoded until the device takes it, so that the channel is never full.
        let room = Arc::new(Semaphore::new(ahead));
        let (sender, receiver) = mpsc::channel(ahead);
        let training = Arc::clone(self);
        let producer = async move {
            let mut asked = step;
            for step in step..training.plan.total_steps() {
                asked = training.fetch_ahead(step, asked).await;
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

    /// Asks for the videos of the next steps, from `asked` on. Returns the first step whose videos were not asked for.
    async fn fetch_ahead(&self, step: u64, asked: u64) -> u64 {
        if !self.clips.are_fetched() {
            return asked;
        }
        let size = self.picked(step).len().max(1);
        let steps = FETCHED_AHEAD.div_ceil(size) as u64;
        let end = (step + 1 + steps).min(self.plan.total_steps());
        for next in asked.max(step + 1)..end {
            let picked = self.picked(next);
            let videos = picked.iter().map(|i| self.examples[*i].video).collect();
            self.clips.prefetch(videos).await;
        }
        end.max(asked)
    }

    async fn batch(&self, step: u64) -> Result<Batch, Failure> {
        let (epoch, _) = self.plan.position(step);
        let picked = self.left(self.picked(step));
        let clips = picked
            .iter()
            .map(|i| self.clip(epoch, *i).boxed())
            .collect();
        let mut clips = in_order(clips);
        let (mut frames, mut labels, mut last) = (Vec::new(), Vec::new(), None);
        let mut kept = Vec::new();
        for index in picked {
            match clips.next().await {
                Some(Ok(planes)) => {
                    frames.push(planes);
                    labels.push(self.examples[index].class);
                    kept.extend(self.kept(epoch, index));
                }
                Some(Err(failure @ Failure::Video { .. })) => {
                    last = Some(self.skip(failure).await?);
                }
                Some(Err(failure)) => return Err(failure),
                None => return Err(Failure::Panicked),
            }
        }
        if let Some(failure) = last.filter(|_| frames.is_empty()) {
            return Err(failure);
        }
        let side = usize::from(self.clips.side);
        let draws = Draws::new(self.plan.seed);
        let mixing = self.plan.mixing;
        let mix = draws.mix(step, side, (mixing.mixup, mixing.cutmix));
        let mut batch = Batch {
            frames,
            kept,
            targets: self.targets(labels),
        };
        if let Some(mix) = mix {
            batch = blocking(move || batch.mixed(mix, side)).await?;
            self.complete(&mut batch.targets);
        }
        Ok(batch)
    }

    /// What clips of these labels are to be.
    pub(in crate::jobs) fn targets(&self, labels: Vec<u32>) -> Targets {
        let mut targets = Targets {
            labels,
            ..Targets::default()
        };
        self.complete(&mut targets);
        targets
    }

    fn complete(&self, targets: &mut Targets) {
        self.balance.weigh(targets);
        self.truths.mark(targets);
    }

    /// The videos that could not be decoded any more so far.
    pub(in crate::jobs) fn skipped(&self) -> BTreeSet<VideoId> {
        // A set is whole after every single operation.
        let skipped = self.skipped.lock();
        skipped.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the examples of a step, those that are not left out; all of them when there is no other, so that the step says why it has none.
    fn left(&self, picked: Vec<usize>) -> Vec<usize> {
        let skipped = self.skipped();
        let is_left = |example: &usize| !skipped.contains(&self.examples[*example].video);
        match picked.iter().any(is_left) {
            true => picked.into_iter().filter(is_left).collect(),
            false => picked,
        }
    }

    /// Leaves out a video that cannot be decoded any more, which its owner is told once, and returns the failure.
    ///
    /// # Errors
    /// The failure itself when more than a hundredth of the training clips were left out.
    async fn skip(&self, failure: Failure) -> Result<Failure, Failure> {
        let Failure::Video { video, .. } = &failure else {
            return Err(failure);
        };
        let (is_news, count) = {
            // A set is whole after every single operation.
            let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
            (skipped.insert(*video), skipped.len())
        };
        if count * MOST_SKIPPED > self.examples.len() {
            return Err(failure);
        }
        if is_news {
            let text = format!(
                "a training clip is left out from now on ({count} of {}): {failure}",
                self.examples.len()
            );
            self.clips.sources.journal.tell(true, text).await?;
        }
        Ok(failure)
    }

    /// Where the tokens of the frames of a clip are kept, if they are.
    fn kept(&self, epoch: u64, index: usize) -> Option<Vec<Option<Kept>>> {
        let prefixes = self.prefixes.as_ref()?;
        let example = self.examples[index];
        let (draws, index) = (Draws::new(self.plan.seed), index as u64);
        let indices = self.indices(example, draws.frames(epoch, index));
        let is_mirrored = self.is_mirrored(&draws, epoch, index);
        Some(prefixes.of(example.video, &indices, is_mirrored))
    }

    fn is_mirrored(&self, draws: &Draws, epoch: u64, index: u64) -> bool {
        self.plan.horizontal_flip && draws.is_mirrored(epoch, index)
    }

    async fn clip(&self, epoch: u64, index: usize) -> Result<Arc<[f32]>, Failure> {
        let example = self.examples[index];
        let draws = Draws::new(self.plan.seed);
        let index = index as u64;
        let is_mirrored = self.is_mirrored(&draws, epoch, index);
        let part = self.part(&draws, epoch, index, example.size);
        let indices = self.indices(example, draws.frames(epoch, index));
        let augment = self.plan.rand_augment.as_ref();
        let alters = augment.map(|augment| draws.alters(epoch, index, augment));
        let shown = (part, alters.unwrap_or_default());
        let planes = self.clips.frames(example, indices, shown).await?;
        let side = usize::from(self.clips.side);
        let probability = self.plan.random_erasing;
        let erased = draws.erased(epoch, index, side, probability);
        if !is_mirrored && erased.is_none() {
            return Ok(planes);
        }
        let altered = blocking(move || {
            let mut planes = planes.to_vec();
            if let Some(part) = erased {
                augment::erase(&mut planes, side, part);
            }
            if is_mirrored {
                augment::mirror(&mut planes, side);
            }
            planes.into()
        });
        Ok(altered.await?)
    }

    /// The part of its pictures that a clip shows; `None` is their middle.
    fn part(&self, draws: &Draws, epoch: u64, index: u64, size: (u32, u32)) -> Option<Rect> {
        let plan = &self.plan;
        let crop = if plan.short_side_scale > 1.0 {
            draws.jitter(epoch, index, size, plan.short_side_scale)
        } else if plan.min_crop_area < 1.0 {
            draws.crop(
                epoch,
                index,
                size,
                (plan.min_crop_area, self.order.fallback()),
            )
        } else {
            return None;
        };
        Some(Rect {
            x: crop.x,
            y: crop.y,
            width: crop.width,
            height: crop.height,
            flip: false,
        })
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

/// The row of frozen features that an epoch uses of an example that has `draws` of them: another one in each epoch, as far as there are.
pub(in crate::jobs) fn frozen_row(epoch: u64, example: usize, draws: usize) -> usize {
    let draws = draws.max(1);
    example * draws + ((epoch + example as u64) % draws as u64) as usize
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
