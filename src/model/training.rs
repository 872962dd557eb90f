//! One training step of one set (forward, loss, backward), block by block; the optimiser comes after it.
//!
//! Invariant: how the step is cut into slices, what runs between them, and whether activations are kept or computed again change no bit of its result.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::block::{Hidden, Reach, Saved, Sites, Tokens};
use super::ops::depthwise::Extent;
use super::ops::linear::Rows;
use super::ops::{Format, Numbers, loss, tensor};
use super::weights::Found;
use super::{AdapterSet, Backbone, Error, Step, TrainableSet, head, inference, vit};
use crate::rng::Stream;
use crate::spec::Invalid;

/// What the forward keeps for the backward; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything that the backward reads.
    All,
    /// Each block's input; the backward runs the block's forward again.
    Recompute,
    /// As much as these bytes of activations allow: in the lower blocks the MLP's hidden values are computed again, then, if that is not enough, all but the
    /// blocks' inputs.
    Within(u64),
}

/// Dropout before the head.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Share of the features that become 0, in [0, 1).
    pub rate: f64,
    /// Which: clip i draws from part i.
    pub stream: Stream,
}

/// Gradients by the reference's names. A weight that the loss does not depend on has zeros.
pub type Gradients = BTreeMap<String, Tensor>;

/// What a step found.
#[derive(Debug)]
pub struct StepOutput {
    /// Mean cross entropy in nats.
    pub loss: f64,
    /// Clips whose largest logit was their label's.
    pub correct: usize,
    /// Of every trainable weight.
    pub gradients: Gradients,
    /// `[clips][classes]`, with dropout applied.
    pub logits: Vec<Vec<f32>>,
}

/// A running step.
pub struct TrainingStep {
    backbone: Arc<Backbone>,
    /// The weights of when the step began.
    layers: AdapterSet,
    labels: Vec<u32>,
    dropout: Option<Dropout>,
    keeps: Keeps,
    clips: Vec<Arc<[f32]>>,
    num_frames: usize,
    /// The lowest block that the backward reaches; the number of blocks when it reaches none.
    lowest: usize,
    kept: Vec<Kept>,
    found: BTreeMap<String, Tensor>,
    scores: Option<(f64, usize, Vec<Vec<f32>>)>,
    state: State,
}

/// The lowest blocks that keep things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keeps {
    /// Everything but perhaps the MLP's hidden values: those below keep their input alone.
    most: usize,
    /// The MLP's hidden values too; not below `most`.
    hidden: usize,
}

/// Of one block, for its backward.
enum Kept {
    Input(Tensor),
    Saved(Saved),
}

enum State {
    Begin,
    /// Before this block.
    Forward(usize, Tensor),
    /// Features `[clips, C]`, and whether they are means of class tokens.
    Head(Tensor, bool),
    /// The gradient of this block's output.
    Backward(usize, Tensor),
    Done,
}

