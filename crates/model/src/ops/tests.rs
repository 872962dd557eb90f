//! Tests of every kernel against plain candle operations (with candle's automatic gradients) and against finite differences, at odd sizes.

mod formats;
mod integers;
mod loss;
mod units;
mod words;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::attention::{self, How};
use super::depthwise::Extent;
use super::gelu;
use super::linear::{self, Options, Rows};
use super::norm::{self, Norm};
use super::sum::Onto;
use super::{Format, Numbers, Packed, read, sum, tensor, weight_gradient};
use crate::Activation;
use crate::rng::Stream;

pub(super) fn random(name: &str, shape: &[usize]) -> Tensor {
    let mut stream = Stream::new(11, name);
    let values = (0..shape.iter().product())
        .map(|_| stream.normal())
        .collect();
    tensor(values, shape).expect("a tensor")
}

pub(super) fn values(tensor: &Tensor) -> Vec<f32> {
    read(tensor, <[f32]>::to_vec).expect("f32 values")
}

pub(super) fn assert_near(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    let (got, want) = (values(got), values(want));
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(1.0, |m: f32, w| m.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * most,
            "{what}: element {i} is {g}, expected {w}"
        );
    }
}

/// Returns the gradients of Σ f(inputs) · dy for each input, computed by candle.
pub(super) fn twin(
    inputs: &[&Tensor],
    dy: &Tensor,
    f: impl Fn(&[Var]) -> Result<Tensor>,
) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(x).expect("a variable"))
        .collect();
    let loss = (f(&vars).expect("a twin") * dy).and_then(|y| y.sum_all());
    let gradients = loss.and_then(|loss| loss.backward()).expect("gradients");
    vars.iter()
        .map(|var| gradients.get(var).expect("a gradient").clone())
        .collect()
}

/// Compares dx with central differences of Σ f(x) · dy at a few elements.
fn assert_slope(
    what: &str,
    x: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) {
    const STEP: f32 = 1e-2;
    let (base, dx) = (values(x), values(dx));
    let weights = values(dy);
    let most = dx.iter().fold(1.0, |m: f32, d| m.max(d.abs()));
    for i in (0..base.len()).step_by((base.len() / 7).max(1)) {
        let at = |delta: f32| -> f64 {
            let mut moved = base.clone();
            moved[i] += delta;
            let moved = tensor(moved, x.shape()).expect("a tensor");
            let y = values(&f(&moved).expect("a value"));
            y.iter()
                .zip(&weights)
                .map(|(y, w)| f64::from(*y) * f64::from(*w))
                .sum()
        };
        let slope = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
        let error = (slope - f64::from(dx[i])).abs();
        assert!(
            error <= 5e-3 * f64::from(most),
            "{what}: slope {slope} at {i}, gradient {}",
            dx[i]
        );
    }
}

pub(super) fn linear_twin(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n, l, k) = x.dims3()?;
    let y = x.reshape((n * l, k))?.matmul(&weight.t()?)?;
    y.broadcast_add(bias)?.reshape((n, l, ()))
}

pub(super) fn rows_of(x: &Tensor, rows: Rows) -> Tensor {
    let l = x.dim(1).expect("tokens");
    match rows {
        Rows::All => x.clone(),
        Rows::Patches => x.narrow(1, 1, l - 1).expect("patches"),
        Rows::Class => x.narrow(1, 0, 1).expect("class tokens"),
    }
}

#[test]
fn linear_layers_match_candle_at_odd_sizes() {
    for (n, l, k, out) in [
        (1, 5, 7, 33),
        (3, 17, 48, 50),
        (2, 50, 19, 15),
        (2, 197, 40, 96),
    ] {
        let (x, w, b) = (
            random("x", &[n, l, k]),
            random("w", &[out, k]),
            random("b", &[out]),
        );
        let packed = Packed::new(Format::F32, &values(&w), k, 1);
        let bias = values(&b);
        let options = || Options {
            bias: Some(&bias),
            ..Options::default()
        };
        for rows in [Rows::All, Rows::Patches, Rows::Class] {
            let taken = rows_of(&x, rows);
            let got = linear::project(&x, &packed, rows, options()).expect("a product");
            let want = linear_twin(&taken, &w, &b).expect("a twin");
            assert_near("project", &got, &want, 1e-5);

            let dy = random("dy", &[n, l, out]);
            let d_taken = rows_of(&dy, rows);
            let twins = twin(&[&taken, &w, &b], &d_taken, |v| {
                linear_twin(&v[0], &v[1], &v[2])
            });
            let transposed = packed.transposed(0..1);
            let dx = linear::project(&dy, &transposed, rows, Options::default());
            assert_near("dx", &dx.expect("dx"), &twins[0], 1e-5);
            for (format, tolerance) in [(Format::F32, 2e-5), (Format::Bf16, 2e-2)] {
                let dw = weight_gradient::of((&x, rows), (&dy, rows), Onto::NOTHING, format);
                assert_near("dw", &dw.expect("dw"), &twins[1], tolerance);
            }
            let db = sum::columns(&dy, rows, Onto::NOTHING).expect("db");
            assert_near("db", &db, &twins[2], 2e-5);
        }
    }
}

