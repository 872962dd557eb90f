//! From floats to a panel's words and back, and from rows of activations to the left operand's words.

use super::Column;
use crate::model::ops::kernel::{Format, NR};
use crate::model::ops::simd::wide;

/// The largest 8-bit integer; -128 stays unused, so that the range is symmetric.
const MOST: f32 = 127.0;

/// What is added to the integers of the left operand, which are unsigned.
pub(in crate::model::ops) const SHIFT: i32 = 128;

/// Adding and taking away 1.5 · 2^23 rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// Writes a panel `[k][16]` in a format.
pub(super) fn encode(format: Format, values: &[f32], words: &mut [u32], columns: &mut [Column]) {
    match format {
        Format::F32 => {
            for (word, value) in words.iter_mut().zip(values) {
                *word = value.to_bits();
            }
        }
        Format::Bf16 => {
            for (words, rows) in words
                .as_chunks_mut::<NR>()
                .0
                .iter_mut()
                .zip(values.chunks(2 * NR))
            {
                for (i, word) in words.iter_mut().enumerate() {
                    *word = pair(rows[i], rows.get(NR + i).copied().unwrap_or(0.0));
                }
            }
        }
        Format::Int8 => {
            for (i, column) in columns.iter_mut().enumerate() {
                let own = values.iter().skip(i).step_by(NR);
                column.scale = own.fold(0.0, |most: f32, x| most.max(x.abs())) / MOST;
            }
            for (words, rows) in words
                .as_chunks_mut::<NR>()
                .0
                .iter_mut()
                .zip(values.chunks(4 * NR))
            {
                for (i, (word, column)) in words.iter_mut().zip(columns.iter_mut()).enumerate() {
                    let mut bytes = [0; 4];
                    for (byte, value) in bytes.iter_mut().zip(rows.iter().skip(i).step_by(NR)) {
                        let integer = if column.scale > 0.0 {
                            (value / column.scale).round().clamp(-MOST, MOST) as i8
                        } else {
                            0
                        };
                        column.sum += i32::from(integer);
                        *byte = integer as u8;
                    }
                    *word = u32::from_le_bytes(bytes);
                }
            }
        }
    }
}

/// Reads rows `[rows][16]` from the words where they begin.
pub(super) fn decode(format: Format, words: &[u32], columns: &[Column], out: &mut [f32]) {
    match format {
        Format::F32 => {
            for (value, &word) in out.iter_mut().zip(words) {
                *value = f32::from_bits(word);
            }
        }
        Format::Bf16 => {
            for (words, rows) in words.as_chunks::<NR>().0.iter().zip(out.chunks_mut(2 * NR)) {
                for (at, value) in rows.iter_mut().enumerate() {
                    let word = words[at % NR];
                    *value = f32::from_bits(if at < NR {
                        word << 16
                    } else {
                        word & 0xFFFF_0000
                    });
                }
            }
        }
        Format::Int8 => {
            for (words, rows) in words.as_chunks::<NR>().0.iter().zip(out.chunks_mut(4 * NR)) {
                for (at, value) in rows.iter_mut().enumerate() {
                    let integer = words[at % NR].to_le_bytes()[at / NR] as i8;
                    *value = f32::from(integer) * columns[at % NR].scale;
                }
            }
        }
    }
}

/// Two bfloat16 in a word.
#[inline(always)]
pub(in crate::model::ops) fn pair(low: f32, high: f32) -> u32 {
    rounded(low) >> 16 | rounded(high)
}

/// The bits of a bfloat16 in the upper half, rounded to the nearest even; a NaN stays a NaN.
#[inline(always)]
pub(in crate::model::ops) fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let near = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
    if value.is_nan() { 0x7FC0_0000 } else { near }
}

/// Writes a row of k floats as words; returns what 1 stands for, which is NaN for a row that is not finite, and 1 for bfloat16.
pub(in crate::model::ops) fn encode_row(format: Format, row: &[f32], words: &mut [u32]) -> f32 {
    match format {
        Format::F32 => {
            for (word, value) in words.iter_mut().zip(row) {
                *word = value.to_bits();
            }
            1.0
        }
        Format::Bf16 => {
            bf16_row(row, words);
            1.0
        }
        Format::Int8 => int8_row(row, words),
    }
}

