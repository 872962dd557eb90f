//! Tests of linear layers in every number format: against the format's arithmetic, at random shapes, with any neighbours and threads.

use proptest::prelude::*;

use crate::Activation;
use crate::ops::isa::Isa;
use crate::ops::linear::{self, Options, Rows};
use crate::ops::{Format, Packed, read, tensor};
use crate::rng::Stream;

const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::Int8];

fn random(name: &str, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(5, name);
    (0..count).map(|_| stream.normal()).collect()
}

fn project(x: &[f32], k: usize, weight: &Packed, options: Options<'_>) -> Vec<f32> {
    let x = tensor(x.to_vec(), (x.len() / k, k)).unwrap();
    let y = linear::project(&x, weight, Rows::All, options).unwrap();
    read(&y, <[f32]>::to_vec).unwrap()
}

/// Returns a row as the left operand's format represents it.
fn rounded(format: Format, row: &[f32]) -> Vec<f64> {
    let most = row.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let step = f64::from(most / 127.0);
    let value = |&x: &f32| match format {
        Format::F32 => f64::from(x),
        Format::Bf16 => half::bf16::from_f32(x).to_f64(),
        Format::Int8 if step == 0.0 => 0.0,
        Format::Int8 => (f64::from(x) / step).round_ties_even() * step,
    };
    row.iter().map(value).collect()
}

fn twin(format: Format, x: &[f32], weight: &Packed, bias: &[f32]) -> Vec<f64> {
    let (w, k) = (weight.unpacked(), weight.k());
    let mut y = Vec::new();
    for row in x.chunks_exact(k) {
        let row = rounded(format, row);
        for (w, &bias) in w.chunks_exact(k).zip(bias) {
            let products = row.iter().zip(w).map(|(x, &w)| x * f64::from(w));
            y.push(products.sum::<f64>() + f64::from(bias));
        }
    }
    y
}

fn assert_near(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(got) - want).abs() <= tolerance,
            "{i}: {got}, expected {want}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_layers_match_their_twin_at_any_shape(
        rows in 1_usize..90,
        k in 1_usize..140,
        n in 1_usize..75,
        format in 0_usize..3,
    ) {
        let format = FORMATS[format];
        let (x, w, bias) = (random("x", rows * k), random("w", n * k), random("b", n));
        let packed = Packed::new(format, &w, k, 1);
        let want = twin(format, &x, &packed, &bias);
        // A value next to a rounding boundary may be rounded to either side: one step of the row times one weight.
        let slack = if format == Format::Int8 { 0.2 } else { 1e-4 };
        for packed in Isa::ALL.iter().filter_map(|&isa| packed.clone().on(isa)) {
            let options = Options { bias: Some(&bias), ..Options::default() };
            assert_near(&project(&x, k, &packed, options), &want, slack);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours_or_on_the_threads(
        rows in 1_usize..130,
        first in 0_usize..130,
        threads in 1_usize..4,
        format in 0_usize..3,
    ) {
        let (k, n, format) = (37, 50, FORMATS[format]);
        let first = first % rows;
        let (x, w, bias) = (random("x", rows * k), random("w", n * k), random("b", n));
        let packed = Packed::new(format, &w, k, 1);
        let options = || Options {
            bias: Some(&bias),
            activation: Some(Activation::QuickGelu),
            ..Options::default()
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for packed in Isa::ALL.iter().filter_map(|&isa| packed.clone().on(isa)) {
            let whole = pool.install(|| project(&x, k, &packed, options()));
            let part = project(&x[first * k..], k, &packed, options());
            prop_assert_eq!(&part, &whole[first * n..]);
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (rows, n) = (14, 20);
    for (format, k) in FORMATS.iter().flat_map(|&of| [(of, 33), (of, 64)]) {
        let packed = Packed::new(format, &random("w", n * k), k, 1);
        let clean = random("x", rows * k);
        let before = project(&clean, k, &packed, Options::default());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = clean.clone();
            x[5 * k + 32] = bad;
            let after = project(&x, k, &packed, Options::default());
            for (i, (before, after)) in before.chunks(n).zip(after.chunks(n)).enumerate() {
                if i == 5 {
                    assert!(after.iter().all(|y| !y.is_finite()), "{format:?} {bad}");
                } else {
                    assert_eq!(before, after);
                }
            }
        }
    }
}

#[test]
fn the_backward_of_every_format_is_the_transposed_product() {
    let (rows, k, n) = (9, 21, 3 * 18);
    for format in FORMATS {
        let packed = Packed::new(format, &random("w", n * k), k, 3);
        let dy = random("dy", rows * n);
        let transposed = packed.transposed(0..3);
        let got = project(&dy, n, &transposed, Options::default());
        let zeros = vec![0.0; k];
        let want = twin(transposed.format(), &dy, &transposed, &zeros);
        assert_near(&got, &want, 1e-4);
        let direct: Vec<f64> = (0..rows * k)
            .map(|at| {
                let (row, column) = (&dy[at / k * n..][..n], at % k);
                let w = packed.unpacked();
                let products = row.iter().enumerate();
                products
                    .map(|(i, dy)| f64::from(*dy) * f64::from(w[i * k + column]))
                    .sum()
            })
            .collect();
        let slack = if format == Format::F32 { 1e-4 } else { 0.2 };
        assert_near(&got, &direct, slack);
    }
}
