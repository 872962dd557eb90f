//! The kernels one by one, at the sizes of ViT-B/16, and the machine's upper bounds; for benchmarks.

use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

use super::ops::attention::{self, How};
use super::ops::depthwise::{Depthwise, Extent};
use super::ops::linear::{self, Options, Rows};
use super::ops::norm::{self, Norm};
use super::ops::{Format, Numbers, Onto, Packed, gelu, multiply_adds, tensor, weight_gradient};
use super::{Activation, Error};
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
    call: Box<dyn Fn() -> candle_core::Result<Tensor>>,
}

impl Case {
    /// Calls the kernel once.
    ///
    /// # Errors
    /// None that the operands of [`cases`] could cause.
    pub fn call(&self) -> Result<(), Error> {
        (self.call)()?;
        Ok(())
    }
}

/// Tokens of a frame and width of ViT-B/16, and frames of a clip.
const TOKENS: usize = 197;
const WIDTH: usize = 768;
const FRAMES: usize = 8;

/// Returns a case for every kernel, forward and backward.
///
/// # Errors
/// When the operands cannot be created.
pub fn cases() -> Result<Vec<Case>, Error> {
    let mut cases = Vec::new();
    for precision in Precision::ALL {
        let format = Format::of(precision);
        let (reads, beside) = (Numbers::read_by(format), Numbers::beside(format));
        let floats = Numbers::F32;
        for (name, k, n, x, y) in [
            ("qkv", WIDTH, 3 * WIDTH, reads, beside),
            ("out", WIDTH, WIDTH, reads, floats),
            ("fc1", WIDTH, 4 * WIDTH, reads, reads),
            ("fc2", 4 * WIDTH, WIDTH, reads, floats),
            ("adapter fc1", WIDTH, 384, floats, floats),
        ] {
            cases.push(product(name, precision, (k, n), (x, y))?);
        }
    }
    let wide = random("wide", &[FRAMES, TOKENS, 4 * WIDTH])?;
    let x = random("x", &[FRAMES, TOKENS, WIDTH])?;
    let dy = random("dy", &[FRAMES, TOKENS, WIDTH])?;
    attention_cases(&mut cases, &dy)?;
    let (rows, of_x, of_dy) = (x.elem_count(), x.clone(), dy.clone());
    let work = Work::Operations((2 * rows * WIDTH) as u64);
    cases.push(case("weight gradient 768 × 768", work, move || {
        weight_gradient::of((&of_x, Rows::All), (&of_dy, Rows::All), Onto::NOTHING)
    }));
    let norm = Norm {
        weight: vec![1.0; WIDTH],
        bias: vec![0.0; WIDTH],
        eps: 1e-5,
    };
    let (own, of_x) = (norm.clone(), x.clone());
    cases.push(case("norm", bytes(2, &x), move || {
        norm::forward(&of_x, &own, Numbers::F32)
    }));
    let (of_x, of_dy) = (x.clone(), dy.clone());
    cases.push(case("norm backward", bytes(4, &x), move || {
        norm::backward(&of_x, &of_dy, &of_dy, &norm)
    }));
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        let of_x = wide.clone();
        let name = format!("{activation:?} backward");
        cases.push(case(&name, bytes(3, &wide), move || {
            gelu::backward(&of_x, &of_x, activation, Numbers::F32)
        }));
    }
    depthwise_cases(&mut cases)?;
    Ok(cases)
}

/// Returns the case of one linear layer of a block, from `k` to `n` numbers per row.
fn product(
    name: &str,
    precision: Precision,
    (k, n): (usize, usize),
    (of_x, numbers): (Numbers, Numbers),
) -> Result<Case, Error> {
    let x = random("x", &[FRAMES * TOKENS, k])?.to_dtype(of_x.dtype())?;
    let weight = values("w", n * k);
    let packed = Packed::new(Format::of(precision), &weight, k, 1);
    let bias = vec![0.1; n];
    let name = format!("{name} {k} × {n} {precision}");
    let work = Work::Operations((2 * FRAMES * TOKENS * k * n) as u64);
    Ok(case(&name, work, move || {
        let options = Options {
            bias: Some(&bias),
            numbers,
            ..Options::default()
        };
        linear::project(&x, &packed, Rows::All, options)
    }))
}

fn attention_cases(cases: &mut Vec<Case>, dy: &Tensor) -> Result<(), Error> {
    let how = |format| How {
        heads: WIDTH / 64,
        format,
        numbers: Numbers::beside(format),
    };
    let qkv = random("qkv", &[FRAMES, TOKENS, 3 * WIDTH])?;
    let once = (2 * FRAMES * TOKENS * TOKENS * WIDTH) as u64;
    for format in [Format::F32, Format::Bf16] {
        let of_qkv = qkv.to_dtype(Numbers::beside(format).dtype())?;
        let how = how(format);
        // Two products, scores and values; the backward computes the scores again and has four more products.
        let name = format!("attention {format:?}").to_lowercase();
        cases.push(case(&name, Work::Operations(2 * once), move || {
            attention::forward(&of_qkv, how)
        }));
    }
    let of_dy = dy.clone();
    cases.push(case(
        "attention backward",
        Work::Operations(5 * once),
        move || attention::backward(&qkv, &of_dy, how(Format::F32)),
    ));
    Ok(())
}

fn depthwise_cases(cases: &mut Vec<Case>) -> Result<(), Error> {
    const NARROW: usize = 384;
    for kernel in [[3, 1, 1], [3, 3, 3]] {
        let extent = Extent {
            frames: FRAMES,
            grid: 14,
        };
        let taps: usize = kernel.iter().product();
        let own = Depthwise::new(&values("taps", taps * NARROW), &[0.1; NARROW], kernel);
        let x = random("narrow", &[FRAMES, TOKENS - 1, NARROW])?;
        let name = format!("depthwise {}×{}×{}", kernel[0], kernel[1], kernel[2]);
        let (of_own, of_x) = (own.clone(), x.clone());
        cases.push(case(&name, bytes(2, &x), move || {
            of_own.forward(&of_x, extent, Numbers::F32)
        }));
        cases.push(case(
            &format!("{name} gradients"),
            bytes(2, &x),
            move || Ok(own.weight_gradient(&x, &x, extent, None)?.0),
        ));
    }
    Ok(())
}

fn case(name: &str, work: Work, call: impl Fn() -> candle_core::Result<Tensor> + 'static) -> Case {
    Case {
        name: name.to_owned(),
        work,
        call: Box::new(call),
    }
}

/// Returns the work of reading or writing a tensor of this size `passes` times.
fn bytes(passes: usize, x: &Tensor) -> Work {
    Work::Bytes((passes * x.elem_count() * size_of::<f32>()) as u64)
}

fn values(name: &str, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(1, name);
    (0..count).map(|_| stream.range(-1.0, 1.0)).collect()
}

fn random(name: &str, shape: &[usize]) -> Result<Tensor, Error> {
    Ok(tensor(values(name, shape.iter().product()), shape)?)
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

    #[test]
    fn every_kernel_runs_and_the_machine_has_limits() {
        let cases = cases().unwrap();
        assert!(cases.len() > 20);
        let small = cases
            .iter()
            .filter(|case| case.name.starts_with("depthwise"));
        for case in small {
            case.call().unwrap();
        }
        assert!(multiply_adds(Format::F32, 10) >= 10);
    }
}
