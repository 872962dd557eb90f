//! Every set of instructions that this CPU has against plain loops.

use super::{Format, Kernel, Left, MR, NR, STEP, Tile};
use crate::ops::isa::Isa;
use crate::rng::Stream;

fn operand(format: Format, stream: &mut Stream, words: usize) -> Vec<u32> {
    let word = |stream: &mut Stream| match format {
        Format::F32 => stream.normal().to_bits(),
        Format::Bf16 => {
            let mut half = || stream.normal().to_bits() & 0xFFFF_0000;
            half() >> 16 | half()
        }
        Format::Int8 => stream.bits() as u32,
    };
    (0..words).map(|_| word(stream)).collect()
}

/// The rows of each panel's results.
type Results = Vec<Vec<[f32; NR]>>;

/// One whole tile of each panel.
fn run(kernel: Kernel, rows: usize, words: usize, left: &[u32], panels: &[&[u32]]) -> Results {
    let untouched: Tile = [[f32::from_bits(7); NR]; MR];
    let mut tiles = vec![untouched; 2 * kernel.stacked()];
    let left = Left {
        at: left.as_ptr(),
        row_stride: words,
        step: 1,
    };
    let pointers: Vec<*const u32> = panels.iter().map(|panel| panel.as_ptr()).collect();
    for (pointers, tiles) in pointers
        .chunks(kernel.panels())
        .zip(tiles.chunks_mut(kernel.panels() * kernel.stacked()))
    {
        // SAFETY: the operands have these rows and words.
        unsafe { kernel.tiles(rows, words, left, pointers, tiles, false) };
    }
    tiles
        .chunks(kernel.stacked())
        .map(|panel| panel.as_flattened().to_vec())
        .collect()
}

#[test]
fn all_instructions_give_the_same_sums() {
    let mut stream = Stream::new(3, "kernel");
    for format in [Format::F32, Format::Bf16, Format::Int8] {
        let Some(plain) = Kernel::on(format, Isa::Portable) else {
            unreachable!("plain loops run everywhere");
        };
        for kernel in Isa::ALL.iter().filter_map(|&isa| Kernel::on(format, isa)) {
            for (rows, words) in
                (1..=kernel.rows()).flat_map(|r| [0, 1, 3, 64, 197].map(|w| (r, w)))
            {
                let left = operand(format, &mut stream, rows * words);
                let right = operand(format, &mut stream, 2 * words * NR);
                let panels: Vec<&[u32]> = match words {
                    0 => vec![&right, &right],
                    _ => right.chunks(words * NR).collect(),
                };
                let got = run(kernel, rows, words, &left, &panels);
                for (first, count) in (0..rows).step_by(plain.rows()).map(|f| (f, plain.rows())) {
                    let taken = count.min(rows - first);
                    let want = run(plain, taken, words, &left[first * words..], &panels);
                    compare(format, (&got, first), &want, taken, words);
                }
                // Rows beyond the last are left as they were.
                let untouched = got.iter().flat_map(|tile| &tile[rows..]).flatten();
                assert!(untouched.into_iter().all(|value| value.to_bits() == 7));
            }
        }
    }
}

fn compare(
    format: Format,
    (got, first): (&Results, usize),
    want: &Results,
    rows: usize,
    words: usize,
) {
    for (got, want) in got.iter().zip(want) {
        let got = got[first..first + rows].as_flattened();
        for (got, want) in got.iter().zip(want[..rows].as_flattened()) {
            if format == Format::Int8 {
                assert_eq!(got.to_bits(), want.to_bits());
            } else {
                let limit = 3e-6 * (words as f32 + 1.0);
                assert!((got - want).abs() <= limit, "{format:?}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn a_sum_that_goes_on_has_the_bits_of_the_whole() {
    let mut stream = Stream::new(4, "kernel");
    let (words, first) = (50, STEP);
    for format in [Format::F32, Format::Bf16, Format::Int8] {
        for kernel in Isa::ALL.iter().filter_map(|&isa| Kernel::on(format, isa)) {
            let rows = kernel.rows();
            let left = operand(format, &mut stream, rows * words);
            let right = operand(format, &mut stream, words * NR);
            let whole = run(kernel, rows, words, &left, &[&right]);
            let mut parts = vec![[[0.0; NR]; MR]; kernel.stacked()];
            for (begin, count) in [(0, first), (first, words - first)] {
                let left = Left {
                    at: left[begin..].as_ptr(),
                    row_stride: words,
                    step: 1,
                };
                let panel = right[begin * NR..].as_ptr();
                // SAFETY: the operands have these rows and words.
                unsafe { kernel.tiles(rows, count, left, &[panel], &mut parts, begin > 0) };
            }
            let bits = |panel: &[[f32; NR]]| {
                panel[..rows]
                    .as_flattened()
                    .iter()
                    .map(|v| v.to_bits())
                    .collect::<Vec<_>>()
            };
            assert_eq!(bits(parts.as_flattened()), bits(&whole[0]));
        }
    }
}

#[test]
fn the_best_kernel_is_one_that_this_cpu_has() {
    for format in [Format::F32, Format::Bf16, Format::Int8] {
        let best = Kernel::best(format);
        assert!(best.isa.runs(format));
        assert!(best.rows() <= MR * best.stacked() && best.panels() <= 2);
    }
}
