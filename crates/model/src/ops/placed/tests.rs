//! Tests of the walk's operations in the place that `FRAMESHIFT_TEST_DEVICE` names (`cuda`; the host without it), against plain candle.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};

use super::adamw::{Factors, Own, sum_of_squares, update};
use super::attention::{self, How};
use super::embed::{self, Cut, Picture};
use super::linear::{self, Each, Options, Rows};
use super::norm::{self, Norm};
use super::{Array, Depthwise, Matrix, Onto, Vector, activation, columns, pool, rows};
use super::{Place, weight_gradient};
use crate::Activation;
use crate::ops::depthwise::Extent;
use crate::ops::tests::{
    assert_near, attention_twin, convolution_twin, linear_twin, norm_twin, random, rows_of, twin,
    values,
};
use crate::ops::{Format, Numbers};

/// Returns the place that the environment names; one for all tests of the process, since a GPU is opened once.
pub(crate) fn place() -> Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let open = || match std::env::var_os("FRAMESHIFT_TEST_DEVICE") {
        Some(_) => Place::cuda(0).expect("a GPU"),
        None => Place::Host,
    };
    PLACE.get_or_init(open).clone()
}

fn there(x: &Tensor) -> Array {
    Array::Host(x.clone()).to(&place()).expect("an array")
}

/// Returns an array rounded to bfloat16.
fn rounded(x: &Array) -> Array {
    x.cast(Numbers::Bf16).expect("bfloat16")
}

fn home(x: &Array) -> Tensor {
    let host = x.host().expect("values");
    host.to_dtype(DType::F32).expect("floats")
}

fn bits(x: &Array) -> Vec<u32> {
    values(&home(x)).iter().map(|x| x.to_bits()).collect()
}

fn matrix(weight: &Tensor, k: usize, sections: usize, format: Format) -> Matrix {
    Matrix::new(&values(weight), (k, sections), format, &place()).expect("a matrix")
}

fn vector(values_of: &Tensor) -> Vector {
    Vector::new(values(values_of), &place()).expect("a vector")
}

/// Formats, with the tolerance of results that were rounded once more.
const FORMATS: [(Format, f32); 2] = [(Format::F32, 2e-5), (Format::Bf16, 2e-2)];

#[test]
fn layers_are_those_of_candle_in_every_place() {
    for (n, l, k, out) in [
        (1, 5, 8, 32),
        (3, 17, 48, 56),
        (2, 50, 24, 16),
        (2, 3, 136, 136),
    ] {
        for (format, tolerance) in FORMATS {
            let (x, w, b) = (
                random("x", &[n, l, k]),
                random("w", &[out, k]),
                random("b", &[out]),
            );
            let (own, bias) = (matrix(&w, k, 1, format), vector(&b));
            for rows in [Rows::All, Rows::Patches, Rows::Class] {
                let taken = rows_of(&x, rows);
                let options = Options {
                    bias: Some(&bias),
                    ..Options::default()
                };
                let got = linear::project(&there(&x), &own, rows, options).expect("a product");
                let want = linear_twin(&taken, &w, &b).expect("a twin");
                let want = want.reshape(got.dims()).expect("rows");
                assert_near("project", &home(&got), &want, tolerance);

                let dy = random("dy", &[n, l, out]);
                let zero = Tensor::zeros(k, DType::F32, dy.device()).expect("zeros");
                let back = own.transposed(0..1);
                let dx = linear::project(&there(&dy), &back, rows, Options::default());
                let dx = dx.expect("dx");
                let transposed = w.t().and_then(|w| w.contiguous()).expect("a matrix");
                let want = linear_twin(&rows_of(&dy, rows), &transposed, &zero).expect("a twin");
                let want = want.reshape(dx.dims()).expect("rows");
                assert_near("dx", &home(&dx), &want, tolerance);

                // What is added to some rows of a residual leaves the others.
                let r = random("r", &[n, l, out]);
                let part = there(&taken.contiguous().expect("rows"));
                let sum = linear::project_add(&part, &there(&r), &own, rows, Some(&bias));
                let sum = home(&sum.expect("a sum"));
                let all = (linear_twin(&x, &w, &b).expect("a twin") + &r).expect("a sum");
                let taken = |of: &Tensor| rows_of(of, rows).contiguous().expect("rows");
                assert_near("sum", &taken(&sum), &taken(&all), tolerance);
                if rows == Rows::Patches {
                    let class = |of: &Tensor| rows_of(of, Rows::Class).contiguous().expect("rows");
                    assert_eq!(values(&class(&sum)), values(&class(&r)));
                }
            }
        }
    }
}

