//! Layers, and where their weights come from: a weight is frozen or trainable, decided when it is loaded; the kernels see nothing else of it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Result;

use super::Activation;
use super::ops::placed::linear::{self, Options, Rows};
use super::ops::placed::norm::{self, Norm};
use super::ops::placed::{self, Onto, embed};
use super::ops::{Array, Form, Format, Matrix, Numbers, Place, Vector};
use crate::spec::Precision;

/// Named gradients, in the order in which they were computed.
pub(super) type Found = Vec<(String, Array)>;

/// How and where the weights of a layer are stored.
#[derive(Debug, Clone)]
pub(super) struct Mode {
    precision: Precision,
    place: Place,
    purpose: Purpose,
}

/// What the weights of a layer are for.
#[derive(Debug, Clone)]
enum Purpose {
    /// Frozen weights, without gradients; the counter, if there is one, counts every use.
    Frozen(Option<Arc<AtomicU64>>),
    /// Trainable weights, with gradients.
    Trainable,
}

impl Mode {
    /// Returns the mode of frozen weights on the host.
    pub(super) fn frozen(precision: Precision, calls: Option<Arc<AtomicU64>>) -> Self {
        Self {
            precision,
            place: Place::Host,
            purpose: Purpose::Frozen(calls),
        }
    }

    /// Returns the mode of trainable weights on the host.
    pub(super) fn trainable(precision: Precision) -> Self {
        Self {
            precision,
            place: Place::Host,
            purpose: Purpose::Trainable,
        }
    }

    /// Returns the same mode in another place.
    pub(super) fn at(&self, place: &Place) -> Self {
        Self {
            place: place.clone(),
            ..self.clone()
        }
    }

    /// Returns the mode of layers outside the frozen blocks: bfloat16 in place of integers.
    pub(super) fn without_integers(&self) -> Self {
        let precision = match self.precision {
            Precision::F32 => Precision::F32,
            Precision::Bf16 | Precision::Int8 => Precision::Bf16,
        };
        Self {
            precision,
            ..self.clone()
        }
    }

    /// Returns the mode of heads, which are small: f32, on the host.
    pub(super) fn exact(&self) -> Self {
        Self {
            precision: Precision::F32,
            place: Place::Host,
            purpose: self.purpose.clone(),
        }
    }

    /// Returns where the weights are.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn format(&self) -> Format {
        Format::of(self.precision)
    }
}

/// Weight `[n, k]` in the layout of the products of its place.
enum Weight {
    /// One copy; the backward pass derives its layout from it when needed, so that frozen weights are in memory once.
    Frozen(Matrix, Option<Arc<AtomicU64>>),
    /// One copy in the layout of the forward pass, made when a step begins, and one in that of the backward pass where the place has one.
    Trainable(Matrix, Option<Matrix>),
}

/// Linear layer: y = x · Wᵀ + b.
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Vector>,
}

/// What becomes of the values before an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Nobody reads them: a device may compute product and activation in one kernel, whose result may differ in its last bit.
    Unread,
    /// A backward pass may compute them again: the result has the bits that it has with [`Before::Kept`].
    Again,
    /// They are returned in this number format.
    Kept(Numbers),
}

