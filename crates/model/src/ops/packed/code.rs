//! Encoding of floats as a panel's words and back, and of rows of activations as the left operand's words.

use half::bf16;

use super::Columns;
use crate::ops::activations::Values;
use crate::ops::kernel::{Format, NR};
use crate::ops::simd::wide;

/// Largest 8-bit integer; -128 is unused, so that the range is symmetric.
const MOST: f32 = 127.0;

/// Offset added to the left operand's integers, which makes them unsigned.
pub(in crate::ops) const SHIFT: i32 = 128;

/// Values of a row that are encoded together: a cache line of bytes.
const LINE: usize = 64;

/// Constant 1.5 · 2^23; adding and subtracting it rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// Encodes a panel `[k][16]` in a format.
pub(super) fn encode(format: Format, values: &[f32], words: &mut [u32], columns: &mut Columns) {
    match format {
        Format::F32 => {
            for (word, value) in words.iter_mut().zip(values) {
                *word = value.to_bits();
            }
        }
        Format::Bf16 => bf16_panel(values, words),
        Format::Int8 => {
            for (i, scale) in columns.scales.iter_mut().enumerate() {
                let own = values.iter().skip(i).step_by(NR);
                *scale = own.fold(0.0, |most: f32, x| most.max(x.abs())) / MOST;
            }
            for (words, rows) in words
                .as_chunks_mut::<NR>()
                .0
                .iter_mut()
                .zip(values.chunks(4 * NR))
            {
                for (i, word) in words.iter_mut().enumerate() {
                    let (mut bytes, scale) = ([0; 4], columns.scales[i]);
                    for (byte, value) in bytes.iter_mut().zip(rows.iter().skip(i).step_by(NR)) {
                        let integer = if scale > 0.0 {
                            (value / scale).round().clamp(-MOST, MOST) as i8
                        } else {
                            0
                        };
                        columns.sums[i] += i32::from(integer);
                        *byte = integer as u8;
                    }
                    *word = u32::from_le_bytes(bytes);
                }
            }
        }
    }
}

/// Decodes rows `[rows][16]` from the words at which they begin.
pub(super) fn decode(format: Format, words: &[u32], columns: Option<&Columns>, out: &mut [f32]) {
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
            let scales = columns.map_or([0.0; NR], |columns| columns.scales);
            for (words, rows) in words.as_chunks::<NR>().0.iter().zip(out.chunks_mut(4 * NR)) {
                for (at, value) in rows.iter_mut().enumerate() {
                    let integer = words[at % NR].to_le_bytes()[at / NR] as i8;
                    *value = f32::from(integer) * scales[at % NR];
                }
            }
        }
    }
}

/// Rounds two floats to bfloat16 and joins them to a word.
#[inline(always)]
pub(in crate::ops) fn pair(low: f32, high: f32) -> u32 {
    rounded(low) >> 16 | rounded(high)
}

/// Joins two bfloat16 to a word.
#[inline(always)]
pub(in crate::ops) fn join(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// Returns the bits of a value as bfloat16 in the upper half of a word, rounded to the nearest even; NaN stays NaN.
#[inline(always)]
pub(in crate::ops) fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let near = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
    if value.is_nan() { 0x7FC0_0000 } else { near }
}

/// Encodes a row of k values as words. Returns the row's scale, the value of the integer 1, which is NaN if a value was not finite; 1 for formats
/// other than integers. `own` is scratch space for a row of floats.
pub(in crate::ops) fn encode_row(
    format: Format,
    row: Values<'_>,
    words: &mut [u32],
    own: &mut Vec<f32>,
) -> f32 {
    match (format, row) {
        (Format::F32, row) => {
            for (word, value) in words.iter_mut().zip(row.floats(own)) {
                *word = value.to_bits();
            }
            1.0
        }
        (Format::Bf16, Values::F32(row)) => {
            bf16_row(row, words);
            1.0
        }
        (Format::Bf16, Values::Bf16(row)) => {
            pair_row(row, words);
            1.0
        }
        (Format::Int8, row) => int8_row(row.floats(own), words),
    }
}

