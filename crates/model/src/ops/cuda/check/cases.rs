//! The operations of the walk on random data, in any place.
//!
//! Invariant: a case makes the same data in every place, and its results are those of the operations alone.

mod adapters;

use candle_core::Result;

use crate::BackboneConfig;
use crate::ops::attention::How;
use crate::ops::placed::cells::{self, Cells};
use crate::ops::placed::linear::{self, Options, Rows};
use crate::ops::placed::{
    Array, Matrix, Onto, Vector, activation, adamw, attention, columns, embed, norm, pool, rows,
    weight_gradient,
};
use crate::ops::{Format, Numbers, Place};
use crate::rng::Stream;

/// Frames of the data: two clips of different lengths.
const FRAMES: [usize; 2] = [2, 1];

/// Sizes and number formats of the data.
pub(super) struct Sizes<'a> {
    pub(super) config: &'a BackboneConfig,
    pub(super) format: Format,
    /// Number format between operations.
    pub(super) numbers: Numbers,
}

impl Sizes<'_> {
    fn frames(&self) -> usize {
        FRAMES.iter().sum()
    }

    fn tokens(&self) -> usize {
        self.config.tokens()
    }

    fn width(&self) -> usize {
        self.config.width
    }

    /// Returns the dimensions of the residual stream.
    fn stream(&self) -> [usize; 3] {
        [self.frames(), self.tokens(), self.width()]
    }

    /// Returns widths of adapters: half of the backbone's, in steps that its products take, and one that they do not take.
    fn adapters(&self) -> [usize; 2] {
        [(self.width() / 2).next_multiple_of(8).min(384), 5]
    }

    fn how(&self) -> How {
        How {
            heads: self.config.heads,
            format: self.format,
            numbers: self.numbers,
        }
    }
}