impl Linear {
    /// Builds a layer from W `[n, k]` and b `[n]`; `sections` divides the columns into parts that can be used separately.
    pub(super) fn new(
        weight: &[f32],
        k: usize,
        sections: usize,
        bias: Option<Vec<f32>>,
        mode: &Mode,
    ) -> Result<Self> {
        let (format, place) = (mode.format(), &mode.place);
        let matrix = Matrix::new(weight, (k, sections), format, place)?;
        let weight = match &mode.purpose {
            Purpose::Frozen(calls) => Weight::Frozen(matrix, calls.clone()),
            Purpose::Trainable => {
                let back = Matrix::new_backward(weight, k, format, place);
                Weight::Trainable(matrix, back)
            }
        };
        let bias = bias.map(|bias| Vector::new(bias, place)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Builds a layer like [`Self::new`], of one section and with a bias, from arrays in any place.
    pub(super) fn of(weight: &Array, k: usize, bias: &Array, mode: &Mode) -> Result<Self> {
        let (format, place) = (mode.format(), &mode.place);
        let matrix = Matrix::of(weight, (k, 1), format, place)?;
        let weight = match &mode.purpose {
            Purpose::Frozen(calls) => Weight::Frozen(matrix, calls.clone()),
            Purpose::Trainable => {
                let back =
                    weight.read_on_host(|weight| Matrix::new_backward(weight, k, format, place))?;
                Weight::Trainable(matrix, back.flatten())
            }
        };
        let bias = Some(Vector::of(bias, place)?);
        Ok(Self { weight, bias })
    }

    /// Returns the same layer, frozen, in this mode.
    pub(super) fn in_mode(&self, mode: &Mode) -> Result<Self> {
        let matrix = self.matrix().placed(mode.format(), &mode.place)?;
        let bias = self.bias.as_ref();
        Ok(Self {
            weight: Weight::Frozen(matrix, None),
            bias: bias.map(|bias| bias.placed(&mode.place)).transpose()?,
        })
    }

    fn matrix(&self) -> &Matrix {
        match &self.weight {
            Weight::Frozen(matrix, _) | Weight::Trainable(matrix, _) => matrix,
        }
    }

    fn count(&self) {
        if let Weight::Frozen(_, Some(calls)) = &self.weight {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn transposed(&self) -> Cow<'_, Matrix> {
        match &self.weight {
            Weight::Trainable(_, Some(transposed)) => Cow::Borrowed(transposed),
            Weight::Frozen(matrix, _) | Weight::Trainable(matrix, None) => {
                Cow::Owned(matrix.transposed(0..matrix.sections()))
            }
        }
    }

    pub(super) fn is_trainable(&self) -> bool {
        matches!(self.weight, Weight::Trainable(..))
    }

    /// Returns the number format of the weights.
    pub(super) fn format(&self) -> Format {
        self.matrix().format()
    }

    /// Returns the number format in which the layer reads its input: a finer one does not change its result.
    pub(super) fn reads(&self) -> Numbers {
        match self.weight {
            Weight::Frozen(..) => Numbers::read_by(self.format()),
            // The gradient of the weight may be a product of floats.
            Weight::Trainable(..) => Numbers::F32,
        }
    }

    /// Returns the form in which the layer reads its input: like [`Linear::reads`], except that integers are made once, by what writes them.
    pub(super) fn form(&self) -> Form {
        match &self.weight {
            Weight::Frozen(matrix, _) => matrix.form(),
            Weight::Trainable(..) => self.reads().into(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        let bias = self.bias.as_ref().map_or(0, Vector::len) * size_of::<f32>();
        let transposed = match &self.weight {
            Weight::Frozen(..) | Weight::Trainable(_, None) => 0,
            Weight::Trainable(_, Some(transposed)) => transposed.bytes(),
        };
        self.matrix().bytes() + transposed + bias as u64
    }

    pub(super) fn pointer(&self) -> usize {
        self.matrix().pointer()
    }

    /// Returns W and b, as they were given; W is rounded where its format is not f32.
    pub(super) fn unpacked(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let bias = self.bias.as_ref().map(Vector::values).transpose()?;
        Ok((self.matrix().unpacked()?, bias.unwrap_or_default()))
    }

    /// Computes x · Wᵀ + b for some rows, in this number format.
    pub(super) fn forward(&self, x: &Array, rows: Rows, numbers: Numbers) -> Result<Array> {
        self.forward_sections(x, rows, 0..self.matrix().sections(), numbers)
    }

    /// Computes some sections of the columns of x · Wᵀ + b.
    pub(super) fn forward_sections(
        &self,
        x: &Array,
        rows: Rows,
        sections: Range<usize>,
        numbers: Numbers,
    ) -> Result<Array> {
        self.count();
        let options = Options {
            bias: self.bias.as_ref(),
            activation: None,
            sections: Some(sections),
            numbers,
            apart: false,
        };
        linear::project(x, self.matrix(), rows, options)
    }

    /// Computes act(x · Wᵀ + b) over all rows, in this form; also returns the values before the activation, if they are kept.
    pub(super) fn forward_active(
        &self,
        x: &Array,
        activation: Activation,
        form: impl Into<Form>,
        before: Before,
    ) -> Result<(Array, Option<Array>)> {
        self.count();
        let mut options = Options {
            bias: self.bias.as_ref(),
            activation: Some(activation),
            sections: None,
            numbers: Numbers::F32,
            apart: before != Before::Unread,
        };
        let kept = match before {
            Before::Unread | Before::Again => None,
            Before::Kept(before) => Some(before),
        };
        match (form.into(), kept) {
            (Form::Integers, before) => {
                let (before, y) = linear::project_integers(x, self.matrix(), options, before)?;
                Ok((y, before))
            }
            (Form::Numbers(numbers), None) => {
                options.numbers = numbers;
                Ok((linear::project(x, self.matrix(), Rows::All, options)?, None))
            }
            (Form::Numbers(numbers), Some(before)) => {
                options.numbers = numbers;
                let (before, y) = linear::project_both(x, self.matrix(), options, before)?;
                Ok((y, Some(before)))
            }
        }
    }

    /// Returns the residual with x · Wᵀ + b added to some of its rows.
    pub(super) fn forward_add(&self, x: &Array, residual: &Array, rows: Rows) -> Result<Array> {
        self.count();
        linear::project_add(x, residual, self.matrix(), rows, self.bias.as_ref())
    }

    /// Returns the embeddings `[L, C]` of a frame for each frame, with x · Wᵀ + b of its patches `[N, L - 1, k]` added to its patch rows.
    pub(super) fn embed(&self, patches: &Array, base: &Vector) -> Result<Array> {
        self.count();
        embed::embed(patches, base, self.matrix(), self.bias.as_ref())
    }

    /// Returns the layer as one segment's part of a grouped product.
    pub(super) fn each(&self, frames: Range<usize>) -> linear::Each<'_> {
        self.count();
        linear::Each {
            frames,
            weight: self.matrix(),
            bias: self.bias.as_ref(),
        }
    }

    /// Computes the gradient of the input, for some rows of dy.
    pub(super) fn backward(&self, dy: &Array, rows: Rows) -> Result<Array> {
        self.count();
        linear::project(dy, &self.transposed(), rows, Options::default())
    }

    /// Computes the gradient of the values before the activation that the layer's input came out of, over all rows of dy.
    pub(super) fn backward_active(
        &self,
        dy: &Array,
        before: &Array,
        activation: Activation,
        numbers: Numbers,
    ) -> Result<Array> {
        self.count();
        linear::project_slope(dy, &self.transposed(), before, activation, numbers)
    }

    /// Returns `add` with the gradient of the input added to some of its rows.
    pub(super) fn backward_add(&self, dy: &Array, add: &Array, rows: Rows) -> Result<Array> {
        self.count();
        linear::project_add(dy, add, &self.transposed(), rows, None)
    }

    /// Computes the gradient of the input, `[N, L, k]`, when the first section was applied to the class tokens only (dy `[N, section]`), and the
    /// others to all tokens.
    pub(super) fn backward_class(&self, class: &Array, others: &Array) -> Result<Array> {
        self.count();
        let matrix = self.matrix();
        let of_others = matrix.transposed(1..matrix.sections());
        let all = linear::project(others, &of_others, Rows::All, Options::default())?;
        linear::project_add(class, &all, &matrix.transposed(0..1), Rows::Class, None)
    }

    /// Computes the gradients of weight and bias, if they are trainable.
    pub(super) fn gradients(
        &self,
        x: (&Array, Rows),
        dy: (&Array, Rows),
        names: [&str; 2],
        found: &mut Found,
    ) -> Result<()> {
        self.gradients_onto(x, dy, names, [Onto::NOTHING, Onto::NOTHING], found)
    }

    /// Computes the gradients of weight and bias, if they are trainable, added to those of earlier clips.
    pub(super) fn gradients_onto(
        &self,
        x: (&Array, Rows),
        dy: (&Array, Rows),
        names: [&str; 2],
        onto: [Onto; 2],
        found: &mut Found,
    ) -> Result<()> {
        if self.is_trainable() {
            let weight = placed::weight_gradient(x, dy, &onto[0], self.format())?;
            found.push((names[0].to_owned(), weight));
            if self.bias.is_some() {
                let bias = placed::columns(dy.0, dy.1, &onto[1])?;
                found.push((names[1].to_owned(), bias));
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
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>, eps: f64, mode: &Mode) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(weight, bias, eps as f32, &mode.place)?,
            trainable: matches!(mode.purpose, Purpose::Trainable),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.norm.bytes()
    }

    pub(super) fn pointer(&self) -> usize {
        self.norm.pointer()
    }

    /// Returns the normed rows in this form.
    pub(super) fn forward(&self, x: &Array, form: impl Into<Form>) -> Result<Array> {
        norm::forward(x, &self.norm, form)
    }

    /// Returns the gradient of the input, plus `add`.
    pub(super) fn backward(&self, x: &Array, dy: &Array, add: &Array) -> Result<Array> {
        norm::backward(x, dy, add, &self.norm)
    }

    /// Computes the gradients of `<name>.weight` and `<name>.bias`, if they are trainable.
    pub(super) fn gradients(
        &self,
        x: &Array,
        dy: &Array,
        name: &str,
        found: &mut Found,
    ) -> Result<()> {
        if self.trainable {
            let both = norm::weight_gradient(x, dy, &self.norm)?;
            found.push((format!("{name}.weight"), both.get(0)?));
            found.push((format!("{name}.bias"), both.get(1)?));
        }
        Ok(())
    }
}