#[test]
fn sections_and_activations_are_parts_of_a_layer_in_every_place() {
    let (x, w, b) = (
        random("x", &[9, 24]),
        random("w", &[72, 24]),
        random("b", &[72]),
    );
    for (format, tolerance) in FORMATS {
        let (own, bias) = (matrix(&w, 24, 3, format), vector(&b));
        let options = |sections, activation| Options {
            bias: Some(&bias),
            activation,
            sections,
            numbers: Numbers::F32,
            apart: false,
        };
        let x = there(&x);
        let project = |sections| {
            let options = options(Some(sections), None);
            home(&linear::project(&x, &own, Rows::All, options).expect("a product"))
        };
        let whole = project(0..3);
        for sections in [0..1, 1..3] {
            let part = whole.narrow(1, sections.start * 24, sections.len() * 24);
            let part = part.and_then(|part| part.contiguous()).expect("columns");
            assert_near("section", &project(sections), &part, 1e-6);
        }
        for act in [Activation::QuickGelu, Activation::Gelu] {
            let options = options(None, Some(act));
            let both = linear::project_both(&x, &own, options, Numbers::F32).expect("both");
            assert_near("before", &home(&both.0), &whole, 1e-6);
            let want = match act {
                Activation::QuickGelu => (&whole * 1.702)
                    .and_then(|x| candle_nn::ops::sigmoid(&x))
                    .and_then(|s| &whole * s),
                Activation::Gelu => whole.gelu_erf(),
            };
            assert_near("after", &home(&both.1), &want.expect("a twin"), tolerance);
            let dy = random("dy", &[9, 72]);
            let want = twin(&[&whole], &dy, |v| match act {
                Activation::QuickGelu => {
                    v[0].as_tensor() * candle_nn::ops::sigmoid(&(v[0].as_tensor() * 1.702)?)?
                }
                Activation::Gelu => v[0].gelu_erf(),
            });
            let dx = activation::backward(&there(&whole), &there(&dy), act, Numbers::F32);
            assert_near("gradient", &home(&dx.expect("dx")), &want[0], 1e-5);
        }
    }
}

#[test]
fn norms_are_those_of_candle_in_every_place() {
    for (rows, c) in [(1, 3), (19, 16), (70, 50), (33, 192), (5, 768), (3, 1664)] {
        let (x, w, b) = (
            random("x", &[rows, c]),
            random("w", &[c]),
            random("b", &[c]),
        );
        let (dy, add) = (random("dy", &[rows, c]), random("add", &[rows, c]));
        let own = Norm::new(values(&w), values(&b), 1e-5, &place()).expect("a norm");
        let (of_x, of_dy) = (there(&x), there(&dy));
        let want = norm_twin(&x, &w, &b, 1e-5).expect("a twin");
        for (numbers, tolerance) in [(Numbers::F32, 1e-5), (Numbers::Bf16, 8e-3)] {
            let got = norm::forward(&of_x, &own, numbers).expect("a norm");
            assert_near("norm", &home(&got), &want, tolerance);
        }
        let twins = twin(&[&x, &w, &b], &dy, |v| norm_twin(&v[0], &v[1], &v[2], 1e-5));
        let dx = norm::backward(&of_x, &of_dy, &there(&add), &own).expect("dx");
        assert_near("dx", &home(&dx), &(&twins[0] + &add).expect("a sum"), 1e-4);
        let both = norm::weight_gradient(&of_x, &of_dy, &own).expect("gradients");
        assert_near("dw", &home(&both.get(0).expect("a row")), &twins[1], 1e-4);
        assert_near("db", &home(&both.get(1).expect("a row")), &twins[2], 1e-4);
    }
}

