//! One transformer block with the adapters of a mixed batch: the only implementation of its forward and backward, for serving, fine-tuning and
//! pre-training.
//!
//! Invariant: `backward` reads only what `forward` saved; running `forward` again on the same input gives the same bits.

use super::ops::placed::attention::{self, How, Trace};
use super::ops::placed::linear::Rows;
use super::ops::placed::rows;
use super::ops::{Array, Numbers};
use super::site::{self, Site};
use super::weights::{Before, Found, LayerNorm, Linear};
use super::{Activation, Error};

type Result<T> = std::result::Result<T, Error>;

/// Tokens that a block's forward returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tokens {
    /// All tokens: `[N, L, C]`.
    All,
    /// The class tokens only, `[N, C]`: nothing else is read after the last block, and an adapter before its MLP does not change them.
    Class,
}

/// How far a backward pass continues through the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// There is no backward pass.
    Nothing,
    /// The backward pass ends at the lowest trainable weight of the block.
    Weights,
    /// The backward pass continues to the block's input.
    Input,
}

/// What becomes of c_fc's output, the largest part of what a backward pass reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden {
    /// c_fc's output is kept.
    Kept,
    /// The backward pass recomputes c_fc's output; all results have the bits that they have with [`Hidden::Kept`].
    Again,
    /// The block is no part of a training step.
    Unread,
}

/// A transformer block.
pub(super) struct Block {
    pub(super) ln_1: LayerNorm,
    /// Joint projection with the sections query, key and value.
    pub(super) in_proj: Linear,
    pub(super) out_proj: Linear,
    pub(super) ln_2: LayerNorm,
    pub(super) c_fc: Linear,
    pub(super) c_proj: Linear,
    pub(super) heads: usize,
    pub(super) activation: Activation,
}

/// Adapters of a batch in one block, one site per segment.
#[derive(Clone, Default)]
pub(super) struct Sites<'a> {
    pub(super) pre_attn: Vec<Site<'a>>,
    pub(super) pre_mlp: Vec<Site<'a>>,
}

