//! Class rows of tokens on the device.

use candle_core::Result;

use super::Tensor;
use crate::ops::Numbers;

/// Threads of a block.
const THREADS: usize = 256;

/// Returns the class tokens `[N, C]` of tokens `[N, L, C]`.
pub(crate) fn class(x: &Tensor) -> Result<Tensor> {
    let (n, tokens, c) = x.dims3()?;
    let name = match x.numbers() {
        Numbers::F32 => "class_rows_f32",
        Numbers::Bf16 => "class_rows_bf16",
    };
    let mut y = Tensor::unfilled(x.gpu(), x.numbers(), &[n, c])?;
    x.gpu()
        .launch(name)
        .grid([(n * c).div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .counts(x.elem_count())
        .read(x)
        .write(&mut y)
        .int(n)
        .int(tokens)
        .int(c)
        .run()?;
    Ok(y)
}

/// Returns class tokens `[N, C]` as tokens `[N, L, C]` that are zero elsewhere.
pub(crate) fn only_class(x: &Tensor, tokens: usize) -> Result<Tensor> {
    let (n, c) = x.dims2()?;
    let name = match x.numbers() {
        Numbers::F32 => "only_class_rows_f32",
        Numbers::Bf16 => "only_class_rows_bf16",
    };
    let mut y = Tensor::unfilled(x.gpu(), x.numbers(), &[n, tokens, c])?;
    x.gpu()
        .launch(name)
        .grid([(n * tokens * c).div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .counts(n * tokens * c)
        .read(x)
        .write(&mut y)
        .int(n)
        .int(tokens)
        .int(c)
        .run()?;
    Ok(y)
}
