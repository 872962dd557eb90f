//! One training step of one set (forward, loss, backward), block by block; the optimiser follows it.
//!
//! Invariant: how the step is divided into slices, what runs between them, whether activations are kept or recomputed, and how many clips are
//! computed together change no bit of its result: sums over clips are formed clip by clip, in the order of the clips. The same goes for whether frozen
//! blocks run or their tokens were kept.

mod backward;
mod frozen;
mod memory;
mod scoring;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use self::backward::Back;
use self::frozen::Frozen;
use self::memory::{Division, Keeps};
use self::scoring::Scores;
use super::block::{Hidden, Reach, Saved, Sites};
use super::flat::Flat;
use super::ops::depthwise::Extent;
use super::ops::{Array, loss};
use super::site::Sums;
use super::{
    AdapterSet, Backbone, Error, Kept as Places, Step, TrainableSet, head, inference, threads, vit,
};
use crate::rng::Stream;
use crate::spec::Invalid;

pub use self::memory::StepShape;
pub use super::ops::{Goal, Marks};

/// Activations that the forward pass keeps for the backward pass; every choice gives the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All activations that the backward pass reads.
    All,
    /// Only the input of each block; the backward pass runs the block's forward again.
    Recompute,
    /// As many as this number of bytes allows. First the clips are divided into micro-batches, as long as these fill the device; the host does so in any case,
    /// since requests wait for the slice that runs. Then the MLP's hidden values are recomputed in the lower blocks, then everything except the blocks'
    /// inputs; then the micro-batches shrink, down to one clip.
    Within(u64),
}

/// Dropout before the head.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Probability that a feature becomes 0, in [0, 1).
    pub rate: f64,
    /// Random stream; clip i uses part i.
    pub stream: Stream,
}

/// Gradients by the reference's names. A weight that the loss does not depend on has zeros.
pub type Gradients = Flat;

/// Results of a training step.
#[derive(Debug)]
pub struct StepOutput {
    /// Mean cross entropy, in nats.
    pub loss: f64,
    /// Number of clips whose largest logit was that of a label of theirs.
    pub correct: usize,
    /// Gradients of every trainable weight.
    pub gradients: Gradients,
    /// Logits `[clips][classes]`, with dropout applied.
    pub logits: Vec<Vec<f32>>,
}

/// Training step in progress.
pub struct TrainingStep {
    backbone: Arc<Backbone>,
    /// Weights at the start of the step.
    layers: AdapterSet,
    labels: Vec<u32>,
    dropout: Option<Dropout>,
    /// Share of a label's weight that is spread over all labels.
    smoothing: f64,
    /// What each clip is to be besides its label; empty when that is all.
    goals: Vec<Goal>,
    /// What each clip is to be when labels do not exclude one another.
    marks: Option<Marks>,
    shape: StepShape,
    division: Division,
    source: Source,
    /// Where the tokens after the frozen blocks are kept.
    frozen: Option<Frozen>,
    num_frames: usize,
    /// Clips of the current micro-batch.
    now: Range<usize>,
    kept: Vec<Kept>,
    found: Gradients,
    scores: Scores,
    state: State,
}

/// Input of the step's clips.
enum Source {
    /// Planes of the clips; those of a clip are dropped when its micro-batch starts.
    Clips(VecDeque<Arc<[f32]>>),
    /// Frozen features, which the first state holds.
    Features,
}

/// Activations that one block keeps for its backward pass.
enum Kept {
    Input(Array),
    Saved(Box<Saved>),
}

enum State {
    Begin,
    /// Index of the next block, and its input.
    Forward(usize, Array),
    /// What the head reads of the clips, `[clips · R, C]`, and whether the backbone's tokens were computed for it.
    Head(Array, bool),
    /// Index of the next block to go back through, and where in it.
    Backward(usize, Back),
    Done,
}

impl TrainingStep {
    /// Starts a step over `frames`: one buffer per clip with normalised planes `[3, T, S, S]`, all with the same T. Reads the current weights of
    /// `set`.
    ///
    /// # Errors
    /// When clips, labels or the set do not fit.
    pub fn new(
        backbone: Arc<Backbone>,
        set: &TrainableSet,
        frames: Vec<Arc<[f32]>>,
        labels: &[u32],
        dropout: Option<Dropout>,
        keep: Keep,
    ) -> Result<Self, Error> {
        let len = backbone.config().frame_len();
        let expected = frames.first().map_or(0, |f| f.len());
        let expected = expected.next_multiple_of(len).max(len);
        for (clip, planes) in frames.iter().enumerate() {
            inference::check_clip(clip, planes, expected)?;
        }
        let clips = frames.len();
        let mut step = Self::begin(backbone, set, (clips, expected / len), labels, dropout)?;
        step.division = step.shape.divided(clips, keep);
        step.now = 0..step.division.clips.min(clips);
        step.source = Source::Clips(frames.into());
        Ok(step)
    }

