//! Layers, and where their weights come from: a weight is frozen or trainable, decided when it is loaded; the kernels see nothing else of it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Result, Tensor};

use super::Activation;
use super::ops::linear::{self, Options, Rows};
use super::ops::norm::{self, Norm};
use super::ops::{Format, Numbers, Onto, Packed, sum, weight_gradient};
use crate::spec::Precision;

/// Named gradients, in the order in which they were computed.
pub(super) type Found = Vec<(String, Tensor)>;

/// How the weights of a layer are stored.
#[derive(Debug, Clone)]
pub(super) enum Mode {
    /// Frozen weights, without gradients; the counter, if there is one, counts every use.
    Frozen(Precision, Option<Arc<AtomicU64>>),
    /// Trainable weights, with gradients.
    Trainable(Precision),
}

impl Mode {
    /// Returns the same mode in another precision.
    fn with(&self, change: impl Fn(Precision) -> Precision) -> Self {
        match self {
            Self::Frozen(precision, calls) => Self::Frozen(change(*precision), calls.clone()),
            Self::Trainable(precision) => Self::Trainable(change(*precision)),
        }
    }

    /// Returns the mode of layers outside the frozen blocks: bfloat16 in place of integers.
    pub(super) fn without_integers(&self) -> Self {
        self.with(|precision| match precision {
            Precision::F32 => Precision::F32,
            Precision::Bf16 | Precision::Int8 => Precision::Bf16,
        })
    }

    /// Returns the mode of heads, which are small: f32.
    pub(super) fn exact(&self) -> Self {
        self.with(|_| Precision::F32)
    }

    fn format(&self) -> Format {
        match self {
            Self::Frozen(precision, _) | Self::Trainable(precision) => Format::of(*precision),
        }
    }
}

/// Weight `[n, k]` in the kernels' layout.
enum Weight {
    /// One copy; the backward pass derives its layout from it when needed, so that frozen weights are in memory once.
    Frozen(Packed, Option<Arc<AtomicU64>>),
    /// One copy in the layout of the forward pass and one in that of the backward pass, both made when a step begins.
    Trainable(Packed, Packed),
}

