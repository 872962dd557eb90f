//! Memory of a training step, computed from sizes alone, and the division of a step that keeps it within a limit.
//!
//! Invariant: pure; the division of a step changes no bit of its result.

use super::Keep;
use crate::block::{Reach, Tokens};
use crate::head;
use crate::layout::Layout;
use crate::ops::{Format, Numbers, weight_gradient};
use crate::spec::{AdapterConfig, Head, Precision};
use crate::{BackboneConfig, Error, Place, threads};

/// Fewest tokens of a micro-batch that still fill a device: below it, activations are recomputed rather than the step divided further.
const FULL: usize = 2048;
/// The same for each thread of the host.
const FULL_THREAD: usize = 512;

/// Sizes that determine a training step's memory.
#[derive(Debug, Clone)]
pub struct StepShape {
    config: BackboneConfig,
    precision: Precision,
    layout: Layout,
    num_frames: usize,
    /// Lowest block that the backward pass reaches; the number of blocks when it reaches none.
    lowest: usize,
    /// Fewest tokens of a micro-batch that still fill the place.
    full: usize,
    /// Whether a step is divided into micro-batches of that size even where larger ones fit: requests wait for the slice that runs, and a slice takes the
    /// less time the smaller its micro-batch is.
    is_prompt: bool,
    /// Whether the attention's result is kept with the sums of its exponentials, as a device's kernels for heads of 64 numbers want it.
    keeps_attention: bool,
}

/// Lowest blocks that keep activations for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keeps {
    /// Lowest block that keeps every activation, except perhaps the MLP's hidden values; those below it keep only their input.
    pub(super) most: usize,
    /// Lowest block that keeps the MLP's hidden values as well; at least `most`.
    pub(super) hidden: usize,
}

/// Division of a step into micro-batches, and the activations that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Division {
    /// Number of clips of a micro-batch; the last one may have fewer.
    pub(super) clips: usize,
    pub(super) keeps: Keeps,
}

impl Keeps {
    pub(super) const ALL: Self = Self { most: 0, hidden: 0 };
}

impl StepShape {
    /// Creates the shape of a step on a backbone, with adapters and a head of `classes` classes, and clips of `num_frames` frames.
    ///
    /// # Errors
    /// When the adapters do not fit the backbone.
    pub fn new(
        (backbone, precision): (&BackboneConfig, Precision),
        adapter: AdapterConfig,
        classes: usize,
        num_frames: usize,
    ) -> Result<Self, Error> {
        let layout = Layout::new(backbone, adapter, classes)?;
        Ok(Self::of((backbone, precision), layout, num_frames))
    }

    pub(super) fn of(
        (backbone, precision): (&BackboneConfig, Precision),
        layout: Layout,
        num_frames: usize,
    ) -> Self {
        Self {
            config: backbone.clone(),
            precision,
            lowest: layout.lowest_live_block().unwrap_or(backbone.layers),
            layout,
            num_frames: num_frames.max(1),
            full: FULL,
            is_prompt: false,
            keeps_attention: false,
        }
    }