wide! {
    fn bf16_panel(values: &[f32], words: &mut [u32]) {
        let words = words.as_chunks_mut::<NR>().0;
        let (rows, last) = values.as_chunks::<{ 2 * NR }>();
        for (words, rows) in words.iter_mut().zip(rows) {
            for i in 0..NR {
                words[i] = self::pair(rows[i], rows[NR + i]);
            }
        }
        // An odd number of rows ends with one of zeros.
        if let (Some(words), Some(row)) = (words.get_mut(rows.len()), last.first_chunk::<NR>()) {
            for i in 0..NR {
                words[i] = self::pair(row[i], 0.0);
            }
        }
    }

    fn bf16_row(row: &[f32], words: &mut [u32]) {
        let (pairs, last) = row.as_chunks::<2>();
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = self::pair(pair[0], pair[1]);
        }
        if let (Some(word), [low]) = (words.get_mut(row.len() / 2), last) {
            *word = rounded(*low) >> 16;
        }
    }

    fn pair_row(row: &[bf16], words: &mut [u32]) {
        let (pairs, last) = row.as_chunks::<2>();
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = join(pair[0], pair[1]);
        }
        if let (Some(word), [low]) = (words.get_mut(row.len() / 2), last) {
            *word = join(*low, bf16::ZERO);
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
        // Below this scale the inverse would overflow, and the row is practically 0.
        let usable = scale >= f32::MIN_POSITIVE && scale.is_finite();
        let inverse = if usable { 1.0 / scale } else { 0.0 };
        // The lowest bits of 1.5 · 2^23 + x are the integer x in two's complement.
        let byte = |value: f32| (value * inverse + ROUND).to_bits().wrapping_add(SHIFT as u32) as u8;
        // A line's bytes are computed first, so that the compiler narrows whole vectors of integers.
        let whole = row.len() / LINE;
        for (words, values) in words.chunks_exact_mut(LINE / 4).zip(row.chunks_exact(LINE)) {
            let mut bytes = [0; LINE];
            for (byte_of, &value) in bytes.iter_mut().zip(values) {
                *byte_of = byte(value);
            }
            for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*four);
            }
        }
        let (words, rest) = (&mut words[whole * LINE / 4..], &row[whole * LINE..]);
        for (word, values) in words.iter_mut().zip(rest.chunks(4)) {
            *word = values.iter().rev().fold(0, |word, &value| word << 8 | u32::from(byte(value)));
        }
        scale + poison
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn bf16_words(row: &[f32], words: &mut [u32]) -> f32 {
        encode_row(Format::Bf16, Values::F32(row), words, &mut Vec::new())
    }

    fn integers(row: &[f32], words: &mut [u32]) -> f32 {
        encode_row(Format::Int8, Values::F32(row), words, &mut Vec::new())
    }

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
        assert_eq!(bf16_words(&row, &mut words), 1.0);
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
            let scale = integers(&row, &mut words);
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
                assert!(integers(&row, &mut [0; 6]).is_nan());
            }
        }
        assert_eq!(integers(&[0.0; 5], &mut [0; 2]), 0.0);
    }

    #[test]
    fn a_row_of_bfloat16_gives_the_words_of_its_floats() {
        let mut stream = Stream::new(2, "rows");
        for k in [1_usize, 2, 7, 50, 197] {
            let narrow: Vec<bf16> = (0..k).map(|_| bf16::from_f32(stream.normal())).collect();
            let floats: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
            for format in [Format::F32, Format::Bf16, Format::Int8] {
                let (mut own, mut words) = (Vec::new(), vec![7; format.words(k)]);
                let mut want = words.clone();
                let scale = encode_row(format, Values::Bf16(&narrow), &mut words, &mut own);
                let same = encode_row(format, Values::F32(&floats), &mut want, &mut own);
                assert_eq!((scale, words), (same, want), "{format:?}");
            }
        }
    }
}
