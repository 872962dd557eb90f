//! The optimiser's passes over flat buffers on the device: the sum of squares of the gradients, and the update in one launch.
//!
//! Invariant: blocks of a fixed length are added up by themselves, then in their order.

use candle_core::Result;

use super::Tensor;
use super::tables::{Decay, Update};
use crate::ops::Numbers;
use crate::ops::placed::adamw::{Factors, Own};

/// Threads of a block.
const THREADS: usize = 256;
/// Numbers of a block of the sum of squares.
const EACH: usize = 16_384;

/// Returns the sum of squares in double precision; it is finite exactly where all numbers are.
pub(crate) fn sum_of_squares(flat: &Tensor) -> Result<f64> {
    let (gpu, count) = (flat.gpu(), flat.elem_count());
    let blocks = count.div_ceil(EACH);
    if blocks == 0 {
        return Ok(0.0);
    }
    // A double is two words of a tensor.
    let mut partial = Tensor::unfilled(gpu, Numbers::F32, &[blocks, 2])?;
    gpu.launch("squares")
        .grid([blocks, 1, 1])
        .threads(THREADS)
        .shared(THREADS * size_of::<f64>())
        .read(flat)
        .write(&mut partial)
        .long(count)
        .int(EACH)
        .run()?;
    let mut sum = Tensor::unfilled(gpu, Numbers::F32, &[2])?;
    gpu.launch("add_doubles")
        .grid([1; 3])
        .threads(32)
        .read(&partial)
        .write(&mut sum)
        .int(blocks)
        .run()?;
    let words: Vec<f32> = sum.host()?.to_vec1()?;
    let &[low, high] = words.as_slice() else {
        candle_core::bail!("a sum of {} words", words.len());
    };
    let bits = u64::from(high.to_bits()) << 32 | u64::from(low.to_bits());
    Ok(f64::from_bits(bits))
}

/// Updates the weights and both moments in place.
pub(crate) fn update(
    weights: &Tensor,
    gradients: &Tensor,
    [first, second]: [&Tensor; 2],
    own: &[Own],
    factors: Factors,
) -> Result<()> {
    let count = weights.elem_count();
    let fits = [gradients, first, second]
        .iter()
        .all(|other| other.elem_count() == count);
    if !fits || own.first().is_none_or(|own| own.range.start != 0) {
        candle_core::bail!("an update of {weights:?} by {gradients:?}");
    }
    let gpu = weights.gpu();
    let decays = own.iter().map(|own| Decay::new(own.range.start, own.keep));
    let decays = gpu.table(&decays.collect::<Vec<_>>())?;
    let update = Update {
        scale: factors.scale,
        first: factors.first,
        second: factors.second,
        rate: factors.rate,
        root: factors.root,
        eps: factors.eps,
    };
    gpu.launch("adamw")
        .grid([count.div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .update(weights)
        .read(gradients)
        .update(first)
        .update(second)
        .read(&decays)
        .int(own.len())
        .value(update)
        .long(count)
        .run()
}
