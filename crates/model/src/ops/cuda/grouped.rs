//! Products over the patch rows of segments that have weights of their own.
//!
//! Invariant: a segment's rows are multiplied only by its own weight, by kernels whose sums have one order; class rows are skipped without a copy.

use std::ops::Range;

use candle_core::Result;

use super::tables::{self, int};
use super::{Matrix, Tensor};
use crate::ops::Numbers;
use crate::ops::linear::check_segments;

/// Threads of a block.
const THREADS: usize = 256;
/// Numbers that kernels read at a time.
const EIGHT: usize = 8;

/// One segment: its frames, and the layer that applies to them.
pub(crate) struct Each<'a> {
    pub(crate) frames: Range<usize>,
    pub(crate) weight: &'a Matrix,
    pub(crate) bias: Option<&'a Tensor>,
}

/// A part of a grouped product, as kernels read it.
#[derive(Clone, Copy)]
struct Part<'a> {
    weight: &'a Matrix,
    bias: Option<&'a Tensor>,
    /// Elements before the part's first frame, in the operand and in the result.
    at: [i64; 2],
    rows: usize,
}

/// Tokens of a frame in the operand and in the result, of which the last `patches` are multiplied.
#[derive(Clone, Copy)]
struct Tokens {
    patches: usize,
    input: usize,
    output: usize,
}

/// A grouped kernel: its name, and the rows and columns of a block.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    side: usize,
    shared: usize,
}

impl Kernel {
    /// Returns the kernel for weights, operands and results in these formats; `back` for dy · W.
    fn of(weight: Numbers, x: Numbers, y: Numbers, back: bool) -> Result<Self> {
        use Numbers::{Bf16, F32};
        let tiles = |name| Self {
            name,
            side: 128,
            shared: 49_152,
        };
        let exact = |name| Self {
            name,
            side: 64,
            shared: 8_704,
        };
        Ok(match (weight, x, y, back) {
            (F32, F32, F32, false) => exact("exact_grouped"),
            (F32, F32, F32, true) => exact("exact_grouped_dx"),
            (Bf16, F32, F32, false) => tiles("grouped_f32_f32"),
            (Bf16, F32, Bf16, false) => tiles("grouped_f32_bf16"),
            (Bf16, Bf16, F32, false) => tiles("grouped_bf16_f32"),
            (Bf16, Bf16, Bf16, false) => tiles("grouped_bf16_bf16"),
            (Bf16, F32, F32, true) => tiles("grouped_dx_f32_f32"),
            (Bf16, F32, Bf16, true) => tiles("grouped_dx_f32_bf16"),
            (Bf16, Bf16, F32, true) => tiles("grouped_dx_bf16_f32"),
            (Bf16, Bf16, Bf16, true) => tiles("grouped_dx_bf16_bf16"),
            (F32, Bf16, _, _) | (F32, _, Bf16, _) => {
                candle_core::bail!("a product of {x:?} with {weight:?} to {y:?}")
            }
        })
    }
}

