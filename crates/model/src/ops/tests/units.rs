//! Tests of products whose sums are whole steps of every instruction set, which some sets compute with their epilogues by themselves.

use candle_core::{DType, Tensor};

use crate::Activation;
use crate::ops::isa::Isa;
use crate::ops::linear::{self, Options, Rows};
use crate::ops::{Format, Numbers, Packed, read, tensor};
use crate::rng::Stream;

const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::Int8];

fn random(name: &str, shape: &[usize]) -> Tensor {
    let mut stream = Stream::new(6, name);
    let values = (0..shape.iter().product())
        .map(|_| stream.normal())
        .collect();
    tensor(values, shape).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    read(&x.to_dtype(DType::F32).unwrap(), <[f32]>::to_vec).unwrap()
}

/// The same weights on every instruction set that this CPU has, plain loops last.
fn on_all(packed: &Packed) -> Vec<Packed> {
    let sets = Isa::ALL.iter();
    sets.filter_map(|&isa| packed.clone().on(isa)).collect()
}

fn assert_near(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (values(got), values(want));
    let most = want.iter().fold(1.0, |most: f32, x| most.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= tolerance * most, "{what}, {i}: {got}, not {want}");
    }
}

/// Frames, tokens, numbers of a row, columns and sections.
const SHAPES: [(usize, usize, usize, usize, usize); 6] = [
    (1, 2, 64, 15, 1),
    (2, 17, 64, 3 * 20, 3),
    (1, 33, 128, 48, 3),
    (3, 31, 192, 50, 1),
    (1, 70, 768, 96, 1),
    (2, 40, 3072, 33, 1),
];

#[test]
fn every_instruction_set_gives_the_same_layer() {
    for (frames, tokens, k, n, sections) in SHAPES {
        for format in FORMATS {
            let x = random("x", &[frames, tokens, k]);
            let weight = values(&random("w", &[n, k]));
            let bias = values(&random("b", &[n]));
            let all = on_all(&Packed::new(format, &weight, k, sections));
            let plain = &all[all.len() - 1];
            for (rows, activation, used) in [
                (Rows::All, None, 0..sections),
                (Rows::All, Some(Activation::QuickGelu), 0..sections),
                (Rows::Patches, Some(Activation::Gelu), 0..sections),
                (Rows::Class, None, sections - 1..sections),
            ] {
                for (reads, numbers) in [
                    (Numbers::read_by(format), Numbers::F32),
                    (Numbers::F32, Numbers::Bf16),
                ] {
                    let x = x.to_dtype(reads.dtype()).unwrap();
                    let options = || Options {
                        bias: Some(&bias),
                        activation,
                        sections: Some(used.clone()),
                        numbers,
                    };
                    let want = linear::project(&x, plain, rows, options()).unwrap();
                    // One rounding to bfloat16 may go the other way.
                    let tolerance = if numbers == Numbers::F32 { 1e-5 } else { 8e-3 };
                    for packed in &all {
                        let got = linear::project(&x, packed, rows, options()).unwrap();
                        let name = packed.kernel().name();
                        let what = format!("{name} {format:?} {rows:?} {k} {n} {activation:?}");
                        assert_near(&what, &got, &want, tolerance);
                    }
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_adds_the_same_residual() {
    for (frames, tokens, k, n, _) in SHAPES {
        for format in FORMATS {
            let residual = random("r", &[frames, tokens, n]);
            let weight = values(&random("w", &[n, k]));
            let bias = values(&random("b", &[n]));
            let all = on_all(&Packed::new(format, &weight, k, 1));
            for (rows, count) in [
                (Rows::All, frames * tokens),
                (Rows::Patches, frames * (tokens - 1)),
            ] {
                let x = random("x", &[count, k]);
                let add = |packed: &Packed| {
                    linear::project_add(&x, &residual, packed, rows, Some(&bias)).unwrap()
                };
                let want = add(&all[all.len() - 1]);
                for packed in &all {
                    let what = format!("{} {format:?} {rows:?} {k} {n}", packed.kernel().name());
                    assert_near(&what, &add(packed), &want, 1e-5);
                }
            }
        }
    }
}

#[test]
fn values_before_the_activation_are_those_of_a_layer_without_one() {
    let (rows, k, n) = (45, 128, 70);
    for format in FORMATS {
        let x = random("x", &[rows, k]);
        let weight = values(&random("w", &[n, k]));
        let bias = values(&random("b", &[n]));
        for packed in on_all(&Packed::new(format, &weight, k, 1)) {
            for numbers in [Numbers::F32, Numbers::Bf16] {
                let options = |activation| Options {
                    bias: Some(&bias),
                    activation,
                    sections: None,
                    numbers,
                };
                let act = Some(Activation::QuickGelu);
                let (before, y) = linear::project_both(&x, &packed, options(act), numbers).unwrap();
                let plain = linear::project(&x, &packed, Rows::All, options(None)).unwrap();
                let after = linear::project(&x, &packed, Rows::All, options(act)).unwrap();
                assert_eq!(values(&before), values(&plain));
                assert_eq!(values(&y), values(&after));
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_its_neighbours_the_threads_and_its_format() {
    for (rows, k, n) in [(83, 64, 50), (230, 128, 40), (150, 3072, 96)] {
        for format in FORMATS {
            let narrow = Numbers::read_by(format).dtype();
            let x = random("x", &[rows, k]).to_dtype(narrow).unwrap();
            let weight = values(&random("w", &[n, k]));
            let bias = values(&random("b", &[n]));
            let options = || Options {
                bias: Some(&bias),
                activation: Some(Activation::Gelu),
                ..Options::default()
            };
            for packed in on_all(&Packed::new(format, &weight, k, 1)) {
                let project = |x: &Tensor| {
                    values(&linear::project(x, &packed, Rows::All, options()).unwrap())
                };
                let whole = project(&x);
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    let pool = pool.build().unwrap();
                    assert_eq!(pool.install(|| project(&x)), whole);
                }
                for (first, count) in [(0, 1), (1, 31), (5, 33), (17, rows - 17)] {
                    let part = project(&x.narrow(0, first, count).unwrap());
                    assert_eq!(part, whole[first * n..(first + count) * n]);
                }
                // Floats that are bfloat16 already are encoded to the words that are read in place.
                let floats = x.to_dtype(DType::F32).unwrap();
                assert_eq!(project(&floats), whole);
            }
        }
    }
}
