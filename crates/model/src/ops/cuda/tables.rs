//! Structures that kernels read, as `kernels/README.md` lists them, and shapes of tensors.

use candle_core::Result;

use super::{Plain, Tensor};

/// A part of a grouped product.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) weight: u64,
    /// Null where there is none.
    pub(super) bias: u64,
    /// Elements before the part's first frame, in the operand and in the result.
    pub(super) at: [i64; 2],
    pub(super) rows: i32,
    /// Blocks of the grid before the part's first.
    pub(super) tile: i32,
    pub(super) n: i32,
    pub(super) k: i32,
}

// SAFETY: 48 bytes of fields without gaps.
unsafe impl Plain for Part {}

/// A segment of a convolution.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution {
    pub(super) taps: u64,
    pub(super) bias: u64,
    /// Elements before the segment's first frame, in the operand and in the result.
    pub(super) at: [i64; 2],
    pub(super) frames: i32,
    /// Blocks of the grid before the segment's first.
    pub(super) tile: i32,
    pub(super) channels: i32,
    pub(super) kernel: [i32; 3],
}

// SAFETY: 56 bytes of fields without gaps.
unsafe impl Plain for Convolution {}

/// Elements from frame to frame and from row to row.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    frame: i64,
    row: i32,
    unused: i32,
}

// SAFETY: 16 bytes of fields without gaps.
unsafe impl Plain for Strides {}

impl Strides {
    /// Frames of so many rows, of so many elements each, without gaps.
    pub(super) fn of(rows: usize, row: usize) -> Result<Self> {
        Ok(Self {
            frame: rows as i64 * i64::from(int(row)?),
            row: int(row)?,
            unused: 0,
        })
    }
}

/// Where a picture lies among the planes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) at: i64,
    /// Elements from channel to channel.
    pub(super) channel: i64,
}

// SAFETY: 16 bytes of fields without gaps.
unsafe impl Plain for Place {}

/// Weights from `begin` on, and the share of them that an update keeps.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Decay {
    begin: i64,
    keep: f32,
    unused: i32,
}

// SAFETY: 16 bytes of fields without gaps.
unsafe impl Plain for Decay {}

impl Decay {
    pub(super) fn new(begin: usize, keep: f32) -> Self {
        Self {
            begin: begin as i64,
            keep,
            unused: 0,
        }
    }
}

/// Factors of an update of weights.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub(super) scale: f32,
    /// What is kept of the first moment, and what is added of the gradient.
    pub(super) first: [f32; 2],
    /// What is kept of the second moment, and what is added of the squared gradient.
    pub(super) second: [f32; 2],
    pub(super) rate: f32,
    pub(super) root: f32,
    pub(super) eps: f32,
}

// SAFETY: 32 bytes of fields without gaps.
unsafe impl Plain for Update {}

/// Returns a size as kernels read it.
pub(super) fn int(value: usize) -> Result<i32> {
    match i32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => candle_core::bail!("{value} does not fit 32 bits"),
    }
}

impl Tensor {
    /// Returns the dimensions of a tensor with two.
    pub(super) fn dims2(&self) -> Result<(usize, usize)> {
        match *self.dims() {
            [a, b] => Ok((a, b)),
            _ => candle_core::bail!("expected two dimensions of {self:?}"),
        }
    }

    /// Returns the dimensions of a tensor with three.
    pub(super) fn dims3(&self) -> Result<(usize, usize, usize)> {
        match *self.dims() {
            [a, b, c] => Ok((a, b, c)),
            _ => candle_core::bail!("expected three dimensions of {self:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_that_kernels_expect() {
        assert_eq!(size_of::<Part>(), 48);
        assert_eq!(size_of::<Convolution>(), 56);
        assert_eq!(size_of::<Strides>(), 16);
        assert_eq!(size_of::<Place>(), 16);
        assert_eq!(size_of::<Decay>(), 16);
        assert_eq!(size_of::<Update>(), 32);
    }
}