    /// Starts a step of a set without sites, from the features `[R · C]` of each clip that [`crate::Features`] computed for the set's head.
    ///
    /// # Errors
    /// When the set has sites, or features or labels do not fit.
    pub fn from_features(
        backbone: Arc<Backbone>,
        set: &TrainableSet,
        features: &[Vec<f32>],
        labels: &[u32],
        dropout: Option<Dropout>,
    ) -> Result<Self, Error> {
        let c = backbone.config().width;
        let (head, grid) = (set.head(), backbone.config().grid());
        let of_frame = head::rows(head, 1, grid) * c;
        let got = features.first().map_or(0, Vec::len);
        // The paper's head reads one row, whatever the number of frames.
        let num_frames = match head.is_mean() {
            true => 1,
            false => got.div_ceil(of_frame).max(1),
        };
        for (clip, row) in features.iter().enumerate() {
            inference::check_clip(clip, row, num_frames * of_frame)?;
        }
        let (clips, rows) = (features.len(), head::rows(head, num_frames, grid));
        let mut step = Self::begin(backbone, set, (clips, num_frames), labels, dropout)?;
        if step.layers.config().has_sites() {
            let problem = "a set with adapters cannot be trained from frozen features";
            return Err(Error::Adapter(Invalid::new("adapter_layers", problem)));
        }
        step.state = State::Head(Array::of(features.concat(), (clips * rows, c))?, false);
        Ok(step)
    }

    fn begin(
        backbone: Arc<Backbone>,
        set: &TrainableSet,
        (clips, num_frames): (usize, usize),
        labels: &[u32],
        dropout: Option<Dropout>,
    ) -> Result<Self, Error> {
        if labels.len() != clips || clips == 0 {
            return Err(Error::LabelCount {
                clips,
                labels: labels.len(),
            });
        }
        let classes = set.classes();
        for (clip, &label) in labels.iter().enumerate() {
            if label as usize >= classes {
                return Err(Error::Label {
                    clip,
                    label,
                    classes,
                });
            }
        }
        if let Some(dropout) = &dropout
            && !(0.0..1.0).contains(&dropout.rate)
        {
            let problem = format!("expected at least 0 and below 1, got {}", dropout.rate);
            return Err(Error::Value(Invalid::new("dropout", problem)));
        }
        let layers = set.layers(&backbone)?;
        layers.fits(backbone.config())?;
        layers.reads_frames(num_frames)?;
        let of = (backbone.config(), backbone.precision());
        let found = set.zeros(backbone.place())?;
        Ok(Self {
            shape: StepShape::of(of, layers.form, num_frames).at(backbone.place()),
            backbone,
            layers,
            labels: labels.to_vec(),
            dropout,
            smoothing: 0.0,
            goals: Vec::new(),
            marks: None,
            division: Division {
                clips,
                keeps: Keeps::ALL,
            },
            source: Source::Features,
            frozen: None,
            num_frames,
            now: 0..clips,
            kept: Vec::new(),
            found,
            scores: Scores::default(),
            state: State::Begin,
        })
    }

    /// Returns the same step, but with this share of each label's weight spread evenly over all labels.
    #[must_use]
    pub fn smoothing(mut self, share: f64) -> Self {
        self.smoothing = share.clamp(0.0, 1.0);
        self
    }

    /// Returns the same step, but towards these goals of its clips, one for each; none means that every clip is its label and counts once.
    ///
    /// # Errors
    /// When their number is not that of the clips, a second label is none, or a share or weight is out of range.
    pub fn towards(mut self, goals: Vec<Goal>) -> Result<Self, Error> {
        let (clips, classes) = (self.labels.len(), self.layers.classes());
        if !goals.is_empty() && goals.len() != clips {
            let labels = goals.len();
            return Err(Error::LabelCount { clips, labels });
        }
        for (clip, goal) in goals.iter().enumerate() {
            if goal.other as usize >= classes {
                let label = goal.other;
                return Err(Error::Label {
                    clip,
                    label,
                    classes,
                });
            }
            if !(0.0..=1.0).contains(&goal.share) || !goal.weight.is_finite() || goal.weight < 0.0 {
                let problem = format!("share {} and weight {} of a clip", goal.share, goal.weight);
                return Err(Error::Value(Invalid::new("goals", problem)));
            }
        }
        self.goals = goals;
        Ok(self)
    }

