//! Means of the frames of a clip on the device, and their gradients.

use candle_core::Result;

use super::Tensor;
use super::tables::int;
use crate::ops::Numbers;

/// Threads of a block.
const THREADS: usize = 256;

/// Returns the first frame of each clip, and the number of all frames.
fn table(frames: &[usize]) -> Result<Vec<i32>> {
    let (mut first, mut all) = (vec![0], 0);
    for count in frames {
        all += count;
        first.push(int(all)?);
    }
    Ok(first)
}

/// Returns the mean of each clip, `[clips, C]`, of class tokens `[ΣT, C]`.
pub(crate) fn means(x: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let (all, c) = x.dims2()?;
    if frames.iter().sum::<usize>() != all || x.numbers() != Numbers::F32 {
        candle_core::bail!("means of {frames:?} frames of {x:?}");
    }
    let first = x.gpu().table(&table(frames)?)?;
    let clips = frames.len();
    let mut y = Tensor::unfilled(x.gpu(), Numbers::F32, &[clips, c])?;
    x.gpu()
        .launch("clip_means")
        .grid([(clips * c).div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .counts(clips * c)
        .read(x)
        .write(&mut y)
        .read(&first)
        .int(clips)
        .int(c)
        .run()?;
    Ok(y)
}

/// Returns the gradient of the class tokens, `[ΣT, C]`, from the gradient of the means.
pub(crate) fn spread(dy: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let (clips, c) = dy.dims2()?;
    if frames.len() != clips || dy.numbers() != Numbers::F32 {
        candle_core::bail!("{} clips, gradient of {dy:?}", frames.len());
    }
    let first = dy.gpu().table(&table(frames)?)?;
    let dims = [frames.iter().sum(), c];
    let mut dx = Tensor::unfilled(dy.gpu(), Numbers::F32, &dims)?;
    dy.gpu()
        .launch("clip_spread")
        .grid([c.div_ceil(THREADS), clips, 1])
        .threads(THREADS)
        .read(dy)
        .write(&mut dx)
        .read(&first)
        .int(c)
        .run()?;
    Ok(dx)
}
