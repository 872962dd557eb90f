//! Activations on the device, forward and backward.
//!
//! Invariant: a value depends on itself.

use candle_core::Result;

use super::Tensor;
use crate::Activation;
use crate::ops::Numbers;

/// Threads of a block.
const THREADS: usize = 256;
/// Numbers of a thread.
const EACH: usize = 8;

/// Returns the blocks that compute so many numbers.
fn blocks(count: usize) -> [usize; 3] {
    [count.div_ceil(EACH).div_ceil(THREADS), 1, 1]
}

/// Returns act(x) in this number format.
pub(super) fn forward(x: &Tensor, activation: Activation, numbers: Numbers) -> Result<Tensor> {
    use Activation::{Gelu, QuickGelu};
    use Numbers::{Bf16, F32};
    let name = match (activation, x.numbers(), numbers) {
        (QuickGelu, F32, F32) => "quick_gelu_f32_f32",
        (QuickGelu, F32, Bf16) => "quick_gelu_f32_bf16",
        (QuickGelu, Bf16, F32) => "quick_gelu_bf16_f32",
        (QuickGelu, Bf16, Bf16) => "quick_gelu_bf16_bf16",
        (Gelu, F32, F32) => "gelu_f32_f32",
        (Gelu, F32, Bf16) => "gelu_f32_bf16",
        (Gelu, Bf16, F32) => "gelu_bf16_f32",
        (Gelu, Bf16, Bf16) => "gelu_bf16_bf16",
    };
    let mut y = Tensor::unfilled(x.gpu(), numbers, x.dims())?;
    let count = x.elem_count();
    x.gpu()
        .launch(name)
        .grid(blocks(count))
        .threads(THREADS)
        .read(x)
        .write_or_null(None)
        .write(&mut y)
        .long(count)
        .run()?;
    Ok(y)
}

/// Returns the gradient of an activation's input, dy · act'(x), in this number format.
pub(crate) fn backward(
    x: &Tensor,
    dy: &Tensor,
    activation: Activation,
    numbers: Numbers,
) -> Result<Tensor> {
    use Activation::{Gelu, QuickGelu};
    use Numbers::{Bf16, F32};
    if x.elem_count() != dy.elem_count() {
        candle_core::bail!("activation of {x:?}, gradient of {dy:?}");
    }
    // There is no kernel for floats with a gradient in bfloat16, which nothing computes.
    let wide = match (x.numbers(), dy.numbers()) {
        (F32, Bf16) => Some(dy.cast(F32)?),
        (F32, F32) | (Bf16, _) => None,
    };
    let dy = wide.as_ref().unwrap_or(dy);
    let name = match (activation, x.numbers(), dy.numbers(), numbers) {
        (QuickGelu, F32, _, F32) => "quick_gelu_backward_f32_f32_f32",
        (QuickGelu, F32, _, Bf16) => "quick_gelu_backward_f32_f32_bf16",
        (QuickGelu, Bf16, F32, F32) => "quick_gelu_backward_bf16_f32_f32",
        (QuickGelu, Bf16, F32, Bf16) => "quick_gelu_backward_bf16_f32_bf16",
        (QuickGelu, Bf16, Bf16, F32) => "quick_gelu_backward_bf16_bf16_f32",
        (QuickGelu, Bf16, Bf16, Bf16) => "quick_gelu_backward_bf16_bf16_bf16",
        (Gelu, F32, _, F32) => "gelu_backward_f32_f32_f32",
        (Gelu, F32, _, Bf16) => "gelu_backward_f32_f32_bf16",
        (Gelu, Bf16, F32, F32) => "gelu_backward_bf16_f32_f32",
        (Gelu, Bf16, F32, Bf16) => "gelu_backward_bf16_f32_bf16",
        (Gelu, Bf16, Bf16, F32) => "gelu_backward_bf16_bf16_f32",
        (Gelu, Bf16, Bf16, Bf16) => "gelu_backward_bf16_bf16_bf16",
    };
    let mut dx = Tensor::unfilled(x.gpu(), numbers, x.dims())?;
    let count = x.elem_count();
    x.gpu()
        .launch(name)
        .grid(blocks(count))
        .threads(THREADS)
        .read(x)
        .read(dy)
        .write(&mut dx)
        .long(count)
        .run()?;
    Ok(dx)
}