    /// Returns the shape of the same step on a backbone in this place; on the host, with the threads that compute slices there.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        if place.is_host() {
            self.full = FULL_THREAD.saturating_mul(threads::slice_threads());
            self.is_prompt = true;
        }
        let head = self.config.width.checked_div(self.config.heads);
        let is_narrow = Numbers::beside(Format::of(self.precision)) == Numbers::Bf16;
        self.keeps_attention = !place.is_host() && is_narrow && head == Some(64);
        self
    }

    /// Returns the size of the trainable weights in bytes, as f32.
    pub fn weights_bytes(&self) -> u64 {
        let weights = self.layout.weights().into_iter();
        weights.map(|(_, shape)| bytes_of(&shape)).sum()
    }

    /// Returns the size in bytes of what a step derives from the weights before it runs, and of its sums: both packed copies, the gradients, and the
    /// operands and partial sums of one gradient.
    pub fn weights_work_bytes(&self) -> u64 {
        const PANEL: usize = 16;
        let weights = self.layout.weights();
        let packed = |shape: &[usize]| match *shape {
            [n, k] => {
                let both = n.next_multiple_of(PANEL) * k + n * k.next_multiple_of(PANEL);
                (both * size_of::<f32>()) as u64
            }
            _ => bytes_of(shape),
        };
        let packed: u64 = weights.iter().map(|(_, shape)| packed(shape)).sum();
        let largest = weights.iter().map(|(_, shape)| bytes_of(shape)).max();
        let widest = self.config.width.max(self.layout.classes) + self.config.width;
        let operands = (widest * weight_gradient::DEPTH * size_of::<f32>()) as u64;
        // The largest gradient counts twice, because a gradient that is added to is copied.
        packed + self.weights_bytes() + 2 * largest.unwrap_or(0) + operands
    }

    /// Returns the size of a decoded clip in bytes.
    pub fn clip_bytes(&self) -> u64 {
        (self.num_frames * self.config.frame_len() * size_of::<f32>()) as u64
    }

    /// Returns the bytes of a frame's tokens after the frozen blocks below the lowest adapter, which [`TrainingStep::keeping`] keeps; none when there is no such
    /// block, or no adapter that is trained.
    ///
    /// [`TrainingStep::keeping`]: super::TrainingStep::keeping
    pub fn frozen_bytes(&self) -> Option<u64> {
        let is_between = (1..self.config.layers).contains(&self.lowest);
        let values = self.config.tokens() * self.config.width;
        is_between.then_some((values * size_of::<f32>()) as u64)
    }

    /// Returns the bytes that the head keeps for `clips` clips until the step ends: what it reads, features, logits and their gradients.
    pub fn head_bytes(&self, clips: usize) -> u64 {
        let (head, width) = (self.layout.head(), self.config.width);
        let tokens = match head.kind {
            Head::Mean => 0,
            Head::Frames(_) => 2 * self.num_frames * width,
            // The convolution, the mixing and its activation, forward and backward.
            Head::Conv => 8 * self.num_frames * width,
            // The tokens with and without positions, keys and values, and the gradients of all.
            Head::Attention(_) => {
                10 * head::rows(head.kind, self.num_frames, self.config.grid()) * width
            }
        };
        (clips * (tokens + 3 * head.features() + 6 * self.layout.classes) * size_of::<f32>()) as u64
    }

    /// Returns the bytes of activations that a forward pass of one clip needs at a time.
    pub fn forward_bytes(&self) -> u64 {
        let passing = 4 * self.config.width + 2 * self.config.mlp_width;
        (self.num_frames * self.config.tokens() * passing * size_of::<f32>()) as u64
    }

    /// Returns the fewest bytes of activations with which a step can run: one clip at a time, with everything recomputed.
    pub fn least_bytes(&self) -> u64 {
        self.held(1, self.least())
    }

    fn least(&self) -> Keeps {
        Keeps {
            most: self.config.layers,
            hidden: self.config.layers,
        }
    }

    /// Divides a step of `clips` clips: on a device as a whole, or into as few micro-batches as keep everything; on the host, or if those would not fill the
    /// device, into the smallest ones that fill it, with as little recomputed as possible; else into smaller ones with everything recomputed.
    pub(super) fn divided(&self, clips: usize, keep: Keep) -> Division {
        let bytes = match keep {
            Keep::All => {
                let keeps = Keeps::ALL;
                return Division { clips, keeps };
            }
            Keep::Recompute => {
                let keeps = self.least();
                return Division { clips, keeps };
            }
            Keep::Within(bytes) => bytes,
        };
        let fits = |&Division { clips, keeps }: &Division| self.held(clips, keeps) <= bytes;
        let per_clip = self.num_frames * self.config.tokens();
        let full = self.full.div_ceil(per_clip).clamp(1, clips.max(1));
        let whole = (1..=clips)
            .filter(|_| !self.is_prompt)
            .map(|parts| clips.div_ceil(parts))
            .take_while(|clips| *clips >= full)
            .map(|clips| Division {
                clips,
                keeps: Keeps::ALL,
            });
        let again = self.levels().map(|keeps| Division { clips: full, keeps });
        let small = (1..full).rev().map(|clips| Division {
            clips,
            keeps: self.least(),
        });
        let mut all = whole.chain(again).chain(small);
        all.find(fits).unwrap_or(Division {
            clips: 1,
            keeps: self.least(),
        })
    }

    /// Returns the choices of activations to keep, from everything to the least.
    fn levels(&self) -> impl Iterator<Item = Keeps> {
        let (most, blocks, least) = (self.lowest, self.config.layers, self.least());
        let without_hidden = (most..=blocks).map(move |hidden| Keeps { most, hidden });
        without_hidden.chain((most..blocks).map(move |most| Keeps { most, ..least }))
    }

    /// Returns the number of blocks whose forward runs again for the backward pass.
    pub(super) fn recomputed_blocks(&self, keeps: Keeps) -> usize {
        keeps.most.saturating_sub(self.lowest)
    }

    /// Returns the number of other blocks whose first product of the MLP runs again.
    pub(super) fn recomputed_mlps(&self, keeps: Keeps) -> usize {
        keeps.hidden.saturating_sub(self.lowest) - self.recomputed_blocks(keeps)
    }

    /// Returns the peak bytes of a micro-batch's activations: either when the backward pass begins, or when it recomputes a block or an MLP after the
    /// activations of those above it were freed.
    pub(super) fn held(&self, clips: usize, keeps: Keeps) -> u64 {
        let config = &self.config;
        let tokens = clips * self.num_frames * config.tokens();
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

    pub(super) fn lowest(&self) -> usize {
        self.lowest
    }

    /// Returns the tokens that leave the block, and how far its backward pass continues.
    pub(super) fn plan(&self, block: usize) -> (Tokens, Reach) {
        let tokens = if block + 1 == self.config.layers {
            head::tokens(self.layout.config.head)
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

    /// Returns the bytes per token of the input of the MLP's activation in a block, in the format of the products.
    fn hidden_of(&self, block: usize) -> usize {
        match self.plan(block).0 {
            Tokens::All => self.config.mlp_width * self.stored(),
            Tokens::Class => 0,
        }
    }

    /// Returns the bytes of a value in the format of the products.
    fn stored(&self) -> usize {
        Numbers::beside(Format::of(self.precision)).bytes()
    }

    /// Returns the bytes per token that a block keeps when it keeps everything.
    fn kept_by(&self, block: usize) -> usize {
        let (c, adapter) = (self.config.width, &self.layout.config);
        let narrow = adapter.adapter_width as usize;
        let of = |is: bool, values: usize| usize::from(is) * values;
        let (tokens, reach) = self.plan(block);
        // Queries, keys and values are kept in the format of the products.
        let stored = self.stored();
        let sections = if tokens == Tokens::Class { 2 } else { 3 };
        let is_all = tokens == Tokens::All;
        // Inputs of the adapters before attention and before the MLP (or of attention and MLP), and the adapters' own activations.
        let attends = reach == Reach::Input || adapter.adapter_pre_attn;
        let exact = of(attends, c)
            + of(adapter.adapter_pre_attn, narrow)
            + of(is_all, c + of(adapter.adapter_pre_mlp, narrow));
        let keeps = attends && is_all && self.keeps_attention;
        let heads = of(attends, sections * c) + of(keeps, c);
        let exact = exact + of(keeps, self.config.heads);
        exact * size_of::<f32>() + heads * stored + self.hidden_of(block)
    }
}

fn bytes_of(shape: &[usize]) -> u64 {
    (shape.iter().product::<usize>() * size_of::<f32>()) as u64
}
