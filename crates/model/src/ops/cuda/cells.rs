//! Class tokens and a pooled grid of patch tokens on the device, and their gradients.

use candle_core::Result;

use super::Tensor;
use crate::ops::Numbers;
use crate::ops::placed::cells::Cells;

/// Threads of a block.
const THREADS: usize = 256;

/// Returns the class token and the means of the cells of each frame, `[ΣT · rows, C]`, from all tokens `[ΣT, L, C]`.
pub(crate) fn means(tokens: &Tensor, cells: Cells) -> Result<Tensor> {
    let (frames, length, c) = tokens.dims3()?;
    if length != cells.tokens() || cells.side == 0 || tokens.numbers() != Numbers::F32 {
        candle_core::bail!("means of {cells:?} of {tokens:?}");
    }
    let dims = [frames * cells.rows(), c];
    let mut y = Tensor::unfilled(tokens.gpu(), Numbers::F32, &dims)?;
    run("cell_means", tokens, &mut y, (frames, cells, c))?;
    Ok(y)
}

/// Returns the gradient of all tokens, `[ΣT, L, C]`, from that of what [`means`] returned.
pub(crate) fn spread(d_rows: &Tensor, cells: Cells) -> Result<Tensor> {
    let (count, c) = d_rows.dims2()?;
    let frames = count / cells.rows();
    if count != frames * cells.rows() || cells.side == 0 || d_rows.numbers() != Numbers::F32 {
        candle_core::bail!("gradient {d_rows:?} of {cells:?}");
    }
    let dims = [frames, cells.tokens(), c];
    let mut dx = Tensor::unfilled(d_rows.gpu(), Numbers::F32, &dims)?;
    run("cell_spread", d_rows, &mut dx, (frames, cells, c))?;
    Ok(dx)
}

/// Enqueues a kernel with a thread for each number of its result.
fn run(
    kernel: &'static str,
    x: &Tensor,
    y: &mut Tensor,
    (frames, cells, c): (usize, Cells, usize),
) -> Result<()> {
    let count = y.elem_count();
    x.gpu()
        .launch(kernel)
        .grid([count.div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .counts(count)
        .read(x)
        .write(y)
        .int(frames)
        .int(cells.grid)
        .int(cells.side)
        .int(c)
        .run()
}
