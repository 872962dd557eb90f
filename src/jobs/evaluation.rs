//! Forwards of a job outside training: the metrics on the validation split, and the frozen features of a linear probe.
//!
//! Invariant: a video's scores are those that classification gives: softmax of each view's logits, then the mean.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{FutureExt, Stream, TryStreamExt};

use super::calibration::Samples;
use super::dataset::{Clips, Example, Training, Truths, in_order, some_in_order};
use super::failure::Failure;
use super::features::Features;
use super::memory::Demand;
use super::trainer::{Forward, ForwardWalk, HeadPass};
use crate::blocking::blocking;
use crate::device;
use crate::ids::VideoId;
use crate::model::{
    self, AdapterSet, Backbone, Error, Features as FeatureForward, Inference, Segment, aside,
};
use crate::serving::{Scores, Tally};
use crate::spec::{Evaluation, Head, LabelKind};
use crate::video::ClipSpec;

/// Frames of one forward: enough to fill the device, small beside a training step.
const FRAMES: usize = 128;
/// Examples that are evaluated at a time when some may be unreadable: what one of those makes to be computed again, at most.
const GROUP: usize = 64;
/// Decoded views that wait for the device, in bytes; a single group of views may be as large alone.
const DECODED_BYTES: usize = 256 << 20;

/// Where forwards run.
#[derive(Clone)]
pub(super) struct Forwards {
    pub(super) device: device::Owned,
    pub(super) backbone: Arc<Backbone>,
    /// Frames of one clip.
    pub(super) num_frames: usize,
    /// What a forward may take.
    pub(super) demand: Demand,
    /// What the examples are that are evaluated.
    pub(super) truths: Truths,
}

impl Forwards {
    fn clips(&self) -> usize {
        self.demand.forward_clips(FRAMES / self.num_frames.max(1))
    }

    async fn run(
        &self,
        make: impl FnOnce() -> Result<Forward, Error> + Send + 'static,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let forward = blocking(make).await??;
        Ok(self.device.run(ForwardWalk::new(forward)).await??)
    }

    /// Adds what a head reads of every view of each example that has no frozen features yet: the views of an example follow one another as they are decoded.
    pub(super) async fn view_features(
        &self,
        clips: &Clips,
        (examples, head): (&[Example], Head),
        mut features: Features,
    ) -> Result<Features, Failure> {
        let groups = clips.view_groups();
        let each = groups
            .iter()
            .map(ClipSpec::view_count)
            .sum::<usize>()
            .max(1);
        let done = usize::try_from(features.rows()).unwrap_or(usize::MAX);
        let (whole, mut surplus) = (done / each, done % each);
        let left = examples.get(whole..).unwrap_or_default();
        let mut decoded = decoded_views(clips, left, &groups);
        let mut waiting: VecDeque<Arc<[f32]>> = VecDeque::new();
        let most = self.clips();
        loop {
            let views = decoded.try_next().await?;
            let is_last = views.is_none();
            for view in views.into_iter().flatten() {
                match surplus {
                    0 => waiting.push_back(view),
                    _ => surplus -= 1,
                }
            }
            while waiting.len() >= most || (is_last && !waiting.is_empty()) {
                let frames: Vec<_> = waiting.drain(..most.min(waiting.len())).collect();
                let rows = self.frozen(frames, head).await?;
                features = blocking(move || features.append(&rows).map(|()| features)).await??;
            }
            if is_last {
                break;
            }
        }
        Ok(blocking(move || features.finish().map(|()| features)).await??)
    }

    /// The means of the class tokens of clips.
    pub(super) async fn looks(&self, frames: Vec<Arc<[f32]>>) -> Result<Vec<Vec<f32>>, Failure> {
        let mut rows = Vec::with_capacity(frames.len());
        for some in frames.chunks(self.clips()) {
            rows.extend(self.frozen(some.to_vec(), Head::Mean).await?);
        }
        Ok(rows)
    }

