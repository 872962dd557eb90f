//! The kernels one by one, on the host or on a device, and the upper bounds of both; for benchmarks.

mod cases;

use std::time::Instant;

use rayon::prelude::*;

pub use self::cases::{Sizes, cases};
use super::Error;
use super::ops::placed::linear::{self, Options, Rows};
use super::ops::{Array, Format, Matrix, Numbers, multiply_adds};
use crate::ops::Place;
use crate::rng::Stream;
use crate::spec::Precision;

/// Amount of work of one call, which its time is divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    /// Number of floating-point or integer operations; a multiply-add counts as two.
    Operations(u64),
    /// Number of bytes that must be read or written.
    Bytes(u64),
}

/// A kernel with its operands.
pub struct Case {
    /// Name of the kernel, with its sizes.
    pub name: String,
    /// Work of one call.
    pub work: Work,
    place: Place,
    call: Box<dyn Fn() -> candle_core::Result<Array>>,
}

impl Case {
    /// Calls the kernel once; on a device the call only enqueues it.
    ///
    /// # Errors
    /// None that the operands of [`cases`] could cause on the host; those of the device.
    pub fn call(&self) -> Result<(), Error> {
        (self.call)()?;
        Ok(())
    }

    /// Returns the time of a call in seconds: on the host the least of so many, on a device the mean of so many that follow one another. A call that is not
    /// counted comes first.
    ///
    /// # Errors
    /// As for [`Case::call`].
    pub fn seconds(&self, calls: usize) -> Result<f64, Error> {
        Ok(seconds(&self.place, calls, || (self.call)().map(drop))?)
    }
}

fn seconds(
    place: &Place,
    calls: usize,
    mut call: impl FnMut() -> candle_core::Result<()>,
) -> candle_core::Result<f64> {
    match place {
        Place::Host => {
            call()?;
            let mut best = f64::INFINITY;
            for _ in 0..calls {
                let start = Instant::now();
                call()?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            Ok(best)
        }
        #[cfg(feature = "cuda")]
        Place::Cuda(gpu) => Ok(f64::from(gpu.timed(calls, call)?) / 1e3),
    }
}

/// Upper bounds, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Operations per second.
    pub operations: f64,
    /// Bytes per second that are read or written.
    pub bytes: f64,
}

/// Sizes of what a device's limits are measured with.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Side of the square matrices of a product.
    pub side: usize,
    /// Bytes that are copied.
    pub bytes: usize,
}

/// Measures the limits of a place in a precision: of the host, multiply-adds on registers alone and reading memory that is in no cache; of a device, one large
/// product of random numbers, and a copy, whose bytes count twice.
///
/// # Errors
/// Those of the device.
pub fn limits(place: &Place, precision: Precision, measured: Measured) -> Result<Limits, Error> {
    if place.is_host() {
        return Ok(Limits {
            operations: peak_operations(precision),
            bytes: peak_bytes(),
        });
    }
    let Measured { side, bytes } = measured;
    let format = Format::of(precision);
    let x = random("x", &[side, side], Numbers::read_by(format), place)?;
    let weight = Matrix::new(&values("w", side * side), (side, 1), format, place)?;
    let options = || Options {
        numbers: Numbers::read_by(format),
        ..Options::default()
    };
    let product = seconds(place, 10, || {
        linear::project(&x, &weight, Rows::All, options()).map(drop)
    })?;
    drop((x, weight));
    let half = Array::zeros(bytes / size_of::<f32>() / 2, place)?;
    let copy = seconds(place, 10, || {
        Array::cat(&[half.clone(), half.clone()]).map(drop)
    })?;
    Ok(Limits {
        operations: 2.0 * (side as f64).powi(3) / product,
        bytes: 2.0 * bytes as f64 / copy,
    })
}

fn values(name: &str, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(1, name);
    (0..count).map(|_| stream.range(-1.0, 1.0)).collect()
}

fn random(
    name: &str,
    shape: &[usize],
    numbers: Numbers,
    place: &Place,
) -> candle_core::Result<Array> {
    let values = values(name, shape.iter().product());
    Array::of(values, shape)?.to(place)?.cast(numbers)
}

/// Returns the best rate of several attempts, in operations per second on all threads, of multiply-adds on registers alone: no product can exceed it.
pub fn peak_operations(precision: Precision) -> f64 {
    let format = Format::of(precision);
    best_of(8, || {
        let done: u64 = (0..rayon::current_num_threads())
            .into_par_iter()
            .map(|_| multiply_adds(format, 2_000_000))
            .sum();
        2.0 * done as f64
    })
}

/// Runs multiply-adds on registers alone, on this thread. Returns the number of multiplied numbers.
pub fn spin(steps: usize) -> u64 {
    multiply_adds(Format::F32, steps)
}

/// Returns the best rate of several attempts, in bytes per second on all threads, of reading memory that is in no cache.
pub fn peak_bytes() -> f64 {
    let values = vec![1_u64; 32 << 20];
    best_of(4, || {
        let sum: u64 = values
            .par_chunks(1 << 16)
            .map(|part| part.iter().sum::<u64>())
            .sum();
        std::hint::black_box(sum);
        size_of_val(values.as_slice()) as f64
    })
}

fn best_of(attempts: usize, work: impl Fn() -> f64) -> f64 {
    let rate = |_| {
        let start = Instant::now();
        work() / start.elapsed().as_secs_f64()
    };
    (0..attempts).map(rate).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::placed::tests::place;
    use crate::spec::Normalization;
    use crate::{Activation, BackboneConfig};

    #[test]
    fn every_kernel_runs_and_the_machine_has_limits() {
        for precision in Precision::ALL {
            if precision == Precision::Int8 && !place().is_host() {
                continue;
            }
            let config = BackboneConfig {
                image_size: 12,
                patch_size: 4,
                width: 64,
                layers: 2,
                heads: 1,
                mlp_width: 136,
                activation: Activation::QuickGelu,
                eps: 1e-5,
                pre_norm: true,
                patch_bias: false,
                normalization: Normalization::CLIP,
            };
            let sizes = Sizes {
                config: &config,
                frames: 2,
                clips: 2,
                precision,
            };
            let cases = cases(&place(), sizes).unwrap();
            let least = if precision == Precision::Int8 { 5 } else { 20 };
            assert!(cases.len() >= least, "{} cases", cases.len());
            for case in cases {
                let took = case.seconds(1).unwrap();
                assert!(took > 0.0, "{}: {took} s", case.name);
            }
        }
        assert!(multiply_adds(Format::F32, 10) >= 10);
        if !place().is_host() {
            let measured = Measured {
                side: 32,
                bytes: 1 << 16,
            };
            let limits = limits(&place(), Precision::Bf16, measured).unwrap();
            assert!(limits.operations > 0.0 && limits.bytes > 0.0);
        }
    }
}
