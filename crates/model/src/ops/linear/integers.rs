//! Products that end as rows of integers, for a product with integers that follows.
//!
//! Invariant: the rows are those that [`integers::encode`] makes of the floats of the same product.
#![allow(unsafe_code)]

use candle_core::{Device, Result, Tensor};

use super::product::{Product, Results};
use super::{Grid, Options, Rows};
use crate::ops::activations::{Buffer, Numbers, ValuesMut};
use crate::ops::buffers::{Out, each_unit, unfilled};
use crate::ops::integers::{self, Operand};
use crate::ops::packed::Packed;

/// Most bytes of a unit's floats, which stay in the second-level cache until they are encoded.
const FLOATS: usize = 3 << 18;

/// Multiplies all rows like [`super::project`]. Returns the values before the activation in the format `before`, if that is given, and the rows after it as
/// integers, `[…, stride]`; the options' number format is not used.
pub(crate) fn project_integers(
    x: &Tensor,
    weight: &Packed,
    options: Options<'_>,
    before: Option<Numbers>,
) -> Result<(Option<Tensor>, Tensor)> {
    let input = Grid::new(x.shape(), Rows::All)?;
    let (count, n) = (input.count(), options.columns(weight));
    let mut shape = x.dims().to_vec();
    let mut of_width = |width| {
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        shape.clone()
    };
    let mut first = before.map(|of| Buffer::unfilled(of, count * n));
    let words = Operand::with(x, |x| {
        let before = first.as_mut().map(Buffer::as_mut);
        options.product(weight, x, input).run_integers(before)
    })?;
    let before = first.map(|first| first.tensor(of_width(n))).transpose()?;
    let y = Tensor::from_vec(words, of_width(integers::stride(n)), &Device::Cpu)?;
    Ok((before, y))
}

impl Product<'_> {
    /// Computes the product without gaps in its result. Returns its rows as integers.
    fn run_integers(self, before: Option<ValuesMut<'_>>) -> Result<Vec<u32>> {
        let (count, n) = (self.output.count(), self.n());
        self.check(count * n)?;
        if let Some(before) = &before {
            self.check(before.len())?;
        }
        let Some((units, split)) = self.whole_rows(FLOATS / size_of::<f32>()) else {
            let mut values = unfilled(count * n);
            let y = ValuesMut::F32(&mut values);
            self.run(Results { y, before })?;
            return Ok(integers::encode_all(&values, n));
        };
        let stride = integers::stride(n);
        let mut words = unfilled(count * stride);
        let (out, before) = (Out::new(&mut words), before.map(ValuesMut::sink));
        each_unit(split.units(), |unit| {
            let (group, rows, panels) = split.unit(unit);
            let first = group * self.output.rows + rows.start;
            let encode = |values: &[f32]| {
                // SAFETY: the rows are those of the result, and no other unit has them.
                let words = unsafe { out.slice(first * stride, rows.len() * stride) };
                let words = words.chunks_exact_mut(stride);
                words
                    .zip(values.chunks_exact(n))
                    .for_each(|(words, row)| integers::encode(row, words));
            };
            // SAFETY: the product was checked, and no other unit has these rows.
            unsafe { self.floats(units, (group, rows.clone()), panels, before, encode) };
        });
        Ok(words)
    }
}
