//! Comparison of a device with the host: every operation of the walk on random data, at the sizes of a backbone.
//!
//! Invariant: a device computes for nobody before each operation has given here what the host gives, to the rounding of the number format; an operation that does
//! not is named.

mod cases;

use std::sync::Arc;

use candle_core::{DType, Result};

use self::cases::{CASES, Case, Sizes};
use super::gpu::Gpu;
use super::trial::repeats;
use super::{Matrix, Tensor, grouped};
use crate::BackboneConfig;
use crate::ops::failure::{Failure, Unusable};
use crate::ops::placed::Array;
use crate::ops::{Format, Numbers, Place};
use crate::spec::Precision;

/// Largest distance of a result from the host's, relative to its length, and 32 times that for a single number relative to their mean size. A few roundings to
/// bfloat16 are 3e-3; a wrong layout, mask or index is of the order of 1.
pub(super) fn bound(format: Format) -> f64 {
    match format {
        Format::Bf16 => 1.5e-2,
        Format::F32 | Format::Int8 => 1e-4,
    }
}

/// Compares all operations in a place with the host's, for a backbone of this shape in this precision.
///
/// # Errors
/// [`Unusable::Wrong`] with the first operation that differs; when the place does not compute in this precision, or fails.
pub(crate) fn run(
    config: &BackboneConfig,
    precision: Precision,
    place: &Place,
) -> std::result::Result<(), Unusable> {
    let format = Format::of(precision);
    if format == Format::Int8 {
        let reason = "int8 is for CPUs only: choose bf16 or f32".into();
        return Err(Unusable::Unsupported { reason });
    }
    let sizes = Sizes {
        config,
        format,
        numbers: Numbers::read_by(format),
    };
    // What a kernel does not write is then seen, also where memory happens to hold an earlier result.
    let _poison = match place {
        Place::Cuda(gpu) => Some(gpu.poison()),
        Place::Host => None,
    };
    for (kernel, case) in CASES {
        compare(&sizes, (kernel, *case), place)?;
    }
    match place {
        Place::Cuda(gpu) => rows_alike(&sizes, gpu),
        Place::Host => Ok(()),
    }
}

/// Rows of the product whose rows are compared with one another: more than two tiles of them.
const ROWS: usize = 300;
/// Different rows among them, so that equal ones lie at every place of a tile.
const DIFFERENT: usize = 9;

