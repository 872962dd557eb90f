//! Tests of rows of integers: who makes them changes no bit of them, nor of any product.

use candle_core::{DType, Tensor};

use super::{random, values};
use crate::Activation;
use crate::ops::integers::of;
use crate::ops::isa::Isa;
use crate::ops::linear::{self, Options, Rows};
use crate::ops::norm::{self, Norm};
use crate::ops::{Form, Format, Numbers, Packed};

fn words(x: &Tensor) -> Vec<u32> {
    assert_eq!(x.dtype(), DType::U32);
    x.flatten_all()
        .and_then(|x| x.to_vec1())
        .expect("rows of integers")
}

/// Returns the bits, so that NaN equals itself.
fn bits(x: &Tensor) -> Vec<u32> {
    let x = x.to_dtype(DType::F32).expect("floats");
    values(&x).into_iter().map(f32::to_bits).collect()
}

fn on_all(weight: &[f32], k: usize, sections: usize) -> Vec<Packed> {
    let packed = Packed::new(Format::Int8, weight, k, sections);
    let sets = Isa::ALL.iter();
    sets.filter_map(|&isa| packed.clone().on(isa)).collect()
}

fn in_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().expect("threads").install(f)
}

#[test]
fn a_norm_writes_the_integers_that_a_product_makes_of_its_floats() {
    for (n, l, c) in [
        (1, 1, 1),
        (2, 5, 7),
        (3, 19, 64),
        (1, 40, 100),
        (2, 17, 768),
    ] {
        let x = random("x", &[n, l, c]);
        let norm = Norm {
            weight: values(&random("w", &[c])),
            bias: values(&random("b", &[c])),
            eps: 1e-5,
        };
        let floats = norm::forward(&x, &norm, Numbers::F32).expect("a norm");
        let want = of(&floats).expect("integers");
        for threads in [1, 3] {
            let got = in_threads(threads, || norm::forward(&x, &norm, Form::Integers));
            let got = got.expect("a norm");
            assert_eq!(got.dims(), want.dims());
            assert_eq!(words(&got), words(&want), "{n} {l} {c}");
        }
    }
}

#[test]
fn a_product_of_integers_has_the_bits_of_the_product_of_floats() {
    for (n, l, k, out, sections) in [
        (1, 1, 1, 3, 1),
        (2, 5, 7, 33, 3),
        (2, 17, 64, 48, 3),
        (3, 33, 100, 50, 1),
        (1, 131, 768, 96, 1),
        (2, 30, 3072, 40, 1),
    ] {
        let mut floats = values(&random("x", &[n, l, k]));
        // A row without a scale.
        floats[(l / 2) * k] = f32::NAN;
        let x = Tensor::from_vec(floats, (n, l, k), &candle_core::Device::Cpu).expect("x");
        let integers = of(&x).expect("integers");
        let bias = values(&random("b", &[out]));
        for packed in on_all(&values(&random("w", &[out, k])), k, sections) {
            let name = packed.kernel().name();
            for rows in [Rows::All, Rows::Patches, Rows::Class] {
                if rows == Rows::Patches && l == 1 {
                    continue;
                }
                for numbers in [Numbers::F32, Numbers::Bf16] {
                    let project = |x: &Tensor| {
                        let options = Options {
                            bias: Some(&bias),
                            activation: Some(Activation::QuickGelu),
                            sections: Some(sections - 1..sections),
                            numbers,
                        };
                        bits(&linear::project(x, &packed, rows, options).expect("a product"))
                    };
                    let want = project(&x);
                    assert_eq!(project(&integers), want, "{name} {rows:?} {k}");
                    for threads in [1, 3] {
                        assert_eq!(in_threads(threads, || project(&integers)), want);
                    }
                }
            }
            let residual = random("r", &[n, l, out]);
            let add = |x: &Tensor| {
                let sum = linear::project_add(x, &residual, &packed, Rows::All, Some(&bias));
                bits(&sum.expect("a sum"))
            };
            assert_eq!(add(&integers), add(&x), "{name} {k}");
        }
    }
}

#[test]
fn a_row_of_integers_does_not_depend_on_its_neighbours() {
    let (rows, k, n) = (150, 128, 40);
    let x = of(&random("x", &[rows, k])).expect("integers");
    for packed in on_all(&values(&random("w", &[n, k])), k, 1) {
        let project = |x: &Tensor| {
            let y = linear::project(x, &packed, Rows::All, Options::default());
            values(&y.expect("a product"))
        };
        let whole = project(&x);
        for (first, count) in [(0, 1), (1, 31), (5, 33), (17, rows - 17)] {
            let part = project(&x.narrow(0, first, count).expect("rows"));
            assert_eq!(part, whole[first * n..(first + count) * n]);
        }
    }
}

#[test]
fn a_product_ends_as_the_integers_of_its_floats() {
    // Many rows are encoded unit by unit, few after all columns are there.
    for (n, l, k, out) in [
        (1, 1, 64, 17),
        (1, 8, 64, 200),
        (2, 197, 64, 150),
        (3, 33, 50, 33),
    ] {
        let x = random("x", &[n, l, k]);
        let bias = values(&random("b", &[out]));
        let weight = values(&random("w", &[out, k]));
        for packed in on_all(&weight, k, 1) {
            let options = |numbers| Options {
                bias: Some(&bias),
                activation: Some(Activation::Gelu),
                sections: None,
                numbers,
            };
            let plain = options(Numbers::F32);
            let floats = linear::project(&x, &packed, Rows::All, plain).expect("a product");
            let want = of(&floats).expect("integers");
            for x in [x.clone(), of(&x).expect("integers")] {
                for (before, threads) in [
                    (None, 1),
                    (None, 3),
                    (Some(Numbers::F32), 2),
                    (Some(Numbers::Bf16), 1),
                ] {
                    let (first, y) = in_threads(threads, || {
                        linear::project_integers(&x, &packed, options(Numbers::F32), before)
                    })
                    .expect("a product");
                    let what = format!("{} {n} {l} {k} {out} {before:?}", packed.kernel().name());
                    assert_eq!(y.dims(), want.dims(), "{what}");
                    assert_eq!(words(&y), words(&want), "{what}");
                    assert_eq!(first.is_some(), before.is_some());
                    if let (Some(first), Some(numbers)) = (first, before) {
                        let both = linear::project_both(&x, &packed, plain_of(&bias), numbers);
                        assert_eq!(bits(&first), bits(&both.expect("products").0), "{what}");
                    }
                }
            }
        }
    }
}

fn plain_of(bias: &[f32]) -> Options<'_> {
    Options {
        bias: Some(bias),
        activation: Some(Activation::Gelu),
        ..Options::default()
    }
}

#[test]
fn only_products_with_integers_read_them() {
    let x = of(&random("x", &[3, 64])).expect("integers");
    for format in [Format::F32, Format::Bf16] {
        let packed = Packed::new(format, &values(&random("w", &[5, 64])), 64, 1);
        let error = linear::project(&x, &packed, Rows::All, Options::default());
        assert!(error.is_err());
    }
    let packed = Packed::new(Format::Int8, &values(&random("w", &[5, 60])), 60, 1);
    assert!(linear::project(&x, &packed, Rows::All, Options::default()).is_ok());
    let packed = Packed::new(Format::Int8, &values(&random("w", &[5, 80])), 80, 1);
    assert!(linear::project(&x, &packed, Rows::All, Options::default()).is_err());
}