    /// What a head reads of clips.
    async fn frozen(&self, frames: Vec<Arc<[f32]>>, head: Head) -> Result<Vec<Vec<f32>>, Failure> {
        let backbone = Arc::clone(&self.backbone);
        self.run(move || {
            let forward = FeatureForward::new(backbone, frames, head)?;
            Ok(Forward::Features(Box::new(forward)))
        })
        .await
    }

    /// Metrics of a set without adapters on examples, from what `features` has of their views as the head `of` reads them: those of [`Self::evaluate`].
    pub(super) async fn evaluate_features(
        &self,
        (clips, examples): (&Clips, &[Example]),
        set: &Arc<AdapterSet>,
        (features, of): (&Arc<Features>, Head),
    ) -> Result<(Evaluation, Samples), Failure> {
        let set = self.as_served(set).await?;
        let (mut tally, mut samples) = self.empty(&set);
        let count =
            |class: u32, scores: &[f64]| self.count(class, scores, (&mut tally, &mut samples));
        let groups = clips.view_groups();
        let mut scoring = Scoring::new((&groups, self.truths.kind()), count);
        let all = examples.len() * scoring.places.len();
        let mut classes = examples.iter().map(|example| example.class);
        for begin in (0..all).step_by(self.clips()) {
            let rows: Vec<usize> = (begin..all.min(begin + self.clips())).collect();
            let rows = self
                .narrowed(features, (rows, of), set.config().head)
                .await?;
            let (backbone, set) = (Arc::clone(&self.backbone), Arc::clone(&set));
            let pass = HeadPass {
                backbone,
                set,
                rows,
            };
            let logits = self.run(move || Ok(Forward::Head(Box::new(pass)))).await?;
            scoring.add(logits, &mut classes);
        }
        drop(scoring);
        Ok((tally.finish(), samples))
    }

    /// Rows of features as a head reads them, from those of the head `of`, which hold them.
    pub(super) async fn narrowed(
        &self,
        features: &Arc<Features>,
        (rows, of): (Vec<usize>, Head),
        head: Head,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let (features, backbone) = (Arc::clone(features), Arc::clone(&self.backbone));
        let num_frames = self.num_frames;
        blocking(move || {
            let rows = features.read(&rows)?;
            if head == of {
                return Ok(rows);
            }
            let config = backbone.config();
            let narrow =
                |row: Vec<f32>| Ok(model::narrowed(config, (&row, num_frames), (of, head))?);
            rows.into_iter().map(narrow).collect()
        })
        .await?
    }

    /// Adds what a head reads of the clips of each training example that have no frozen features yet.
    pub(super) async fn features(
        &self,
        training: &Training,
        (head, draws): (Head, usize),
        mut features: Features,
    ) -> Result<Features, Failure> {
        let done = usize::try_from(features.rows()).unwrap_or(usize::MAX);
        let all = training.examples.len() * draws;
        for begin in (done.min(all)..all).step_by(self.clips()) {
            let group = begin..all.min(begin + self.clips());
            let clips = group.map(|row| training.frozen_clip(row, draws).boxed());
            let frames: Vec<Arc<[f32]>> = in_order(clips.collect()).try_collect().await?;
            let rows = self.frozen(frames, head).await?;
            features = blocking(move || features.append(&rows).map(|()| features)).await??;
        }
        Ok(blocking(move || features.finish().map(|()| features)).await??)
    }

    /// Metrics of a set on examples, zeros when there is none, and their scores.
    pub(super) async fn evaluate(
        &self,
        clips: &Clips,
        examples: &[Example],
        set: &Arc<AdapterSet>,
    ) -> Result<(Evaluation, Samples), Failure> {
        let set = self.as_served(set).await?;
        let (mut tally, mut samples) = self.empty(&set);
        let count =
            |class: u32, scores: &[f64]| self.count(class, scores, (&mut tally, &mut samples));
        self.score(clips, examples, &set, count).await?;
        Ok((tally.finish(), samples))
    }