#[test]
fn a_residual_is_added_to_the_chosen_rows_alone() {
    let (n, l, k, out) = (3, 10, 21, 37);
    let (w, r) = (random("w", &[out, k]), random("r", &[n, l, out]));
    let packed = Packed::new(Format::F32, &values(&w), k, 1);
    let zero = Tensor::zeros(out, DType::F32, &Device::Cpu).expect("zeros");
    for rows in [Rows::All, Rows::Patches, Rows::Class] {
        let x = random("x", &[n, l, k]);
        let taken = rows_of(&x, rows).contiguous().expect("rows");
        let got = linear::project_add(&taken, &r, &packed, rows, None).expect("a product");
        let product = linear_twin(&x, &w, &zero).expect("a twin");
        let all = (&r + product).expect("a sum");
        let want = match rows {
            Rows::All => all,
            Rows::Patches => {
                Tensor::cat(&[rows_of(&r, Rows::Class), rows_of(&all, rows)], 1).expect("rows")
            }
            Rows::Class => {
                Tensor::cat(&[rows_of(&all, rows), rows_of(&r, Rows::Patches)], 1).expect("rows")
            }
        };
        assert_near("project_add", &got, &want, 1e-5);
    }
}

#[test]
fn sections_are_those_columns_of_the_whole() {
    let (x, w) = (random("x", &[2, 5, 12]), random("w", &[3 * 12, 12]));
    let packed = Packed::new(Format::F32, &values(&w), 12, 3);
    let whole = linear::project(&x, &packed, Rows::All, Options::default()).expect("a product");
    for sections in [0..1, 1..3, 2..3] {
        let options = Options {
            sections: Some(sections.clone()),
            ..Options::default()
        };
        let got = linear::project(&x, &packed, Rows::All, options).expect("a product");
        let want = whole
            .narrow(2, sections.start * 12, sections.len() * 12)
            .expect("columns");
        assert_eq!(values(&got), values(&want));
    }
}

#[test]
fn a_row_does_not_depend_on_the_number_of_rows() {
    let (x, w) = (random("x", &[211, 50]), random("w", &[70, 50]));
    let packed = Packed::new(Format::F32, &values(&w), 50, 1);
    let project = |x: &Tensor| {
        let options = Options {
            activation: Some(Activation::QuickGelu),
            ..Options::default()
        };
        values(&linear::project(x, &packed, Rows::All, options).expect("a product"))
    };
    let whole = project(&x);
    for (first, count) in [(0, 1), (7, 5), (100, 64), (3, 208)] {
        let part = project(&x.narrow(0, first, count).expect("rows"));
        assert_eq!(part, whole[first * 70..][..count * 70]);
    }
}

fn how(heads: usize, format: Format) -> How {
    How {
        heads,
        format,
        numbers: Numbers::F32,
    }
}

pub(super) fn attention_twin(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, l, c3) = qkv.dims3()?;
    let d = c3 / 3 / heads;
    let split = qkv.reshape((n, l, 3, heads, d))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| split.narrow(0, i, 1)?.squeeze(0)?.contiguous();
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? * (1.0 / (d as f64).sqrt()))?;
    let p = candle_nn::ops::softmax(&scores, D::Minus1)?;
    p.matmul(&v)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((n, l, heads * d))
}

#[test]
fn attention_matches_candle_at_odd_sizes() {
    for (n, l, heads, d) in [
        (1, 5, 2, 7),
        (3, 17, 4, 16),
        (2, 17, 1, 32),
        (2, 50, 1, 12),
        (2, 50, 2, 64),
        (1, 197, 2, 64),
        (1, 257, 1, 32),
        (2, 1, 2, 32),
        (2, 35, 1, 96),
    ] {
        let qkv = random("qkv", &[n, l, 3 * heads * d]);
        let dy = random("dy", &[n, l, heads * d]);
        let got = attention::forward(&qkv, how(heads, Format::F32)).expect("attention");
        assert_near(
            "attention",
            &got,
            &attention_twin(&qkv, heads).expect("a twin"),
            1e-5,
        );
        let want = twin(&[&qkv], &dy, |v| attention_twin(&v[0], heads));
        let dx = attention::backward(&qkv, &dy, how(heads, Format::F32)).expect("a gradient");
        assert_near("attention's gradient", &dx, &want[0], 1e-5);
        assert_slope("attention", &qkv, &dy, &dx, |x| {
            attention::forward(x, how(heads, Format::F32))
        });
    }
}