#[test]
fn attention_is_that_of_candle_in_every_place() {
    for (n, l, heads, d) in [
        (1, 1, 1, 8),
        (1, 5, 2, 7),
        (3, 17, 2, 16),
        (2, 50, 1, 12),
        (2, 65, 2, 64),
    ] {
        let (qkv, dy) = (
            random("qkv", &[n, l, 3 * heads * d]),
            random("dy", &[n, l, heads * d]),
        );
        for (format, tolerance) in FORMATS {
            let numbers = Numbers::beside(format);
            let how = How {
                heads,
                format,
                numbers,
            };
            let of_qkv = match numbers {
                Numbers::F32 => there(&qkv),
                Numbers::Bf16 => rounded(&there(&qkv)),
            };
            let exact = home(&of_qkv);
            let (got, trace) = attention::forward(&of_qkv, how).expect("attention");
            let want = attention_twin(&exact, heads).expect("a twin");
            assert_near("attention", &home(&got), &want, tolerance);
            let want = twin(&[&exact], &dy, |v| attention_twin(&v[0], heads));
            let dx = attention::backward(&of_qkv, &trace, &there(&dy), how).expect("a gradient");
            assert_near("its gradient", &home(&dx), &want[0], tolerance);
            // A frame depends on that frame.
            let last = of_qkv.rows(n - 1..n).expect("a frame");
            let (alone, _) = attention::forward(&last, how).expect("attention");
            assert_eq!(bits(&alone), bits(&got.rows(n - 1..n).expect("a frame")));
        }
    }
}

#[test]
fn class_attention_is_that_of_the_first_rows_in_every_place() {
    let (n, l, heads, c) = (3, 18, 3, 24);
    let how = How {
        heads,
        format: Format::F32,
        numbers: Numbers::F32,
    };
    let qkv = random("qkv", &[n, l, 3 * c]);
    let part = |x: &Tensor, at, len| {
        x.narrow(2, at, len)
            .and_then(|x| x.contiguous())
            .expect("columns")
    };
    let q = there(
        &rows_of(&part(&qkv, 0, c), Rows::Class)
            .contiguous()
            .expect("rows"),
    );
    let q = q.reshape((n, c)).expect("queries");
    let kv = there(&part(&qkv, c, 2 * c));
    let got = attention::class_forward(&q, &kv, how).expect("attention");
    let all = attention_twin(&qkv, heads).expect("a twin");
    let want = rows_of(&all, Rows::Class).contiguous().expect("rows");
    assert_near("attention", &home(&got), &want, 1e-5);
    let dy = random("dy", &[n, c]);
    let padded = home(&rows::only_class(&there(&dy), l).expect("tokens"));
    let want = twin(&[&qkv], &padded, |v| attention_twin(&v[0], heads));
    let both = attention::class_backward(&q, &kv, &there(&dy), how);
    let (dq, dkv) = both.expect("gradients");
    let first = rows_of(&part(&want[0], 0, c), Rows::Class)
        .contiguous()
        .expect("rows");
    assert_near("dq", &home(&dq), &first, 1e-5);
    assert_near("dkv", &home(&dkv), &part(&want[0], c, 2 * c), 1e-5);
}

#[test]
fn convolutions_are_those_of_candle_for_any_odd_kernel_in_every_place() {
    for (clips, frames, grid, c, kernel) in [
        (2, 4, 3, 5, [3, 1, 1]),
        (2, 4, 3, 16, [3, 1, 1]),
        (1, 1, 2, 17, [3, 1, 1]),
        (2, 3, 4, 8, [3, 3, 3]),
        (1, 5, 3, 33, [5, 1, 3]),
        (2, 2, 2, 4, [7, 5, 5]),
        (1, 3, 2, 6, [1, 1, 1]),
    ] {
        let extent = Extent { frames, grid };
        let [kt, kh, kw] = kernel;
        let shape = [clips * frames, grid * grid, c];
        let (x, dy) = (random("x", &shape), random("dy", &shape));
        let (w, b) = (random("w", &[c, 1, kt, kh, kw]), random("b", &[c]));
        let own = Depthwise::new(
            &Array::Host(w.clone()),
            &Array::Host(b.clone()),
            kernel,
            &place(),
        );
        let own = own.expect("a convolution");
        let (weight, bias) = own.unpacked().expect("weights");
        assert_eq!((weight, bias), (values(&w), values(&b)));
        let want = convolution_twin(&x, &w, &b, extent).expect("a twin");
        let got = own
            .forward(&there(&x), extent, Numbers::F32)
            .expect("values");
        assert_near("convolution", &home(&got), &want, 1e-5);
        let twins = twin(&[&x, &w, &b], &dy, |v| {
            convolution_twin(&v[0], &v[1], &v[2], extent)
        });
        let dx = own.backward(&there(&dy), extent).expect("dx");
        assert_near("dx", &home(&dx), &twins[0], 1e-5);
        let sums = own.weight_gradient(&there(&x), &there(&dy), extent, None);
        let (dw, db) = sums.expect("gradients");
        assert_eq!(dw.dims(), w.dims());
        assert_near("dw", &home(&dw), &twins[1], 1e-5);
        assert_near("db", &home(&db), &twins[2], 1e-5);
        let more = own.weight_gradient(&there(&x), &there(&dy), extent, Some((&dw, &db)));
        let (more, _) = more.expect("gradients");
        assert_near(
            "twice",
            &home(&more),
            &(&twins[1] * 2.0).expect("twice"),
            1e-5,
        );
    }
}