/// Compares equal rows of an adapter's forward product by the bit: a clip's rows lie elsewhere in a tile in every batch, and no manual promises that matrix
/// instructions add in one order at every place. The products of the library are compared like this when their plans are chosen.
fn rows_alike(sizes: &Sizes<'_>, gpu: &Arc<Gpu>) -> std::result::Result<(), Unusable> {
    let kernel = "adapters' products";
    let alike = || -> Result<bool> {
        let (width, columns) = (sizes.config.width, 136);
        // Odd widths stay floats.
        let (format, numbers) = match width.is_multiple_of(8) {
            true => (sizes.format, sizes.numbers),
            false => (Format::F32, Numbers::F32),
        };
        let different = cases::random("rows", DIFFERENT * width, 1.0);
        // The row before the patches is the class token's.
        let values: Vec<f32> = (0..=ROWS)
            .flat_map(|row| &different[(row + DIFFERENT - 1) % DIFFERENT * width..][..width])
            .copied()
            .collect();
        let x = Tensor::upload(gpu, &values, &[1, ROWS + 1, width])?.cast(numbers)?;
        let weights = cases::random("weights", columns * width, 0.1);
        let weight = Matrix::new(gpu, format, &weights, width, 1)?;
        let y = grouped::project_patches(&x, &weight, None, Numbers::F32)?;
        let y = y.reshape(&[ROWS, columns])?;
        for first in 0..DIFFERENT {
            let equal = (first..ROWS).step_by(DIFFERENT);
            let equal: Vec<Tensor> = equal.map(|row| y.narrow(row, 1)).collect::<Result<_>>()?;
            if !repeats(&equal)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let wrong = |problem: String| Unusable::Wrong {
        kernel,
        problem: problem.into(),
    };
    match alike() {
        Ok(true) => Ok(()),
        Ok(false) => Err(wrong("a row's bits depend on its place".to_owned())),
        Err(error) => Err(match Failure::inside(&error) {
            Some(failure) => Unusable::Failed(failure.clone()),
            None => wrong(error.to_string()),
        }),
    }
}

fn compare(
    sizes: &Sizes<'_>,
    (kernel, case): (&'static str, Case),
    place: &Place,
) -> std::result::Result<(), Unusable> {
    let wrong = |problem: String| Unusable::Wrong {
        kernel,
        problem: problem.into(),
    };
    let failed = |error: candle_core::Error| match Failure::inside(&error) {
        Some(failure) => Unusable::Failed(failure.clone()),
        None => wrong(error.to_string()),
    };
    let expected = case(sizes, &Place::Host).map_err(failed)?;
    let got = case(sizes, place).map_err(failed)?;
    for (number, (expected, got)) in expected.iter().zip(&got).enumerate() {
        if expected.dims() != got.dims() {
            let (expected, got) = (expected.dims(), got.dims());
            return Err(wrong(format!(
                "result {number} has shape {got:?}, not {expected:?}"
            )));
        }
        let (expected, got) = (floats(expected), floats(got));
        let (expected, got) = (expected.map_err(failed)?, got.map_err(failed)?);
        far(&expected, &got, bound(sizes.format)).map_or(Ok(()), |problem| {
            Err(wrong(format!("result {number}: {problem}")))
        })?;
    }
    match expected.len() == got.len() {
        true => Ok(()),
        false => Err(wrong(format!("{} results", got.len()))),
    }
}

/// Returns the values as floats on the host.
fn floats(array: &Array) -> Result<Vec<f32>> {
    array.host()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Returns how two results differ by more than the bound; `None` when they do not.
pub(super) fn far(expected: &[f32], got: &[f32], bound: f64) -> Option<String> {
    if let Some(at) = got.iter().position(|value| !value.is_finite()) {
        return Some(format!("value {at} is not finite"));
    }
    let square = |value: f64| value * value;
    let total: f64 = expected.iter().map(|value| square(f64::from(*value))).sum();
    let pairs = || expected.iter().zip(got);
    let apart = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
    let distance = pairs().map(|pair| square(apart(pair))).sum::<f64>();
    let distance = (distance / total.max(f64::MIN_POSITIVE)).sqrt();
    if distance > bound || distance.is_nan() {
        return Some(format!("distance {distance:.1e}, at most {bound:.1e}"));
    }
    let mean = (total / expected.len().max(1) as f64).sqrt();
    let most = 32.0 * bound * mean;
    let at = pairs().position(|pair| apart(pair) > most)?;
    Some(format!(
        "value {at} is {}, not {}",
        got.get(at)?,
        expected.get(at)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_far_by_its_distance_or_by_one_value() {
        let expected: Vec<f32> = cases::random("expected", 1000, 1.0);
        assert_eq!(far(&expected, &expected, 1e-4), None);
        let mut one = expected.clone();
        one[7] += 0.1;
        let problem = far(&expected, &one, 1e-2);
        assert_eq!(problem, None, "a rounding");
        one[7] += 1.0;
        let problem = far(&expected, &one, 1e-2).unwrap();
        assert!(
            problem.starts_with("distance") || problem.starts_with("value 7"),
            "{problem}"
        );
        one[7] = f32::NAN;
        assert_eq!(
            far(&expected, &one, 1.0).as_deref(),
            Some("value 7 is not finite")
        );
        let none = vec![0.0; 1000];
        assert!(
            far(&expected, &none, 1e-2)
                .unwrap()
                .starts_with("distance 1")
        );
    }

    #[test]
    fn the_host_agrees_with_itself() {
        let config = super::super::tests::config(48, 3);
        for precision in [Precision::F32, Precision::Bf16] {
            assert_eq!(run(&config, precision, &Place::Host), Ok(()));
        }
    }
}