impl TrainingStep {
    /// `frames`: one buffer a clip, normalised planes `[3, T, S, S]`, all with the same T. Reads the weights of now.
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
        let mut step = Self::begin(backbone, set, frames.len(), labels, dropout)?;
        step.num_frames = expected / len;
        step.clips = frames;
        step.keeps = step.keeps(keep);
        Ok(step)
    }

    /// A step of a set without sites, from what `Features` gave: `[C]` for each clip.
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
        for (clip, row) in features.iter().enumerate() {
            inference::check_clip(clip, row, c)?;
        }
        let mut step = Self::begin(backbone, set, features.len(), labels, dropout)?;
        if step.layers.config().has_sites() {
            let problem = "a set with adapters cannot be trained from frozen features";
            return Err(Error::Adapter(Invalid::new("adapter_layers", problem)));
        }
        step.state = State::Head(tensor(features.concat(), (features.len(), c))?, false);
        Ok(step)
    }

    fn begin(
        backbone: Arc<Backbone>,
        set: &TrainableSet,
        clips: usize,
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
        let layers = set.layers(backbone.precision())?;
        layers.fits(backbone.config())?;
        let blocks = backbone.vit.blocks.len();
        Ok(Self {
            lowest: layers.lowest_live_block().unwrap_or(blocks),
            backbone,
            layers,
            labels: labels.to_vec(),
            dropout,
            keeps: Keeps { most: 0, hidden: 0 },
            clips: Vec::new(),
            num_frames: 1,
            kept: Vec::new(),
            found: set.zeros()?,
            scores: None,
            state: State::Begin,
        })
    }

    /// Runs one block forward or backward, or the head.
    ///
    /// # Errors
    /// When it is called after the end.
    pub fn advance(&mut self) -> Result<Step, Error> {
        let state = std::mem::replace(&mut self.state, State::Done);
        self.state = match state {
            State::Begin => {
                let x = vit::embed_clips(&self.backbone.vit, &self.clips, self.backbone.config())?;
                self.clips = Vec::new();
                State::Forward(0, x)
            }
            State::Forward(block, x) => self.forward(block, x)?,
            State::Head(features, from_clips) => self.head(&features, from_clips)?,
            State::Backward(block, dy) => self.backward(block, &dy)?,
            State::Done => return Err(Error::Order { what: "advance" }),
        };
        Ok(match self.state {
            State::Done => Step::Done,
            State::Begin | State::Forward(..) | State::Head(..) | State::Backward(..) => Step::More,
        })
    }

    /// Memory of activations that the step holds at its peak, in bytes, about.
    pub fn bytes(&self) -> u64 {
        self.held(self.keeps)
    }

    /// Blocks whose forward runs again for the backward.
    pub fn recomputed_blocks(&self) -> usize {
        self.keeps.most.saturating_sub(self.lowest)
    }

    /// Other blocks whose first product of the MLP runs again.
    pub fn recomputed_mlps(&self) -> usize {
        self.keeps.hidden.saturating_sub(self.lowest) - self.recomputed_blocks()
    }

    fn keeps(&self, keep: Keep) -> Keeps {
        let blocks = self.backbone.vit.blocks.len();
        let least = Keeps {
            most: blocks,
            hidden: blocks,
        };
        match keep {
            Keep::All => Keeps { most: 0, hidden: 0 },
            Keep::Recompute => least,
            Keep::Within(bytes) => {
                let most = self.lowest;
                let without_hidden = (most..=blocks).map(|hidden| Keeps { most, hidden });
                let inputs = (most..blocks).map(|most| Keeps { most, ..least });
                let mut all = without_hidden.chain(inputs);
                all.find(|&keeps| self.held(keeps) <= bytes)
                    .unwrap_or(least)
            }
        }
    }

    /// Bytes of activations at the peak: either when the backward begins, or when it computes a block or an MLP again after those above it were freed.
    fn held(&self, keeps: Keeps) -> u64 {
        let config = self.backbone.config();
        let tokens = self.labels.len() * self.num_frames * config.tokens();
        let inputs = self.lowest..keeps.most.clamp(self.lowest, config.layers);
        let kept = |block| {
            let hidden = if block < keeps.hidden {
                self.hidden_of(block)
            } else {
                0
            };
            self.kept_by(block) - hidden
        };
        let above: usize = (inputs.end..config.layers).map(kept).sum();
        let block_again = inputs.clone().map(|i| self.kept_by(i)).max().unwrap_or(0);
        let mlps = inputs.end..keeps.hidden.clamp(inputs.end, config.layers);
        let mlp_again = mlps.map(|i| self.hidden_of(i)).max().unwrap_or(0);
        let passing = 4 * config.width + 2 * config.mlp_width;
        let exact = (inputs.len() * config.width + passing) * size_of::<f32>();
        (tokens * (exact + (above + mlp_again).max(block_again))) as u64
    }

    /// Bytes for each token that what the activation of a block's MLP reads takes, in the format of the products.
    fn hidden_of(&self, block: usize) -> usize {
        match self.plan(block).0 {
            Tokens::All => self.backbone.config().mlp_width * self.stored(),
            Tokens::Class => 0,
        }
    }

    /// Bytes of a value in the format of the products.
    fn stored(&self) -> usize {
        Numbers::beside(Format::of(self.backbone.precision())).bytes()
    }

    /// Bytes for each token that a block keeps when it keeps everything.
    fn kept_by(&self, block: usize) -> usize {
        let (config, adapter) = (self.backbone.config(), self.layers.config());
        let (c, narrow) = (config.width, adapter.adapter_width as usize);
        let of = |is: bool, values: usize| usize::from(is) * values;
        let (tokens, reach) = self.plan(block);
        // Queries to values wait in the format of the products.
        let stored = self.stored();
        let sections = if tokens == Tokens::Class { 2 } else { 3 };
        let is_all = tokens == Tokens::All;
        // The inputs of the adapters before attention and before the MLP, or of these, and the adapters' own.
        let attends = reach == Reach::Input || adapter.adapter_pre_attn;
        let exact = of(attends, c)
            + of(adapter.adapter_pre_attn, narrow)
            + of(is_all, c + of(adapter.adapter_pre_mlp, narrow));
        let heads = of(attends, sections * c);
        exact * size_of::<f32>() + heads * stored + self.hidden_of(block)
    }

    /// Loss and gradients.
    ///
    /// # Errors
    /// Before the end.
    pub fn finish(self) -> Result<StepOutput, Error> {
        match (self.state, self.scores) {
            (State::Done, Some((loss, correct, logits))) => Ok(StepOutput {
                loss,
                correct,
                gradients: self.found,
                logits,
            }),
            _ => Err(Error::Order { what: "finish" }),
        }
    }

    /// Tokens that leave the block, and how far its backward goes.
    fn plan(&self, block: usize) -> (Tokens, Reach) {
        let tokens = if block + 1 == self.backbone.vit.blocks.len() {
            Tokens::Class
        } else {
            Tokens::All
        };
        let reach = match block.cmp(&self.lowest) {
            std::cmp::Ordering::Less => Reach::Nothing,
            std::cmp::Ordering::Equal => Reach::Weights,
            std::cmp::Ordering::Greater => Reach::Input,
        };
        (tokens, reach)
    }

    fn sites(&self, block: usize) -> Sites<'_> {
        let mut sites = Sites::default();
        let extent = Extent {
            frames: self.num_frames,
            grid: self.backbone.config().grid(),
        };
        let frames = 0..self.labels.len() * self.num_frames;
        self.layers.push_sites(block, &frames, extent, &mut sites);
        sites
    }

    fn forward(&mut self, block: usize, x: Tensor) -> Result<State, Error> {
        let (tokens, reach) = self.plan(block);
        let sites = self.sites(block);
        let run = &self.backbone.vit.blocks[block];
        let (y, kept) = if block >= self.keeps.most {
            let hidden = if block >= self.keeps.hidden {
                Hidden::Kept
            } else {
                Hidden::Again
            };
            let (y, saved) = run.forward(&x, &sites, tokens, reach, hidden)?;
            (y, saved.map(Kept::Saved))
        } else {
            let y = run.infer(&x, &sites, tokens)?;
            (y, (reach != Reach::Nothing).then_some(Kept::Input(x)))
        };
        self.kept.extend(kept);
        if tokens == Tokens::All {
            return Ok(State::Forward(block + 1, y));
        }
        let frames = vec![self.num_frames; self.labels.len()];
        Ok(State::Head(head::clip_means(&y, &frames)?, true))
    }

    fn head(&mut self, features: &Tensor, from_clips: bool) -> Result<State, Error> {
        let norm = &self.backbone.vit.ln_post;
        let normed = norm.forward(features, Numbers::F32)?;
        let (rows, c) = normed.dims2()?;
        let factors = match &self.dropout {
            Some(dropout) => Some(head::dropout(dropout.rate, &dropout.stream, rows, c)?),
            None => None,
        };
        let input = match &factors {
            Some(factors) => (&normed * factors)?,
            None => normed,
        };
        let logits = self.layers.fc.forward(&input, Rows::All, Numbers::F32)?;
        let scored = loss::cross_entropy(&logits, &self.labels)?;
        let mut found = Found::new();
        let (x, dy) = ((&input, Rows::All), (&scored.gradient, Rows::All));
        self.layers
            .fc
            .gradients(x, dy, ["fc.weight", "fc.bias"], &mut found)?;
        self.found.extend(found);
        self.scores = Some((scored.mean, scored.correct, logits.to_vec2()?));
        let blocks = self.backbone.vit.blocks.len();
        if !from_clips || self.lowest >= blocks {
            return Ok(State::Done);
        }
        let mut d_input = self.layers.fc.backward(&scored.gradient, Rows::All)?;
        if let Some(factors) = &factors {
            d_input = (d_input * factors)?;
        }
        let d_features = norm.backward(features, &d_input, &d_input.zeros_like()?)?;
        let frames = vec![self.num_frames; rows];
        let d_class = head::spread(&d_features, &frames)?;
        Ok(State::Backward(blocks - 1, d_class))
    }

    fn backward(&mut self, block: usize, dy: &Tensor) -> Result<State, Error> {
        let (tokens, reach) = self.plan(block);
        let kept = self.kept.pop();
        let sites = self.sites(block);
        let run = &self.backbone.vit.blocks[block];
        let saved = match kept {
            Some(Kept::Saved(saved)) => Some(saved),
            Some(Kept::Input(x)) => {
                let (_, saved) = run.forward(&x, &sites, tokens, reach, Hidden::Kept)?;
                saved
            }
            None => None,
        };
        let saved = saved.ok_or(Error::Order { what: "backward" })?;
        let gradients = run.backward(dy, saved, &sites, reach)?;
        drop(sites);
        let named = gradients.adapters.into_iter().flatten();
        self.found.extend(
            named.map(|(name, gradient)| {
                (format!("transformer.resblocks.{block}.{name}"), gradient)
            }),
        );
        Ok(match gradients.dx {
            Some(dx) => State::Backward(block - 1, dx),
            None => State::Done,
        })
    }
}