    /// Returns the same step, but of labels that do not exclude one another: its clips are to be these marks, and their single labels do not count.
    ///
    /// # Errors
    /// When there is not one mark for each label of each clip, 0 to 1, or not one factor for each label.
    pub fn marked(mut self, marks: Marks) -> Result<Self, Error> {
        let (clips, classes) = (self.labels.len(), self.layers.classes());
        let is_mark = |mark: &f32| (0.0..=1.0).contains(mark);
        let is_factor = |factor: &f64| factor.is_finite() && *factor >= 0.0;
        let factors = marks.positive.len();
        if marks.values.len() != clips * classes || !marks.values.iter().all(is_mark) {
            let got = marks.values.len();
            let problem = format!("expected {clips} x {classes} values of 0 to 1, got {got}");
            return Err(Error::Value(Invalid::new("marks", problem)));
        }
        if ![0, classes].contains(&factors) || !marks.positive.iter().all(is_factor) {
            let problem = format!("expected {classes} factors of 0 or more, got {factors}");
            return Err(Error::Value(Invalid::new("marks", problem)));
        }
        self.marks = Some(marks);
        Ok(self)
    }

    /// Returns the same step, but with the tokens after the frozen blocks below the lowest adapter kept at these places, one for each frame of each clip, and
    /// taken from there when an earlier step kept them. A frame has one place whatever the step, for as long as its pixels are the same. Without effect on a
    /// device, and where [`StepShape::frozen_bytes`] is none.
    #[must_use]
    pub fn keeping(mut self, places: Vec<Vec<Option<Places>>>) -> Self {
        let is_able = self.shape.frozen_bytes().is_some() && self.backbone.place().is_host();
        if is_able && !places.is_empty() && matches!(self.source, Source::Clips(_)) {
            self.frozen = Some(Frozen::new(places, self.shape.lowest()));
        }
        self
    }

    /// Returns the number of frames so far whose frozen blocks did not run, since their tokens were kept.
    pub fn resumed_frames(&self) -> usize {
        self.frozen.as_ref().map_or(0, Frozen::resumed)
    }

    /// Runs one slice: one block forward, half a block backward, or the head.
    ///
    /// # Errors
    /// When the step is already done.
    pub fn advance(&mut self) -> Result<Step, Error> {
        match self.backbone.place().is_host() {
            true => threads::within(|| self.slice()),
            false => self.slice(),
        }
    }

    fn slice(&mut self) -> Result<Step, Error> {
        let state = std::mem::replace(&mut self.state, State::Done);
        self.state = match state {
            State::Begin => self.embed()?,
            State::Forward(block, x) => self.forward(block, x)?,
            State::Head(features, from_clips) => self.head(&features, from_clips)?,
            State::Backward(block, back) => self.backward(block, back)?,
            State::Done => return Err(Error::Order { what: "advance" }),
        };
        let step = match self.state {
            State::Done => Step::Done,
            State::Begin | State::Forward(..) | State::Head(..) | State::Backward(..) => Step::More,
        };
        self.backbone.place().pace()?;
        Ok(step)
    }

    /// Returns the approximate peak memory of the step's activations in bytes.
    pub fn bytes(&self) -> u64 {
        match self.source {
            Source::Clips(_) => self.shape.held(self.division.clips, self.division.keeps),
            Source::Features => self.shape.head_bytes(self.labels.len()),
        }
    }

    /// Returns the number of clips that are computed together.
    pub fn micro_batch(&self) -> usize {
        self.division.clips
    }

    /// Returns the number of blocks whose forward runs again for the backward pass.
    pub fn recomputed_blocks(&self) -> usize {
        self.shape.recomputed_blocks(self.division.keeps)
    }

    /// Returns the number of other blocks whose first product of the MLP runs again.
    pub fn recomputed_mlps(&self) -> usize {
        self.shape.recomputed_mlps(self.division.keeps)
    }