#[test]
fn segments_are_each_alone_by_the_bit_in_every_place() {
    let (n, l, k, width) = (7, 5, 16, 24);
    let (x, r) = (
        there(&random("x", &[n, l, k])),
        there(&random("r", &[n, l, k])),
    );
    for (format, _) in FORMATS {
        let down: Vec<Matrix> = ["a", "b"]
            .map(|name| matrix(&random(name, &[width, k]), k, 1, format))
            .into();
        let up = matrix(&random("c", &[k, width]), width, 1, format);
        let (b, c) = (vector(&random("d", &[width])), vector(&random("e", &[k])));
        let each = |frames: std::ops::Range<usize>, weight, bias| Each {
            frames,
            weight,
            bias: Some(bias),
        };
        let parts = [each(0..2, &down[0], &b), each(3..7, &down[1], &b)];
        let narrow = linear::project_each(&x, &parts).expect("products");
        let ups = [each(0..2, &up, &c), each(3..7, &up, &c)];
        let sum = linear::project_add_each(&narrow, &r, &ups).expect("a sum");
        for (part, frames) in [0..2, 3..7].into_iter().enumerate() {
            let alone = x.rows(frames.clone()).expect("frames");
            let own = [each(0..frames.len(), &down[part], &b)];
            let own = linear::project_each(&alone, &own).expect("a product");
            assert_eq!(bits(&own[0]), bits(&narrow[part]));
            let residual = r.rows(frames.clone()).expect("frames");
            let ups = [each(0..frames.len(), &up, &c)];
            let own = linear::project_add_each(&own, &residual, &ups).expect("a sum");
            assert_eq!(bits(&own), bits(&sum.rows(frames).expect("frames")));
        }
        // A frame of no segment is unchanged.
        let frame = |x: &Array| bits(&x.rows(2..3).expect("a frame"));
        assert_eq!(frame(&sum), frame(&r));
    }
}

#[test]
fn sums_over_rows_go_on_where_earlier_clips_ended_in_every_place() {
    // A clip has an odd number of rows, so that a word of two rows would hold rows of two clips.
    let (clips, frames, l, n, k) = (3, 3, 6, 16, 24);
    let (x, dy) = (
        random("x", &[clips * frames, l, k]),
        random("dy", &[clips * frames, l - 1, n]),
    );
    let (of_x, of_dy) = (there(&x), there(&dy));
    let clip = frames * (l - 1);
    let onto = |earlier| Onto { clip, earlier };
    for (format, tolerance) in [(Format::F32, 2e-5), (Format::Bf16, 2e-2)] {
        let both = |frames: std::ops::Range<usize>, earlier: [Option<Array>; 2]| {
            let [first, second] = earlier;
            let x = of_x.rows(frames.clone()).expect("frames");
            let dy = of_dy.rows(frames).expect("frames");
            let (x, dy) = ((&x, Rows::Patches), (&dy, Rows::All));
            let weight = weight_gradient(x, dy, &onto(first), format).expect("a gradient");
            (
                weight,
                columns(dy.0, Rows::All, &onto(second)).expect("sums"),
            )
        };
        let (whole, sums) = both(0..9, [None, None]);
        let (first, begun) = both(0..3, [None, None]);
        let (divided, ended) = both(3..9, [Some(first), Some(begun)]);
        assert_eq!(bits(&whole), bits(&divided));
        assert_eq!(bits(&sums), bits(&ended));
        let taken = rows_of(&x, Rows::Patches).reshape(((), k)).expect("rows");
        let flat = dy.reshape(((), n)).expect("rows");
        let want = flat
            .t()
            .and_then(|dy| dy.contiguous()?.matmul(&taken))
            .expect("a twin");
        assert_near("dw", &home(&whole), &want, tolerance);
        assert_near("db", &home(&sums), &flat.sum(0).expect("a twin"), 2e-5);
    }
}

