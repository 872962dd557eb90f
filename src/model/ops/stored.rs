//! Tensors that wait for the backward, as bfloat16: half the memory.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::kernel::Format;
use super::packed::rounded;
use super::share::{output, slice, unfilled};
use super::simd::wide;

/// Elements that a thread takes at once.
const CHUNK: usize = 16_384;

/// A tensor of f32 as it waits.
pub(in crate::model) struct Stored(Tensor);

impl Stored {
    /// In this format: bfloat16 where products take nothing else, f32 otherwise.
    pub(in crate::model) fn new(x: Tensor, format: Format) -> Result<Self> {
        Ok(Self(match format.float() {
            Format::Bf16 => x.apply_op1_no_bwd(&Narrow)?,
            Format::F32 | Format::Int8 => x,
        }))
    }

    /// As f32.
    pub(in crate::model) fn get(&self) -> Result<Tensor> {
        if self.0.dtype() == DType::BF16 {
            self.0.apply_op1_no_bwd(&Widen)
        } else {
            Ok(self.0.clone())
        }
    }

    /// Bytes of a value.
    pub(in crate::model) fn value_bytes(format: Format) -> usize {
        match format.float() {
            Format::Bf16 => size_of::<bf16>(),
            Format::F32 | Format::Int8 => size_of::<f32>(),
        }
    }
}

wide! {
    fn narrow(x: &[f32], y: &mut [bf16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = bf16::from_bits((rounded(x) >> 16) as u16);
        }
    }

    fn widen(x: &[bf16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

struct Narrow;

impl CustomOp1 for Narrow {
    fn name(&self) -> &'static str {
        "narrow"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let mut y = unfilled(x.len());
        x.par_chunks(CHUNK)
            .zip(y.par_chunks_mut(CHUNK))
            .for_each(|(x, y)| narrow(x, y));
        Ok((CpuStorage::BF16(y), layout.shape().clone()))
    }
}

struct Widen;

impl CustomOp1 for Widen {
    fn name(&self) -> &'static str {
        "widen"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((begin, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("expected a contiguous tensor, got {layout:?}");
        };
        let x = &storage.as_slice::<bf16>()?[begin..end];
        let mut y = unfilled(x.len());
        x.par_chunks(CHUNK)
            .zip(y.par_chunks_mut(CHUNK))
            .for_each(|(x, y)| widen(x, y));
        Ok(output(y, layout.shape()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::share::{read, tensor};
    use super::*;

    #[test]
    fn what_waits_comes_back_as_it_was_or_rounded() {
        let values: Vec<f32> = (0..40_001).map(|i| (i as f32 - 20_000.0) / 7.0).collect();
        let x = tensor(values.clone(), (1, 40_001)).unwrap();
        for (format, bytes) in [(Format::F32, 4), (Format::Bf16, 2), (Format::Int8, 2)] {
            let back = Stored::new(x.clone(), format).unwrap().get().unwrap();
            assert_eq!(back.dims(), x.dims());
            assert_eq!(Stored::value_bytes(format), bytes);
            read(&back, |back| {
                for (&back, &value) in back.iter().zip(&values) {
                    let want = if bytes == 4 {
                        value
                    } else {
                        bf16::from_f32(value).to_f32()
                    };
                    assert_eq!(back, want, "{format:?}");
                }
            })
            .unwrap();
        }
    }
}