wide! {
    fn bf16_row(row: &[f32], words: &mut [u32]) {
        let (pairs, last) = row.as_chunks::<2>();
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = self::pair(pair[0], pair[1]);
        }
        if let (Some(word), [low]) = (words.get_mut(row.len() / 2), last) {
            *word = rounded(*low) >> 16;
        }
    }

    fn int8_row(row: &[f32], words: &mut [u32]) -> f32 {
        // Zero times anything that is not finite is NaN, and stays so in the sum.
        let (mut most, mut poison) = ([0.0_f32; 16], [0.0_f32; 16]);
        let (chunks, rest) = row.as_chunks::<16>();
        for (lane, &value) in rest.iter().enumerate() {
            most[lane] = value.abs();
            poison[lane] = value * 0.0;
        }
        for chunk in chunks {
            for lane in 0..16 {
                let size = chunk[lane].abs();
                most[lane] = if size > most[lane] { size } else { most[lane] };
                poison[lane] += chunk[lane] * 0.0;
            }
        }
        let scale = most.iter().fold(0.0, |a: f32, &b| a.max(b)) / MOST;
        let poison: f32 = poison.iter().sum();
        // Below that the inverse would overflow, and the row is as good as 0.
        let usable = scale >= f32::MIN_POSITIVE && scale.is_finite();
        let inverse = if usable { 1.0 / scale } else { 0.0 };
        // The lowest bits of 1.5 · 2^23 + x are the integer x in two's complement.
        let byte = |value: f32| {
            ((value * inverse + ROUND).to_bits().wrapping_add(SHIFT as u32)) & 0xFF
        };
        let (fours, last) = row.as_chunks::<4>();
        for (word, four) in words.iter_mut().zip(fours) {
            *word = byte(four[0]) | byte(four[1]) << 8 | byte(four[2]) << 16 | byte(four[3]) << 24;
        }
        if let Some(word) = words.get_mut(row.len() / 4) {
            *word = last.iter().rev().fold(0, |word, &value| word << 8 | byte(value));
        }
        scale + poison
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::rng::Stream;

    #[test]
    fn bfloat16_rounds_as_the_standard_says() {
        let mut stream = Stream::new(1, "bf16");
        let mut row = vec![
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            1e-40,
            1.003_906_3,
        ];
        row.extend((0..1001).map(|_| f32::from_bits(stream.bits() as u32)));
        row.push(f32::from_bits(0x7F80_0001));
        let mut words = vec![0; row.len().div_ceil(2)];
        assert_eq!(encode_row(Format::Bf16, &row, &mut words), 1.0);
        for (i, &value) in row.iter().enumerate() {
            let got = bf16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16);
            let want = bf16::from_f32(value);
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{value}"
            );
        }
    }

    #[test]
    fn integers_of_a_row_are_within_half_a_step() {
        let mut stream = Stream::new(1, "int8");
        for k in [1_usize, 3, 4, 16, 19, 50, 197] {
            let row: Vec<f32> = (0..k).map(|_| 3.0 * stream.normal()).collect();
            let mut words = vec![0; k.div_ceil(4)];
            let scale = encode_row(Format::Int8, &row, &mut words);
            for (i, value) in row.iter().enumerate() {
                let integer = i32::from(words[i / 4].to_le_bytes()[i % 4]) - SHIFT;
                assert!((value - integer as f32 * scale).abs() <= 0.501 * scale);
            }
        }
    }

    #[test]
    fn a_row_that_is_not_finite_has_no_scale() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 16, 20] {
                let mut row = [1.0; 21];
                row[at] = bad;
                assert!(encode_row(Format::Int8, &row, &mut [0; 6]).is_nan());
            }
        }
        assert_eq!(encode_row(Format::Int8, &[0.0; 5], &mut [0; 2]), 0.0);
    }
}