#[test]
fn attention_of_bfloat16_is_near_that_of_floats_and_of_its_frame_alone() {
    for (n, l, heads, d) in [
        (1, 1, 1, 1),
        (1, 5, 2, 7),
        (3, 17, 4, 16),
        (2, 17, 1, 32),
        (2, 50, 1, 12),
        (2, 50, 2, 64),
        (2, 197, 2, 64),
        (3, 1, 1, 32),
        (2, 33, 2, 32),
        (2, 48, 1, 96),
        (2, 577, 1, 64),
    ] {
        let qkv = random("qkv", &[n, l, 3 * heads * d]);
        let narrow = attention::forward(&qkv, how(heads, Format::Bf16)).expect("attention");
        let floats = attention::forward(&qkv, how(heads, Format::F32)).expect("attention");
        assert_near("attention", &narrow, &floats, 1e-2);
        let last = qkv.narrow(0, n - 1, 1).expect("a frame");
        for (format, whole) in [(Format::Bf16, narrow), (Format::F32, floats)] {
            let alone = attention::forward(&last, how(heads, format)).expect("attention");
            let together = whole.narrow(0, n - 1, 1).expect("a frame");
            assert_eq!(values(&alone), values(&together));
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().expect("threads");
                let same = pool.install(|| attention::forward(&qkv, how(heads, format)));
                assert_eq!(values(&same.expect("attention")), values(&whole));
            }
        }
        let dy = random("dy", &[n, l, heads * d]);
        let back = |x: &Tensor, dy: &Tensor, format| {
            attention::backward(x, dy, how(heads, format)).expect("a gradient")
        };
        let floats = back(&qkv, &dy, Format::F32);
        let narrow = back(&qkv, &dy, Format::Bf16);
        assert_near("attention's gradient", &narrow, &floats, 2e-2);
        let alone = back(
            &last,
            &dy.narrow(0, n - 1, 1).expect("a frame"),
            Format::Bf16,
        );
        let together = narrow.narrow(0, n - 1, 1).expect("a frame");
        assert_eq!(values(&alone), values(&together));
    }
}

#[test]
fn class_attention_is_the_first_row_of_all() {
    for (n, l, heads, c) in [(3, 18, 3, 24), (2, 35, 2, 128)] {
        check_class_attention(n, l, heads, c);
    }
}

fn check_class_attention(n: usize, l: usize, heads: usize, c: usize) {
    let qkv = random("qkv", &[n, l, 3 * c]);
    let q = qkv.narrow(1, 0, 1).and_then(|q| q.narrow(2, 0, c));
    let q = q.and_then(|q| q.squeeze(1)?.contiguous()).expect("queries");
    let kv = qkv
        .narrow(2, c, 2 * c)
        .and_then(|kv| kv.contiguous())
        .expect("keys and values");
    for format in [Format::F32, Format::Bf16] {
        let got = attention::class_forward(&q, &kv, how(heads, format)).expect("attention");
        let all = attention::forward(&qkv, how(heads, format)).expect("attention");
        assert_eq!(values(&got), values(&rows_of(&all, Rows::Class)));
    }

    let dy = random("dy", &[n, c]);
    let (dq, dkv) =
        attention::class_backward(&q, &kv, &dy, how(heads, Format::F32)).expect("gradients");
    let padded = Tensor::cat(
        &[
            dy.unsqueeze(1).expect("a row"),
            Tensor::zeros((n, l - 1, c), DType::F32, &Device::Cpu).expect("zeros"),
        ],
        1,
    )
    .expect("a gradient");
    let want = attention::backward(&qkv, &padded, how(heads, Format::F32)).expect("a gradient");
    let first = rows_of(&want, Rows::Class)
        .narrow(2, 0, c)
        .expect("columns");
    assert_near("dq", &dq, &first, 1e-6);
    assert_near(
        "dkv",
        &dkv,
        &want.narrow(2, c, 2 * c).expect("columns"),
        1e-6,
    );
}