    /// As [`Self::evaluate`], of the examples whose videos can be read. Returns the videos that cannot, too.
    pub(super) async fn evaluate_readable(
        &self,
        clips: &Clips,
        examples: &[Example],
        set: &Arc<AdapterSet>,
    ) -> Result<(Evaluation, Vec<Unreadable>), Failure> {
        let set = self.as_served(set).await?;
        let mut tally = Tally::new(set.classes(), self.truths.kind());
        let mut unreadable = Vec::new();
        for group in examples.chunks(GROUP) {
            let mut left = group.to_vec();
            let scored = loop {
                let mut scored = Vec::with_capacity(left.len());
                let keep = |class: u32, scores: &[f64]| scored.push((class, scores.to_vec()));
                match self.score(clips, &left, &set, keep).await {
                    Ok(()) => break scored,
                    Err(Failure::Video { video, why })
                        if left.iter().any(|own| own.video == video) =>
                    {
                        left.retain(|own| own.video != video);
                        unreadable.push(Unreadable { video, why });
                    }
                    Err(failure) => return Err(failure),
                }
            };
            for (class, scores) in scored {
                tally.add(self.truths.rows(&class), &scores);
            }
        }
        Ok((tally.finish(), unreadable))
    }

    fn empty(&self, set: &AdapterSet) -> (Tally, Samples) {
        let tally = Tally::new(set.classes(), self.truths.kind());
        (tally, Samples::default())
    }

    fn count(&self, class: u32, scores: &[f64], (tally, samples): (&mut Tally, &mut Samples)) {
        tally.add(self.truths.rows(&class), scores);
        // Scores of labels that do not exclude one another have no temperature in common.
        if !self.truths.kind().is_multi() {
            samples.add(class, scores);
        }
    }

    /// A set as it will serve.
    async fn as_served(&self, set: &Arc<AdapterSet>) -> Result<Arc<AdapterSet>, Failure> {
        let (own, backbone) = (Arc::clone(set), Arc::clone(&self.backbone));
        let serving = blocking(move || aside(|| own.beside(&backbone))).await??;
        Ok(Arc::new(serving))
    }

    /// Calls `count` with the class and the scores of each example, in their order.
    async fn score(
        &self,
        clips: &Clips,
        examples: &[Example],
        set: &Arc<AdapterSet>,
        count: impl FnMut(u32, &[f64]),
    ) -> Result<(), Failure> {
        let groups = clips.view_groups();
        let mut scoring = Scoring::new((&groups, self.truths.kind()), count);
        let mut decoded = decoded_views(clips, examples, &groups);
        let mut classes = examples.iter().map(|example| example.class);
        let mut waiting: VecDeque<Arc<[f32]>> = VecDeque::new();
        let most = self.clips();
        loop {
            let views = decoded.try_next().await?;
            let is_last = views.is_none();
            waiting.extend(views.into_iter().flatten());
            while waiting.len() >= most || (is_last && !waiting.is_empty()) {
                let frames: Vec<_> = waiting.drain(..most.min(waiting.len())).collect();
                let logits = self.logits(frames, set).await?;
                scoring.add(logits, &mut classes);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn logits(
        &self,
        frames: Vec<Arc<[f32]>>,
        set: &Arc<AdapterSet>,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let segment = Segment {
            set: Arc::clone(set),
            clips: 0..frames.len(),
            num_frames: self.num_frames,
        };
        let backbone = Arc::clone(&self.backbone);
        self.run(move || {
            let inference = Inference::new(backbone, frames, vec![segment])?;
            Ok(Forward::Logits(Box::new(inference)))
        })
        .await
    }
}

/// The views of examples, group by group, decoded ahead as far as their bytes allow.
fn decoded_views<'a>(
    clips: &'a Clips,
    examples: &'a [Example],
    groups: &'a [ClipSpec],
) -> impl Stream<Item = Result<Vec<Arc<[f32]>>, Failure>> + Send + Unpin + 'a {
    let bytes = groups
        .iter()
        .map(|group| 4 * group.view_count() * group.values_per_view());
    let parallel = DECODED_BYTES / bytes.max().unwrap_or(1).max(1);
    let work = examples.iter().flat_map(move |example| {
        let views = |group: &ClipSpec| clips.views(*example, group.clone()).boxed();
        groups.iter().map(views).collect::<Vec<_>>()
    });
    some_in_order(work, parallel)
}

/// A video that an evaluation leaves out.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) video: VideoId,
    pub(super) why: String,
}