/// An operation on both sides: it makes its data in a place, and returns its results there.
pub(super) type Case = fn(&Sizes<'_>, &Place) -> Result<Vec<Array>>;

/// Every operation of the walk.
pub(super) const CASES: &[(&str, Case)] = &[
    ("LayerNorm", layer_norm),
    ("LayerNorm backward", layer_norm_backward),
    ("products", products),
    ("products of class tokens", class_products),
    ("products backward", products_backward),
    ("activation", activations),
    ("products with activation", active_products),
    ("attention", self_attention),
    ("attention backward", self_attention_backward),
    ("attention of class tokens", class_attention),
    ("adapters' products", adapters::grouped),
    ("adapters' products backward", adapters::grouped_backward),
    ("depthwise convolution", adapters::convolution),
    ("gradients of weights", gradients),
    ("rows and means", rows_and_means),
    ("patches and embedding", embedding),
    ("AdamW", optimiser),
];

/// Returns random numbers, the same in every place.
pub(super) fn random(name: &str, count: usize, scale: f32) -> Vec<f32> {
    let mut stream = Stream::new(0, name);
    (0..count).map(|_| stream.range(-scale, scale)).collect()
}

/// Returns a random array in a place, in a number format.
fn input(name: &str, dims: &[usize], numbers: Numbers, place: &Place) -> Result<Array> {
    let values = random(name, dims.iter().product(), 1.0);
    Array::of(values, dims)?.to(place)?.cast(numbers)
}

/// Returns a random weight `[n, k]` whose products are about as large as their input.
fn weight(
    name: &str,
    (n, k): (usize, usize),
    sections: usize,
    sizes: &Sizes<'_>,
    place: &Place,
) -> Result<Matrix> {
    let scale = (3.0 / k as f32).sqrt();
    Matrix::new(
        &random(name, n * k, scale),
        (k, sections),
        sizes.format,
        place,
    )
}

fn vector(name: &str, len: usize, place: &Place) -> Result<Vector> {
    Vector::new(random(name, len, 1.0), place)
}

fn norm_of(sizes: &Sizes<'_>, place: &Place) -> Result<norm::Norm> {
    let width = sizes.width();
    let (gain, shift) = (random("gain", width, 1.0), random("shift", width, 1.0));
    norm::Norm::new(gain, shift, sizes.config.eps as f32, place)
}

fn layer_norm(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let x = input("x", &sizes.stream(), Numbers::F32, place)?;
    let own = norm_of(sizes, place)?;
    Ok(vec![
        norm::forward(&x, &own, sizes.numbers)?,
        norm::forward(&x, &own, Numbers::F32)?,
    ])
}

fn layer_norm_backward(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let of = |name| input(name, &sizes.stream(), Numbers::F32, place);
    let (x, dy, add) = (of("x")?, of("dy")?, of("add")?);
    let own = norm_of(sizes, place)?;
    Ok(vec![
        norm::backward(&x, &dy, &add, &own)?,
        norm::weight_gradient(&x, &dy, &own)?,
    ])
}

/// Every product of a block, as its forward pass over all tokens forms them.
fn products(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let (width, hidden) = (sizes.width(), sizes.config.mlp_width);
    let [frames, tokens, _] = sizes.stream();
    let x = input("x", &sizes.stream(), sizes.numbers, place)?;
    let h = input("h", &[frames, tokens, hidden], sizes.numbers, place)?;
    let residual = input("residual", &sizes.stream(), Numbers::F32, place)?;
    let qkv = weight("qkv", (3 * width, width), 3, sizes, place)?;
    let up = weight("up", (hidden, width), 1, sizes, place)?;
    let options = |bias, sections| Options {
        bias: Some(bias),
        sections,
        numbers: sizes.numbers,
        ..Options::default()
    };
    let of_qkv = vector("qkv bias", 3 * width, place)?;
    let of_up = vector("up bias", hidden, place)?;
    let of_stream = vector("down bias", width, place)?;
    let project = |weight: &Matrix, bias, sections| {
        linear::project(&x, weight, Rows::All, options(bias, sections))
    };
    let add = |x: &Array, weight: &Matrix| {
        linear::project_add(x, &residual, weight, Rows::All, Some(&of_stream))
    };
    Ok(vec![
        project(&qkv, &of_qkv, None)?,
        project(&qkv, &of_qkv, Some(1..3))?,
        project(&up, &of_up, None)?,
        add(&x, &weight("out", (width, width), 1, sizes, place)?)?,
        add(&h, &weight("down", (width, hidden), 1, sizes, place)?)?,
    ])
}

/// The product of the class tokens' queries.
fn class_products(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let width = sizes.width();
    let x = input("x", &sizes.stream(), sizes.numbers, place)?;
    let qkv = weight("qkv", (3 * width, width), 3, sizes, place)?;
    let bias = vector("qkv bias", 3 * width, place)?;
    let options = Options {
        bias: Some(&bias),
        sections: Some(0..1),
        numbers: sizes.numbers,
        ..Options::default()
    };
    Ok(vec![linear::project(&x, &qkv, Rows::Class, options)?])
}

/// Every product of a block, as its backward pass forms them; gradients are floats.
fn products_backward(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let (width, hidden) = (sizes.width(), sizes.config.mlp_width);
    let [frames, tokens, _] = sizes.stream();
    let dy = |columns: usize, numbers| {
        let name = format!("dy of {columns}");
        input(&name, &[frames, tokens, columns], numbers, place)
    };
    let back = |name, (n, k), sections, of: std::ops::Range<usize>| {
        let own = weight(name, (n, k), sections, sizes, place)?;
        Ok::<_, candle_core::Error>(own.transposed(of))
    };
    let project =
        |dy: &Array, weight: &Matrix| linear::project(dy, weight, Rows::All, Options::default());
    let of_qkv = |of| back("qkv", (3 * width, width), 3, of);
    // Those of attention and activation were rounded for the product.
    let (of_all, of_hidden) = (dy(3 * width, sizes.numbers)?, dy(hidden, sizes.numbers)?);
    let keys = project(&dy(2 * width, sizes.numbers)?, &of_qkv(1..3)?)?;
    let class = input("class", &[frames, width], sizes.numbers, place)?;
    let stream = dy(width, Numbers::F32)?;
    Ok(vec![
        project(&of_all, &of_qkv(0..3)?)?,
        linear::project_add(&class, &keys, &of_qkv(0..1)?, Rows::Class, None)?,
        project(&stream, &back("out", (width, width), 1, 0..1)?)?,
        project(&of_hidden, &back("up", (hidden, width), 1, 0..1)?)?,
        project(&stream, &back("down", (width, hidden), 1, 0..1)?)?,
        keys,
    ])
}

/// Gives the first product of an MLP to `products`: its input, its weight, and the bias and the activation at its end.
fn activated(
    sizes: &Sizes<'_>,
    place: &Place,
    products: impl FnOnce(&Array, &Matrix, Options<'_>) -> Result<Vec<Array>>,
) -> Result<Vec<Array>> {
    let (width, hidden) = (sizes.width(), sizes.config.mlp_width);
    let x = input("x", &sizes.stream(), sizes.numbers, place)?;
    let up = weight("up", (hidden, width), 1, sizes, place)?;
    let bias = vector("bias", hidden, place)?;
    let options = Options {
        bias: Some(&bias),
        activation: Some(sizes.config.activation),
        numbers: sizes.numbers,
        ..Options::default()
    };
    products(&x, &up, options)
}

fn activations(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    activated(sizes, place, |x, up, options| {
        let alone = linear::project(x, up, Rows::All, options.clone())?;
        let (before, after) = linear::project_both(x, up, options, sizes.numbers)?;
        // As a training step does it: what is kept, and the gradient, are rounded.
        let dy = input("dy", before.dims(), Numbers::F32, place)?;
        let kept = input("kept", before.dims(), sizes.numbers, place)?;
        let kind = sizes.config.activation;
        let rounded = activation::backward(&kept, &dy, kind, sizes.numbers)?;
        Ok(vec![alone, before, after, rounded])
    })
}

/// Products that may end with the activation, or with its slope, in one kernel.
fn active_products(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    activated(sizes, place, |x, up, options| {
        let (width, hidden) = (sizes.width(), sizes.config.mlp_width);
        let y = linear::project(x, up, Rows::All, options)?;
        let dy = input("dy", &sizes.stream(), Numbers::F32, place)?;
        let kept = input("kept", y.dims(), sizes.numbers, place)?;
        let down = weight("down", (width, hidden), 1, sizes, place)?.transposed(0..1);
        let kind = sizes.config.activation;
        let dx = linear::project_slope(&dy, &down, &kept, kind, sizes.numbers)?;
        Ok(vec![y, dx])
    })
}

fn qkv(sizes: &Sizes<'_>, place: &Place) -> Result<Array> {
    let [frames, tokens, width] = sizes.stream();
    input("qkv", &[frames, tokens, 3 * width], sizes.numbers, place)
}

fn self_attention(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let (y, _) = attention::forward(&qkv(sizes, place)?, sizes.how())?;
    Ok(vec![y])
}

fn self_attention_backward(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let (qkv, how) = (qkv(sizes, place)?, sizes.how());
    let (_, trace) = attention::forward(&qkv, how)?;
    // A gradient is floats, as products backward give it.
    let dy = input("dy", &sizes.stream(), Numbers::F32, place)?;
    Ok(vec![attention::backward(&qkv, &trace, &dy, how)?])
}

fn class_attention(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let ([frames, tokens, width], how) = (sizes.stream(), sizes.how());
    let q = input("q", &[frames, width], sizes.numbers, place)?;
    let kv = input("kv", &[frames, tokens, 2 * width], sizes.numbers, place)?;
    let y = attention::class_forward(&q, &kv, how)?;
    // A gradient is floats, as products backward give it.
    let dy = input("dy", &[frames, width], Numbers::F32, place)?;
    let (dq, dkv) = attention::class_backward(&q, &kv, &dy, how)?;
    Ok(vec![y, dq, dkv])
}

fn gradients(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let [frames, tokens, width] = sizes.stream();
    let x = input("x", &[frames, tokens, width], Numbers::F32, place)?;
    let mut results = Vec::new();
    for adapter in sizes.adapters() {
        let dims = [frames, tokens - 1, adapter];
        let dy = input("dy", &dims, Numbers::F32, place)?;
        let both = ((&x, Rows::Patches), (&dy, Rows::All));
        results.push(weight_gradient(
            both.0,
            both.1,
            &Onto::NOTHING,
            sizes.format,
        )?);
        results.push(weight_gradient(
            both.1,
            both.0,
            &Onto::NOTHING,
            sizes.format,
        )?);
        results.push(columns(&dy, Rows::All, &Onto::NOTHING)?);
    }
    results.push(columns(&x, Rows::Patches, &Onto::NOTHING)?);
    Ok(results)
}

fn rows_and_means(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let x = input("x", &sizes.stream(), Numbers::F32, place)?;
    let class = rows::class(&x)?;
    let means = pool::means(&class, &FRAMES)?;
    let grid = sizes.config.grid();
    let side = grid.min(4);
    let cells_of = Cells { grid, side };
    let pooled = cells::means(&x, cells_of)?;
    Ok(vec![
        cells::spread(&pooled, cells_of)?,
        pooled,
        rows::only_class(&class, sizes.tokens())?,
        pool::spread(&means, &FRAMES)?,
        means,
        class,
    ])
}

fn embedding(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let (config, width) = (sizes.config, sizes.width());
    let cut = embed::Cut {
        grid: config.grid(),
        side: config.image_size,
        patch: config.patch_size,
    };
    let pixels = config.image_size * config.image_size;
    // Two frames of one clip: planes of a channel follow one another.
    let planes = random("planes", 3 * 2 * pixels, 2.0);
    let picture = |frame: usize| embed::Picture {
        values: &planes[frame * pixels..],
        channel: 2 * pixels,
    };
    let pictures = [picture(0), picture(1)];
    let patches = embed::patches(&pictures, cut, sizes.numbers, place)?;
    let base = vector("base", sizes.tokens() * width, place)?;
    let own = weight("conv", (width, cut.len()), 1, sizes, place)?;
    let bias = vector("conv bias", width, place)?;
    let bias = config.patch_bias.then_some(&bias);
    let embedded = embed::embed(&patches, &base, &own, bias)?;
    Ok(vec![embedded])
}

fn optimiser(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let count = 3 * sizes.width() + 5;
    let of = |name| input(name, &[count], Numbers::F32, place);
    let (weights, gradients) = (of("weights")?, of("gradients")?);
    let moments = [of("first")?, Array::of(vec![0.5; count], count)?.to(place)?];
    let cut = sizes.width();
    let own = [(0..cut, 0.9), (cut..count, 1.0)].map(|(range, keep)| adamw::Own { range, keep });
    let factors = adamw::Factors {
        first: [0.9, 0.1],
        second: [0.999, 0.001],
        scale: 0.5,
        rate: 1e-2,
        root: 0.9,
        eps: 1e-8,
    };
    let ranges = [0..cut, cut..count];
    let square = adamw::sum_of_squares(&gradients, &ranges)?;
    adamw::update(
        &weights,
        &gradients,
        [&moments[0], &moments[1]],
        &own,
        factors,
    )?;
    let [first, second] = moments;
    let square = Array::of(vec![square as f32], 1)?;
    Ok(vec![weights, first, second, square])
}