#[test]
fn pictures_and_clips_are_the_same_in_every_place() {
    let cut = Cut {
        grid: 3,
        side: 12,
        patch: 4,
    };
    let images = values(&random("images", &[2, 3, 144]));
    let pictures: Vec<Picture<'_>> = images
        .chunks_exact(432)
        .map(|values| Picture {
            values,
            channel: 144,
        })
        .collect();
    let patches = embed::patches(&pictures, cut, Numbers::F32, &place()).expect("patches");
    let plain = embed::patches(&pictures, cut, Numbers::F32, &Place::Host).expect("patches");
    assert_eq!(bits(&patches), bits(&plain));
    let (w, base) = (random("w", &[16, 48]), random("base", &[10, 16]));
    let own = matrix(&w, 48, 1, Format::F32);
    let got = embed::embed(&patches, &vector(&base), &own, None).expect("embeddings");
    let zero = Tensor::zeros(16, DType::F32, w.device()).expect("zeros");
    let product = linear_twin(&home(&plain), &w, &zero).expect("a twin");
    let base = base
        .unsqueeze(0)
        .and_then(|base| base.repeat((2, 1, 1)))
        .expect("embeddings");
    let got = home(&got);
    assert_eq!(
        values(&rows_of(&got, Rows::Class).contiguous().expect("rows")),
        values(&rows_of(&base, Rows::Class).contiguous().expect("rows"))
    );
    let want = (product + rows_of(&base, Rows::Patches)).expect("a sum");
    let got = rows_of(&got, Rows::Patches).contiguous().expect("rows");
    assert_near("embeddings", &got, &want, 1e-5);

    let (tokens, frames) = (random("tokens", &[9, 4, 20]), [2, 4, 3]);
    let class = rows::class(&there(&tokens)).expect("class tokens");
    let host = rows_of(&tokens, Rows::Class)
        .reshape((9, 20))
        .expect("rows");
    assert_eq!(values(&home(&class)), values(&host));
    let plain = Array::Host(host.contiguous().expect("rows"));
    let means = pool::means(&class, &frames).expect("means");
    assert_near(
        "means",
        &home(&means),
        &home(&pool::means(&plain, &frames).expect("means")),
        1e-6,
    );
    let back = pool::spread(&means, &frames).expect("a gradient");
    let want = pool::spread(&Array::Host(home(&means)), &frames).expect("a gradient");
    assert_near("spread", &home(&back), &home(&want), 1e-6);
    let chosen = rows::gathered(&class, &[4..6, 0..1, 4..5]).expect("rows");
    let want = rows::gathered(&plain, &[4..6, 0..1, 4..5]).expect("rows");
    assert_eq!(bits(&chosen), bits(&want));
}

#[test]
fn an_update_is_the_hosts_in_every_place() {
    let count = 70_000;
    let names = ["weights", "gradients", "first", "second"];
    let all = names.map(|name| random(name, &[count]).abs().expect("values"));
    let own = [(0..40_000, 0.9), (40_000..69_990, 1.0)].map(|(range, keep)| Own { range, keep });
    let factors = Factors {
        first: [0.9, 0.1],
        second: [0.999, 0.001],
        scale: 0.5,
        rate: 0.01,
        root: 0.7,
        eps: 1e-8,
    };
    let run = |place: &Place| {
        let arrays = all.clone().map(|x| {
            // Buffers are changed in place.
            let own = x.copy().expect("a copy");
            Array::Host(own).to(place).expect("an array")
        });
        let [w, g, m, v] = &arrays;
        let ranges = own.each_ref().map(|own| own.range.clone());
        let squares = sum_of_squares(g, &ranges).expect("a sum");
        update(w, g, [m, v], &own, factors).expect("an update");
        (squares, [home(w), home(m), home(v)])
    };
    let (squares, got) = run(&place());
    let (_, want) = run(&Place::Host);
    for (got, want) in got.iter().zip(&want) {
        let part = |x: &Tensor| x.narrow(0, 0, 69_990).expect("weights");
        assert_near("update", &part(got), &part(want), 1e-6);
    }
    let exact: f64 = values(&all[1])[..69_990]
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum();
    assert!(
        (squares / exact - 1.0).abs() < 1e-3,
        "{squares}, not {exact}"
    );
}