pub(super) fn norm_twin(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred
        .broadcast_div(&(variance + eps)?.sqrt()?)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

#[test]
fn norms_match_candle_at_odd_sizes() {
    for (rows, c) in [(1, 3), (19, 16), (70, 50), (300, 192)] {
        let (x, w, b) = (
            random("x", &[rows, c]),
            random("w", &[c]),
            random("b", &[c]),
        );
        let (dy, add) = (random("dy", &[rows, c]), random("add", &[rows, c]));
        let own = Norm {
            weight: values(&w),
            bias: values(&b),
            eps: 1e-5,
        };
        let want = norm_twin(&x, &w, &b, 1e-5).expect("a twin");
        assert_near(
            "norm",
            &norm::forward(&x, &own, Numbers::F32).expect("norm"),
            &want,
            1e-5,
        );
        let twins = twin(&[&x, &w, &b], &dy, |v| norm_twin(&v[0], &v[1], &v[2], 1e-5));
        let dx = norm::backward(&x, &dy, &add, &own).expect("dx");
        assert_near("dx", &dx, &(&twins[0] + &add).expect("a sum"), 1e-4);
        let both = norm::weight_gradient(&x, &dy, 1e-5).expect("gradients");
        assert_near("dw", &both.get(0).expect("a row"), &twins[1], 1e-4);
        assert_near("db", &both.get(1).expect("a row"), &twins[2], 1e-4);
    }
}

/// Computes the activation alone, as that of a product with the identity.
fn activated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let packed = Packed::new(Format::F32, &[1.0], 1, 1);
    let options = Options {
        activation: Some(activation),
        ..Options::default()
    };
    let column = x.reshape((x.elem_count(), 1))?;
    linear::project(&column, &packed, Rows::All, options)?.reshape(x.shape())
}

#[test]
fn activations_match_candle() {
    let (x, dy) = (random("x", &[3, 1001]), random("dy", &[3, 1001]));
    let x = (x * 3.0).expect("values");
    let quick = |x: &Tensor| x * candle_nn::ops::sigmoid(&(x * 1.702)?)?;
    for (activation, want) in [
        (Activation::QuickGelu, quick(&x).expect("a twin")),
        (Activation::Gelu, x.gelu_erf().expect("a twin")),
    ] {
        let got = activated(&x, activation).expect("values");
        assert_near("activation", &got, &want, 3e-7);
        let dx = gelu::backward(&x, &dy, activation, Numbers::F32).expect("a gradient");
        let twins = twin(&[&x], &dy, |v| match activation {
            Activation::QuickGelu => quick(v[0].as_tensor()),
            Activation::Gelu => v[0].gelu_erf(),
        });
        assert_near("gradient", &dx, &twins[0], 1e-6);
        assert_slope("activation", &x, &dy, &dx, |x| activated(x, activation));
    }
}

#[test]
fn a_nan_stays_a_nan() {
    let x = tensor(vec![f32::NAN; 40], (1, 2, 20)).expect("a tensor");
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        let y = values(&activated(&x, activation).expect("values"));
        assert!(y.iter().all(|y| y.is_nan()));
    }
    let qkv = tensor(vec![f32::NAN; 60], (1, 2, 30)).expect("a tensor");
    for format in [Format::F32, Format::Bf16] {
        let y = values(&attention::forward(&qkv, how(2, format)).expect("attention"));
        assert!(y.iter().all(|y| y.is_nan()));
    }
}

/// Computes the convolution by its definition, with shifted and padded copies.
pub(super) fn convolution_twin(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    extent: Extent,
) -> Result<Tensor> {
    let (frames, _, c) = x.dims3()?;
    let (t, g) = (extent.frames, extent.grid);
    let (_, _, kt, kh, kw) = weight.dims5()?;
    let mut padded = x.reshape((frames / t, t, g, g, c))?;
    for (axis, size) in [kt, kh, kw].into_iter().enumerate() {
        padded = padded.pad_with_zeros(axis + 1, size / 2, size / 2)?;
    }
    let mut y = bias.broadcast_as((frames / t, t, g, g, c))?;
    for i in 0..kt {
        for j in 0..kh {
            for k in 0..kw {
                let shifted = padded.narrow(1, i, t)?.narrow(2, j, g)?.narrow(3, k, g)?;
                let tap = weight.narrow(2, i, 1)?.narrow(3, j, 1)?.narrow(4, k, 1)?;
                y = (y + shifted.broadcast_mul(&tap.flatten_all()?)?)?;
            }
        }
    }
    y.reshape((frames, g * g, c))
}