    /// Returns the loss, the gradients and the logits.
    ///
    /// # Errors
    /// When the step is not done yet.
    pub fn finish(self) -> Result<StepOutput, Error> {
        let is_done = matches!(self.state, State::Done);
        if !is_done || self.scores.losses.len() != self.labels.len() {
            return Err(Error::Order { what: "finish" });
        }
        Ok(StepOutput {
            loss: loss::mean(&self.scores.losses),
            correct: self.scores.correct,
            gradients: self.found,
            logits: self.scores.logits,
        })
    }

    /// Embeds the frames of the micro-batch's clips whose tokens are not kept. Returns the state to continue with.
    fn embed(&mut self) -> Result<State, Error> {
        let Source::Clips(clips) = &mut self.source else {
            return Err(Error::Order { what: "embed" });
        };
        let clips: Vec<Arc<[f32]>> = clips.drain(..self.now.len().min(clips.len())).collect();
        let (vit, config) = (&self.backbone.vit, self.backbone.config());
        let Some(frozen) = &mut self.frozen else {
            return Ok(State::Forward(0, vit::embed_clips(vit, &clips, config)?));
        };
        let missing = frozen.begin(clips.len(), self.num_frames);
        if missing.is_empty() {
            return Ok(State::Forward(self.shape.lowest(), frozen.joined(None)?));
        }
        let all: Vec<_> = clips
            .iter()
            .flat_map(|clip| vit::frames(clip, config))
            .collect();
        let pictures: Vec<_> = missing.iter().map(|&frame| all[frame]).collect();
        let x = vit.embed(&vit::patches(&pictures, config, vit.input())?)?.0;
        Ok(State::Forward(0, x))
    }

    /// Moves to the next micro-batch. Returns the state to continue with.
    fn next(&mut self) -> State {
        let end = self.now.end;
        if end == self.labels.len() {
            return State::Done;
        }
        self.now = end..self.labels.len().min(end + self.division.clips);
        State::Begin
    }

    fn sites(&self, block: usize) -> Sites<'_> {
        let mut sites = Sites::default();
        let extent = Extent {
            frames: self.num_frames,
            grid: self.backbone.config().grid(),
        };
        let frames = 0..self.now.len() * self.num_frames;
        self.layers.push_sites(block, &frames, extent, &mut sites);
        let kinds = [
            ("adapter_pre_attn", &mut sites.pre_attn),
            ("adapter_pre_mlp", &mut sites.pre_mlp),
        ];
        for (kind, sites) in kinds {
            for site in sites {
                let prefix = format!("transformer.resblocks.{block}.{kind}.");
                let all = &self.found;
                site.sums = Some(Sums { all, prefix });
            }
        }
        sites
    }

    fn forward(&mut self, block: usize, mut x: Array) -> Result<State, Error> {
        let (tokens, reach) = self.shape.plan(block);
        if let Some(frozen) = &mut self.frozen {
            if block < self.shape.lowest() {
                // The frames of no clip in particular: nothing here is of one alone.
                let y = self.backbone.vit.blocks[block].infer(&x, &Sites::default(), tokens)?;
                return Ok(State::Forward(block + 1, y));
            }
            if frozen.joins(block) {
                x = frozen.joined(Some(&x))?;
            }
        }
        let sites = self.sites(block);
        let run = &self.backbone.vit.blocks[block];
        let (y, kept) = if block >= self.division.keeps.most {
            let hidden = if block >= self.division.keeps.hidden {
                Hidden::Kept
            } else {
                Hidden::Again
            };
            let (y, saved) = run.forward(&x, &sites, tokens, reach, hidden)?;
            (y, saved.map(Box::new).map(Kept::Saved))
        } else {
            // The bits of a block whose activations are kept.
            let (y, _) = run.forward(&x, &sites, tokens, Reach::Nothing, Hidden::Again)?;
            (y, (reach != Reach::Nothing).then_some(Kept::Input(x)))
        };
        self.kept.extend(kept);
        if block + 1 < self.backbone.vit.blocks.len() {
            return Ok(State::Forward(block + 1, y));
        }
        let frames = vec![self.num_frames; self.now.len()];
        let (kind, grid) = (self.layers.config().head, self.backbone.config().grid());
        let read = head::gathered(kind, &y, &frames, grid)?;
        Ok(State::Head(read, true))
    }
}