impl Sites<'_> {
    /// Runs x through the adapters at one place of a block.
    pub(super) fn through(x: &Array, sites: &[Site<'_>]) -> Result<Array> {
        let (y, _) = adapt(x, sites)?;
        Ok(y)
    }

    pub(super) fn any(sites: &[Site<'_>]) -> bool {
        sites.iter().any(|site| site.adapter.is_some())
    }
}

enum Heads {
    /// Queries, keys and values of all tokens, `[N, L, 3C]`.
    All(Array, Trace),
    /// Queries of the class tokens `[N, C]`, keys and values `[N, L, 2C]`.
    Class(Array, Array),
}

/// Activations that the backward pass reads. The outputs of adapters are recomputed, which is cheap because adapters are narrow.
pub(super) struct Saved {
    attention: Option<SavedAttention>,
    before_pre_mlp: Array,
    pre_mlp: Vec<Option<site::Saved>>,
    mlp: SavedMlp,
}

/// Activations that the backward pass of the attention half reads.
pub(super) struct SavedAttention {
    pre_attn: Vec<Option<site::Saved>>,
    /// Input of the block.
    before_pre_attn: Array,
    /// Output of ln_1, only when in_proj is trainable.
    normed: Option<Array>,
    heads: Heads,
    /// Output of the attention, only when out_proj is trainable.
    mixed: Option<Array>,
}

struct SavedMlp {
    /// Output of ln_2, only when c_fc is trainable.
    normed: Option<Array>,
    /// Output of c_fc before the activation, unless it is recomputed.
    hidden: Option<Array>,
    /// Output of c_fc after the activation, only when c_proj is trainable.
    active: Option<Array>,
}

/// Gradients that a backward pass computed.
pub(super) struct Gradients {
    /// Gradient of the input of the block, when the reach was [`Reach::Input`], or of the half of it that was gone through.
    pub(super) dx: Option<Array>,
    /// Gradients of the block's own trainable weights, named without the block's prefix.
    pub(super) own: Found,
    /// Gradients of each segment's adapters, named with the prefix `adapter_pre_attn.` or `adapter_pre_mlp.`.
    pub(super) adapters: Vec<Found>,
}

impl Gradients {
    /// None yet, of a block with these adapters.
    fn of(sites: &Sites<'_>) -> Self {
        let segments = sites.pre_attn.len().max(sites.pre_mlp.len());
        Self {
            dx: None,
            own: Found::new(),
            adapters: vec![Found::new(); segments],
        }
    }
}

impl Block {
    /// Returns whether the backward pass may end before the attention.
    fn ends_at_mlp(&self, sites: &Sites<'_>, reach: Reach) -> bool {
        reach != Reach::Input && !self.in_proj.is_trainable() && !Sites::any(&sites.pre_attn)
    }

    /// Computes the block for x `[N, L, C]` outside of a training step: a device may round once less than in one.
    pub(super) fn infer(&self, x: &Array, sites: &Sites<'_>, tokens: Tokens) -> Result<Array> {
        let (y, _) = self.forward(x, sites, tokens, Reach::Nothing, Hidden::Unread)?;
        Ok(y)
    }

    /// Computes the attention half for x `[N, L, C]` after its adapters. With the adapters and [`Block::infer_mlp`] it is [`Block::infer`] for all tokens.
    pub(super) fn infer_attention(&self, x: &Array) -> Result<Array> {
        let (y, _) = self.attend(x, &[], Tokens::All)?;
        Ok(y)
    }

    /// Computes the MLP half for x `[N, L, C]` after its adapters.
    pub(super) fn infer_mlp(&self, x: &Array) -> Result<Array> {
        let (y, _) = self.feed(x, Reach::Nothing, Hidden::Unread)?;
        Ok(y)
    }

    /// Computes the block for x `[N, L, C]`. Returns its output, and what a backward pass of this reach needs.
    pub(super) fn forward(
        &self,
        x: &Array,
        sites: &Sites<'_>,
        tokens: Tokens,
        reach: Reach,
        hidden: Hidden,
    ) -> Result<(Array, Option<Saved>)> {
        let (x, attention) = self.attend(x, &sites.pre_attn, tokens)?;
        let is_read = reach != Reach::Nothing && !self.ends_at_mlp(sites, reach);
        let attention = is_read.then_some(attention);
        let before_pre_mlp = x.clone();
        let (x, pre_mlp) = match tokens {
            Tokens::All => adapt(&x, &sites.pre_mlp)?,
            Tokens::Class => (x, Vec::new()),
        };
        let (y, mlp) = self.feed(&x, reach, hidden)?;
        let Some(mlp) = mlp else {
            return Ok((y, None));
        };
        let saved = Saved {
            attention,
            before_pre_mlp,
            pre_mlp,
            mlp,
        };
        Ok((y, Some(saved)))
    }

    /// Computes the attention half, with the adapters before it.
    fn attend(
        &self,
        input: &Array,
        sites: &[Site<'_>],
        tokens: Tokens,
    ) -> Result<(Array, SavedAttention)> {
        let (x, pre_attn) = adapt(input, sites)?;
        let normed = self.ln_1.forward(&x, self.in_proj.form())?;
        let how = How {
            heads: self.heads,
            format: self.in_proj.format().float(),
            numbers: self.out_proj.reads(),
        };
        let numbers = Numbers::beside(how.format);
        let (heads, mixed, residual) = match tokens {
            Tokens::All => {
                let qkv = self.in_proj.forward(&normed, Rows::All, numbers)?;
                let (mixed, trace) = attention::forward(&qkv, how)?;
                (Heads::All(qkv, trace), mixed, x)
            }
            Tokens::Class => {
                let some = |rows, sections| {
                    self.in_proj
                        .forward_sections(&normed, rows, sections, numbers)
                };
                let (q, kv) = (some(Rows::Class, 0..1)?, some(Rows::All, 1..3)?);
                let mixed = attention::class_forward(&q, &kv, how)?;
                (Heads::Class(q, kv), mixed, rows::class(&x)?)
            }
        };
        let y = self.out_proj.forward_add(&mixed, &residual, Rows::All)?;
        let saved = SavedAttention {
            pre_attn,
            before_pre_attn: input.clone(),
            normed: self.in_proj.is_trainable().then_some(normed),
            heads,
            mixed: self.out_proj.is_trainable().then_some(mixed),
        };
        Ok((y, saved))
    }

    /// Computes the MLP half. Saves nothing when there is no backward pass.
    fn feed(&self, x: &Array, reach: Reach, hidden: Hidden) -> Result<(Array, Option<SavedMlp>)> {
        let is_read = reach != Reach::Nothing;
        let normed = self.ln_2.forward(x, self.c_fc.form())?;
        let before = match hidden {
            Hidden::Kept if is_read => Before::Kept(Numbers::beside(self.c_fc.format())),
            Hidden::Kept | Hidden::Again => Before::Again,
            Hidden::Unread => Before::Unread,
        };
        let form = self.c_proj.form();
        let (active, hidden) =
            (self.c_fc).forward_active(&normed, self.activation, form, before)?;
        let y = self.c_proj.forward_add(&active, x, Rows::All)?;
        let saved = is_read.then(|| SavedMlp {
            normed: self.c_fc.is_trainable().then_some(normed),
            hidden,
            active: self.c_proj.is_trainable().then_some(active),
        });
        Ok((y, saved))
    }

    /// Computes the gradients from the gradient of the block's output; `sites` and `reach` are those of the forward pass.
    pub(super) fn backward(
        &self,
        dy: &Array,
        saved: Saved,
        sites: &Sites<'_>,
        reach: Reach,
    ) -> Result<Gradients> {
        let (mut found, attention) = self.backward_mlp(dy, saved, sites, reach)?;
        let (Some(attention), Some(dx)) = (attention, found.dx.take()) else {
            return Ok(found);
        };
        let rest = self.backward_attention(&dx, &attention, sites, reach)?;
        found.own.extend(rest.own);
        for (own, rest) in found.adapters.iter_mut().zip(rest.adapters) {
            own.extend(rest);
        }
        found.dx = rest.dx;
        Ok(found)
    }

    /// Computes the gradients of the MLP half from the gradient of the block's output. When the backward pass goes on to the attention half, they have the
    /// gradient of what that half gave, and the activations that it reads are returned with them.
    pub(super) fn backward_mlp(
        &self,
        dy: &Array,
        saved: Saved,
        sites: &Sites<'_>,
        reach: Reach,
    ) -> Result<(Gradients, Option<SavedAttention>)> {
        let mut found = Gradients::of(sites);
        let x = &saved.before_pre_mlp;
        let adapted = adapt_again(x, &sites.pre_mlp, &saved.pre_mlp)?;
        let mut dx = self.feed_back(&adapted, dy, saved.mlp, &mut found.own)?;
        drop(adapted);
        let ends_here = self.ends_at_mlp(sites, reach);
        if Sites::any(&sites.pre_mlp) && !saved.pre_mlp.is_empty() {
            let (below, gradients) =
                site::backward(x, &sites.pre_mlp, &saved.pre_mlp, &dx, !ends_here)?;
            collect(&mut found.adapters, gradients, "adapter_pre_mlp");
            dx = below.unwrap_or(dx);
        }
        let attention = saved.attention.filter(|_| !ends_here);
        found.dx = attention.is_some().then_some(dx);
        Ok((found, attention))
    }

    /// Computes the gradients of the attention half from the gradient of what it gave.
    pub(super) fn backward_attention(
        &self,
        dy: &Array,
        attention: &SavedAttention,
        sites: &Sites<'_>,
        reach: Reach,
    ) -> Result<Gradients> {
        let mut found = Gradients::of(sites);
        let x = &attention.before_pre_attn;
        let adapted = adapt_again(x, &sites.pre_attn, &attention.pre_attn)?;
        let mut dx = self.attend_back(&adapted, dy, attention, &mut found.own)?;
        drop(adapted);
        if Sites::any(&sites.pre_attn) {
            let wants_dx = reach == Reach::Input;
            let (below, gradients) =
                site::backward(x, &sites.pre_attn, &attention.pre_attn, &dx, wants_dx)?;
            collect(&mut found.adapters, gradients, "adapter_pre_attn");
            dx = below.unwrap_or(dx);
        }
        found.dx = (reach == Reach::Input).then_some(dx);
        Ok(found)
    }

    fn feed_back(
        &self,
        x: &Array,
        dy: &Array,
        saved: SavedMlp,
        found: &mut Found,
    ) -> Result<Array> {
        let all = |x| (x, Rows::All);
        if let Some(active) = &saved.active {
            let names = ["mlp.c_proj.weight", "mlp.c_proj.bias"];
            self.c_proj.gradients(all(active), all(dy), names, found)?;
        }
        let hidden = match saved.hidden {
            Some(hidden) => hidden,
            None => {
                let normed = self.ln_2.forward(x, self.c_fc.form())?;
                let numbers = Numbers::beside(self.c_fc.format());
                self.c_fc.forward(&normed, Rows::All, numbers)?
            }
        };
        let numbers = self.c_fc.reads();
        let d_hidden = self
            .c_proj
            .backward_active(dy, &hidden, self.activation, numbers)?;
        drop(hidden);
        if let Some(normed) = &saved.normed {
            let names = ["mlp.c_fc.weight", "mlp.c_fc.bias"];
            self.c_fc
                .gradients(all(normed), all(&d_hidden), names, found)?;
        }
        let d_normed = self.c_fc.backward(&d_hidden, Rows::All)?;
        self.ln_2.gradients(x, &d_normed, "ln_2", found)?;
        Ok(self.ln_2.backward(x, &d_normed, dy)?)
    }

    fn attend_back(
        &self,
        x: &Array,
        dy: &Array,
        saved: &SavedAttention,
        found: &mut Found,
    ) -> Result<Array> {
        let all = |x| (x, Rows::All);
        if let Some(mixed) = &saved.mixed {
            let names = ["attn.out_proj.weight", "attn.out_proj.bias"];
            self.out_proj.gradients(all(mixed), all(dy), names, found)?;
        }
        let d_mixed = self.out_proj.backward(dy, Rows::All)?;
        let how = How {
            heads: self.heads,
            format: self.in_proj.format().float(),
            numbers: self.in_proj.reads(),
        };
        let (d_normed, past) = match &saved.heads {
            Heads::All(qkv, trace) => {
                let d_qkv = attention::backward(qkv, trace, &d_mixed, how)?;
                if let Some(normed) = &saved.normed {
                    let names = ["attn.in_proj_weight", "attn.in_proj_bias"];
                    self.in_proj
                        .gradients(all(normed), all(&d_qkv), names, found)?;
                }
                (self.in_proj.backward(&d_qkv, Rows::All)?, dy.clone())
            }
            Heads::Class(q, kv) => {
                let (dq, d_kv) = attention::class_backward(q, kv, &d_mixed, how)?;
                if let Some(normed) = &saved.normed {
                    self.class_gradients(normed, &dq, &d_kv, found)?;
                }
                let d_normed = self.in_proj.backward_class(&dq, &d_kv)?;
                (d_normed, rows::only_class(dy, x.dim(1)?)?)
            }
        };
        self.ln_1.gradients(x, &d_normed, "ln_1", found)?;
        Ok(self.ln_1.backward(x, &d_normed, &past)?)
    }

    /// Computes the gradients of in_proj when its first section was applied to the class tokens only.
    fn class_gradients(
        &self,
        normed: &Array,
        dq: &Array,
        d_kv: &Array,
        found: &mut Found,
    ) -> Result<()> {
        let mut parts = Found::new();
        let names = ["weight", "bias"];
        let (class, every) = ((normed, Rows::Class), (normed, Rows::All));
        self.in_proj
            .gradients(class, (dq, Rows::All), names, &mut parts)?;
        self.in_proj
            .gradients(every, (d_kv, Rows::All), names, &mut parts)?;
        for name in names {
            let own = parts.iter().filter(|part| part.0 == name);
            let both: Vec<Array> = own.map(|part| part.1.clone()).collect();
            if !both.is_empty() {
                found.push((format!("attn.in_proj_{name}"), Array::cat(&both)?));
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        let linears = [&self.in_proj, &self.out_proj, &self.c_fc, &self.c_proj];
        let norms = self.ln_1.bytes() + self.ln_2.bytes();
        norms + linears.map(Linear::bytes).iter().sum::<u64>()
    }

    pub(super) fn pointers(&self) -> [usize; 6] {
        [
            self.ln_1.pointer(),
            self.in_proj.pointer(),
            self.out_proj.pointer(),
            self.ln_2.pointer(),
            self.c_fc.pointer(),
            self.c_proj.pointer(),
        ]
    }
}

fn adapt(x: &Array, sites: &[Site<'_>]) -> Result<(Array, Vec<Option<site::Saved>>)> {
    if Sites::any(sites) {
        site::forward(x, sites)
    } else {
        Ok((x.clone(), Vec::new()))
    }
}

/// Recomputes the output of `adapt` from what it saved.
fn adapt_again(x: &Array, sites: &[Site<'_>], saved: &[Option<site::Saved>]) -> Result<Array> {
    if Sites::any(sites) && !saved.is_empty() {
        site::again(x, sites, saved)
    } else {
        Ok(x.clone())
    }
}

fn collect(into: &mut [Found], gradients: Vec<Found>, prefix: &str) {
    for (into, found) in into.iter_mut().zip(gradients) {
        into.extend(
            found
                .into_iter()
                .map(|(name, gradient)| (format!("{prefix}.{name}"), gradient)),
        );
    }
}