/// Puts the views of each example together and counts it.
struct Scoring<F> {
    /// Where a view is among an example's views, spatial-major, by when it comes.
    places: Vec<usize>,
    /// Logits of views that have come, of examples that are not complete.
    waiting: VecDeque<Vec<f32>>,
    kind: LabelKind,
    count: F,
}

impl<F: FnMut(u32, &[f64])> Scoring<F> {
    fn new((groups, kind): (&[ClipSpec], LabelKind), count: F) -> Self {
        let temporal = |group: &ClipSpec| usize::from(group.temporal_views.get());
        let all: usize = groups.iter().map(temporal).sum();
        let mut places = Vec::new();
        let mut first = 0;
        for group in groups {
            for spatial in 0..group.views.count() {
                let own = first..first + temporal(group);
                places.extend(own.map(|view| spatial * all + view));
            }
            first += temporal(group);
        }
        Self {
            places,
            waiting: VecDeque::new(),
            kind,
            count,
        }
    }

    /// Takes the next views; counts the examples that they complete, whose classes come next.
    fn add(&mut self, logits: Vec<Vec<f32>>, classes: &mut impl Iterator<Item = u32>) {
        self.waiting.extend(logits);
        let count = self.places.len().max(1);
        while self.waiting.len() >= count {
            let mut views = vec![Vec::new(); count];
            for (place, logits) in self.places.iter().zip(self.waiting.drain(..count)) {
                views[*place] = logits;
            }
            if let Some(class) = classes.next() {
                (self.count)(class, &scores(&views, self.kind));
            }
        }
    }
}

/// Scores of a video as classification gives them; not numbers when its logits are none, so that the metrics are none, either.
fn scores(views: &[Vec<f32>], kind: LabelKind) -> Vec<f64> {
    match Scores::of(views, kind) {
        Some(scores) => scores.mean,
        None => vec![f64::NAN; views.first().map_or(0, Vec::len)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        ClipSampling, FrameOrder, Normalization, RotationPolicy, Sampling, SpatialViews,
    };

    #[test]
    fn views_in_groups_score_as_views_in_one_piece() {
        let sampling = ClipSampling {
            num_frames: 16.try_into().unwrap(),
            sampling: Sampling::Strided(2.try_into().unwrap()),
            temporal_views: 10.try_into().unwrap(),
            spatial_views: SpatialViews::Three,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
        };
        let spec = ClipSpec::of_task(&sampling, 224, Normalization::CLIP);
        let groups = spec.groups();
        assert!(groups.len() > 1);
        // The logits of each view, spatial-major.
        let of_view = |view: usize| vec![view as f32 / 7.0, (view * view % 11) as f32 / 3.0];
        let whole: Vec<_> = (0..30).map(of_view).collect();
        let mut expected = Tally::new(2, LabelKind::Single);
        expected.add(&[1], &scores(&whole, LabelKind::Single));
        let mut tally = Tally::new(2, LabelKind::Single);
        let count = |class: u32, scores: &[f64]| tally.add(&[class], scores);
        let mut scoring = Scoring::new((&groups, LabelKind::Single), count);
        let mut classes = [1].into_iter();
        let mut first = 0;
        for group in &groups {
            let own = usize::from(group.temporal_views.get());
            for spatial in 0..3 {
                let views = (first..first + own).map(|view| of_view(spatial * 10 + view));
                scoring.add(views.collect(), &mut classes);
            }
            first += own;
        }
        assert!(scoring.waiting.is_empty());
        drop(scoring);
        assert_eq!(tally.finish(), expected.finish());
    }
}