/// Multiplies the patch rows of each segment of x `[N, L, k]` by the segment's own Wᵀ. Returns `[frames, L - 1, n]` for each segment.
pub(crate) fn project_each(x: &Tensor, parts: &[Each<'_>]) -> Result<Vec<Tensor>> {
    let (frames, tokens, k) = x.dims3()?;
    check_segments(frames, parts.iter().map(|part| &part.frames))?;
    let patches = tokens - 1;
    // Results of segments begin where kernels read eight numbers at a time, whatever the width of those before.
    let counts = parts
        .iter()
        .map(|part| (part.frames.len() * patches * part.weight.n()).next_multiple_of(EIGHT));
    let mut y = Tensor::unfilled(x.gpu(), Numbers::F32, &[counts.sum()])?;
    let (mut own, mut ranges, mut at) = (Vec::with_capacity(parts.len()), Vec::new(), 0);
    for part in parts {
        if part.weight.k() != k {
            candle_core::bail!("{x:?} is multiplied by {:?}", part.weight);
        }
        let rows = part.frames.len() * patches;
        own.push(Part {
            weight: part.weight,
            bias: part.bias,
            at: [(part.frames.start * tokens * k) as i64, at as i64],
            rows,
        });
        let count = rows * part.weight.n();
        ranges.push(at..at + count);
        at += count.next_multiple_of(EIGHT);
    }
    let of = Tokens {
        patches,
        input: tokens,
        output: patches,
    };
    for numbers in [Numbers::F32, Numbers::Bf16] {
        let of_format = own.iter().filter(|part| part.weight.numbers() == numbers);
        let of_format: Vec<Part<'_>> = of_format.copied().collect();
        run(x, &mut y, None, (&of_format, of))?;
    }
    let views = ranges.into_iter().zip(parts).map(|(range, part)| {
        let dims = [part.frames.len(), patches, part.weight.n()];
        y.narrow(range.start, range.len())?.reshape(&dims)
    });
    views.collect()
}

/// Returns r `[N, L, C]` with x · Wᵀ + b of each segment added to its patch rows; frames of no segment are unchanged.
pub(crate) fn project_add_each(
    xs: &[&Tensor],
    residual: &Tensor,
    parts: &[Each<'_>],
) -> Result<Tensor> {
    let (frames, tokens, c) = residual.dims3()?;
    check_segments(frames, parts.iter().map(|part| &part.frames))?;
    if xs.len() != parts.len() {
        candle_core::bail!("{} segments, operands for {}", parts.len(), xs.len());
    }
    let mut begin = 0;
    let follows =
        |part: &Each<'_>| std::mem::replace(&mut begin, part.frames.end) == part.frames.start;
    let covers =
        parts.iter().all(follows) && parts.last().is_some_and(|last| last.frames.end == frames);
    let mut y = beneath(residual, covers)?;
    let of = Tokens {
        patches: tokens - 1,
        input: tokens - 1,
        output: tokens,
    };
    // A launch reads weights of one format and operands of one: a set of odd width, whose weights stay floats, has one of its own.
    for format in [Numbers::F32, Numbers::Bf16] {
        for numbers in [Numbers::F32, Numbers::Bf16] {
            let is_own = |(part, x): &(&Each<'_>, &&Tensor)| {
                part.weight.numbers() == format && x.numbers() == numbers
            };
            let mut first: Option<&Tensor> = None;
            let mut own = Vec::with_capacity(parts.len());
            for (part, &x) in parts.iter().zip(xs).filter(is_own) {
                let rows = part.frames.len() * (tokens - 1);
                if x.elem_count() != rows * part.weight.k() || part.weight.n() != c {
                    candle_core::bail!("{x:?} is the operand of frames {:?}", part.frames);
                }
                // Operands lie wherever they were made: the kernel finds each by its distance from the first.
                let origin = *first.get_or_insert(x);
                let bytes = (x.pointer() as i64).wrapping_sub(origin.pointer() as i64);
                own.push(Part {
                    weight: part.weight,
                    bias: part.bias,
                    at: [
                        bytes / x.numbers().bytes() as i64,
                        (part.frames.start * tokens * c) as i64,
                    ],
                    rows,
                });
            }
            if let Some(first) = first {
                run(first, &mut y, Some(residual), (&own, of))?;
            }
        }
    }
    Ok(y)
}

/// Multiplies the patch rows of x `[N, L, k]` by one weight. Returns `[N, L - 1, n]`.
pub(super) fn project_patches(
    x: &Tensor,
    weight: &Matrix,
    bias: Option<&Tensor>,
    numbers: Numbers,
) -> Result<Tensor> {
    let (frames, tokens, k) = x.dims3()?;
    if weight.k() != k {
        candle_core::bail!("{x:?} is multiplied by {weight:?}");
    }
    let dims = [frames, tokens - 1, weight.n()];
    let mut y = Tensor::unfilled(x.gpu(), numbers, &dims)?;
    let part = Part {
        weight,
        bias,
        at: [0; 2],
        rows: frames * (tokens - 1),
    };
    let of = Tokens {
        patches: tokens - 1,
        input: tokens,
        output: tokens - 1,
    };
    run(x, &mut y, None, (&[part], of))?;
    Ok(y)
}

/// Returns the residual `[N, L, n]` with the product of x `[N, L - 1, k]` and one weight added to its patch rows.
pub(super) fn add_patches(
    x: &Tensor,
    residual: &Tensor,
    weight: &Matrix,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (frames, tokens, width) = residual.dims3()?;
    let rows = frames * (tokens - 1);
    if width != weight.n() || x.elem_count() != rows * weight.k() {
        candle_core::bail!("{x:?} is added to patch rows of {residual:?}");
    }
    let mut y = beneath(residual, true)?;
    let part = Part {
        weight,
        bias,
        at: [0; 2],
        rows,
    };
    let of = Tokens {
        patches: tokens - 1,
        input: tokens - 1,
        output: tokens,
    };
    run(x, &mut y, Some(residual), (&[part], of))?;
    Ok(y)
}

/// Returns what a product with this residual is written over: its class rows when parts cover all frames, which write all others, or else a copy.
fn beneath(residual: &Tensor, covers: bool) -> Result<Tensor> {
    if residual.numbers() != Numbers::F32 {
        candle_core::bail!("a product is added to {residual:?}");
    }
    if !covers {
        return residual.copy();
    }
    let (frames, tokens, c) = residual.dims3()?;
    let mut y = Tensor::unfilled(residual.gpu(), Numbers::F32, residual.dims())?;
    residual
        .gpu()
        .launch("copy_class_rows")
        .grid([(frames * c).div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .counts(residual.elem_count())
        .read(residual)
        .write(&mut y)
        .int(frames)
        .int(tokens)
        .int(c)
        .run()?;
    Ok(y)
}

/// Enqueues a grouped product. With a residual, y has the rows of no part already.
fn run(
    x: &Tensor,
    y: &mut Tensor,
    residual: Option<&Tensor>,
    (parts, of): (&[Part<'_>], Tokens),
) -> Result<()> {
    let parts: Vec<&Part<'_>> = parts.iter().filter(|part| part.rows > 0).collect();
    let Some(first) = parts.first().map(|part| part.weight) else {
        return Ok(());
    };
    let (numbers, back) = (first.numbers(), first.is_transposed());
    let kernel = Kernel::of(numbers, x.numbers(), y.numbers(), back)?;
    let (mut table, mut tiles, mut widest) = (Vec::with_capacity(parts.len()), 0, 0);
    for part in &parts {
        let (own, width) = (part.weight, part.weight.n());
        // As the rows lie in memory, whichever way they are read.
        let (n, k) = own.values().dims2()?;
        let is_aligned = n.is_multiple_of(8) && k.is_multiple_of(8);
        let is_same = own.numbers() == numbers && own.is_transposed() == back;
        if !is_same || (numbers == Numbers::Bf16 && !is_aligned) {
            candle_core::bail!("a grouped product with a weight {n} × {k}");
        }
        if part.bias.is_some_and(|bias| bias.elem_count() != width) {
            candle_core::bail!("bias {:?} of {width} columns", part.bias);
        }
        table.push(tables::Part {
            weight: own.pointer(),
            bias: part.bias.map_or(0, Tensor::pointer),
            at: part.at,
            rows: int(part.rows)?,
            tile: int(tiles)?,
            n: int(n)?,
            k: int(k)?,
        });
        tiles += part.rows.div_ceil(kernel.side);
        widest = widest.max(width);
    }
    let table = x.gpu().table(&table)?;
    x.gpu()
        .launch(kernel.name)
        .grid([tiles, widest.div_ceil(kernel.side), 1])
        .threads(THREADS)
        .shared(kernel.shared)
        .read(x)
        .write(y)
        .read_or_null(residual)
        .read(&table)
        .int(parts.len())
        .int(of.patches)
        .int(of.input)
        .int(of.output)
        .run()
}