/// Linear layer: y = x · Wᵀ + b.
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Builds a layer from W `[n, k]` and b `[n]`; `sections` divides the columns into parts that can be used separately.
    pub(super) fn new(
        weight: &[f32],
        k: usize,
        sections: usize,
        bias: Option<Vec<f32>>,
        mode: &Mode,
    ) -> Self {
        let format = mode.format();
        let packed = Packed::new(format, weight, k, sections);
        let weight = match mode {
            Mode::Frozen(_, calls) => Weight::Frozen(packed, calls.clone()),
            Mode::Trainable(_) => {
                Weight::Trainable(packed, Packed::new_transposed(format, weight, k))
            }
        };
        Self { weight, bias }
    }

    /// Returns the same layer, frozen, in this mode.
    pub(super) fn in_mode(&self, mode: &Mode) -> Self {
        Self {
            weight: Weight::Frozen(self.packed().in_format(mode.format()), None),
            bias: self.bias.clone(),
        }
    }

    fn packed(&self) -> &Packed {
        match &self.weight {
            Weight::Frozen(packed, _) | Weight::Trainable(packed, _) => packed,
        }
    }

    fn count(&self) {
        if let Weight::Frozen(_, Some(calls)) = &self.weight {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn transposed(&self) -> Cow<'_, Packed> {
        match &self.weight {
            Weight::Frozen(packed, _) => Cow::Owned(packed.transposed(0..packed.sections())),
            Weight::Trainable(_, transposed) => Cow::Borrowed(transposed),
        }
    }

    pub(super) fn is_trainable(&self) -> bool {
        matches!(self.weight, Weight::Trainable(..))
    }

    /// Returns the number format of the weights.
    pub(super) fn format(&self) -> Format {
        self.packed().format()
    }

    /// Returns the number format in which the layer reads its input: a finer one does not change its result.
    pub(super) fn reads(&self) -> Numbers {
        match self.weight {
            Weight::Frozen(..) => Numbers::read_by(self.format()),
            // The gradient of the weight is a product of floats.
            Weight::Trainable(..) => Numbers::F32,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        let bias = self.bias.as_ref().map_or(0, Vec::len) * size_of::<f32>();
        let transposed = match &self.weight {
            Weight::Frozen(..) => 0,
            Weight::Trainable(_, transposed) => transposed.bytes(),
        };
        self.packed().bytes() + transposed + bias as u64
    }

    pub(super) fn pointer(&self) -> usize {
        self.packed().pointer()
    }

    /// Returns W and b, as they were given; W is rounded where its format is not f32.
    pub(super) fn unpacked(&self) -> (Vec<f32>, &[f32]) {
        (
            self.packed().unpacked(),
            self.bias.as_deref().unwrap_or_default(),
        )
    }

    /// Computes x · Wᵀ + b for some rows, in this number format.
    pub(super) fn forward(&self, x: &Tensor, rows: Rows, numbers: Numbers) -> Result<Tensor> {
        self.forward_sections(x, rows, 0..self.packed().sections(), numbers)
    }

    /// Computes some sections of the columns of x · Wᵀ + b.
    pub(super) fn forward_sections(
        &self,
        x: &Tensor,
        rows: Rows,
        sections: Range<usize>,
        numbers: Numbers,
    ) -> Result<Tensor> {
        self.count();
        let options = Options {
            bias: self.bias.as_deref(),
            activation: None,
            sections: Some(sections),
            numbers,
        };
        linear::project(x, self.packed(), rows, options)
    }

    /// Computes act(x · Wᵀ + b) over all rows; also returns the values before the activation, if they are requested.
    pub(super) fn forward_active(
        &self,
        x: &Tensor,
        activation: Activation,
        numbers: Numbers,
        before: Option<Numbers>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        self.count();
        let options = Options {
            bias: self.bias.as_deref(),
            activation: Some(activation),
            sections: None,
            numbers,
        };
        match before {
            None => Ok((linear::project(x, self.packed(), Rows::All, options)?, None)),
            Some(before) => {
                let (before, y) = linear::project_both(x, self.packed(), options, before)?;
                Ok((y, Some(before)))
            }
        }
    }

    /// Returns the residual with x · Wᵀ + b added to some of its rows.
    pub(super) fn forward_add(&self, x: &Tensor, residual: &Tensor, rows: Rows) -> Result<Tensor> {
        self.count();
        linear::project_add(x, residual, self.packed(), rows, self.bias.as_deref())
    }

    /// Returns the layer as one segment's part of a grouped product.
    pub(super) fn each(&self, frames: Range<usize>) -> linear::Each<'_> {
        self.count();
        linear::Each {
            frames,
            weight: self.packed(),
            bias: self.bias.as_deref(),
        }
    }

    /// Computes the gradient of the input, for some rows of dy.
    pub(super) fn backward(&self, dy: &Tensor, rows: Rows) -> Result<Tensor> {
        self.count();
        linear::project(dy, &self.transposed(), rows, Options::default())
    }

    /// Returns `add` with the gradient of the input added to some of its rows.
    pub(super) fn backward_add(&self, dy: &Tensor, add: &Tensor, rows: Rows) -> Result<Tensor> {
        self.count();
        linear::project_add(dy, add, &self.transposed(), rows, None)
    }

    /// Computes the gradient of the input, `[N, L, k]`, when the first section was applied to the class tokens only (dy `[N, section]`), and the
    /// others to all tokens.
    pub(super) fn backward_class(&self, class: &Tensor, others: &Tensor) -> Result<Tensor> {
        self.count();
        let packed = self.packed();
        let all = linear::project(
            others,
            &packed.transposed(1..packed.sections()),
            Rows::All,
            Options::default(),
        )?;
        linear::project_add(class, &all, &packed.transposed(0..1), Rows::Class, None)
    }

    /// Computes the gradients of weight and bias, if they are trainable.
    pub(super) fn gradients(
        &self,
        x: (&Tensor, Rows),
        dy: (&Tensor, Rows),
        names: [&str; 2],
        found: &mut Found,
    ) -> Result<()> {
        self.gradients_onto(x, dy, names, [Onto::NOTHING; 2], found)
    }

    /// Computes the gradients of weight and bias, if they are trainable, added to those of earlier clips.
    pub(super) fn gradients_onto(
        &self,
        x: (&Tensor, Rows),
        dy: (&Tensor, Rows),
        names: [&str; 2],
        onto: [Onto<'_>; 2],
        found: &mut Found,
    ) -> Result<()> {
        if self.is_trainable() {
            found.push((names[0].to_owned(), weight_gradient::of(x, dy, onto[0])?));
            if self.bias.is_some() {
                found.push((names[1].to_owned(), sum::columns(dy.0, dy.1, onto[1])?));
            }
        }
        Ok(())
    }
}

/// LayerNorm with its weights.
pub(super) struct LayerNorm {
    norm: Norm,
    trainable: bool,
}

impl LayerNorm {
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>, eps: f64, mode: &Mode) -> Self {
        Self {
            norm: Norm {
                weight,
                bias,
                eps: eps as f32,
            },
            trainable: matches!(mode, Mode::Trainable(_)),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        ((self.norm.weight.len() + self.norm.bias.len()) * size_of::<f32>()) as u64
    }

    pub(super) fn pointer(&self) -> usize {
        self.norm.weight.as_ptr() as usize
    }

    /// Returns the normed rows in this number format.
    pub(super) fn forward(&self, x: &Tensor, numbers: Numbers) -> Result<Tensor> {
        norm::forward(x, &self.norm, numbers)
    }

    /// Returns the gradient of the input, plus `add`.
    pub(super) fn backward(&self, x: &Tensor, dy: &Tensor, add: &Tensor) -> Result<Tensor> {
        norm::backward(x, dy, add, &self.norm)
    }

    /// Computes the gradients of `<name>.weight` and `<name>.bias`, if they are trainable.
    pub(super) fn gradients(
        &self,
        x: &Tensor,
        dy: &Tensor,
        name: &str,
        found: &mut Found,
    ) -> Result<()> {
        if self.trainable {
            let both = norm::weight_gradient(x, dy, self.norm.eps)?;
            found.push((format!("{name}.weight"), both.get(0)?));
            found.push((format!("{name}.bias"), both.get(1)?));
        }
        Ok(())
    }
}
