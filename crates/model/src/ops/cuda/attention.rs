//! Multi-head attention of each frame on the device: matrix instructions for heads of 64 numbers in bfloat16, plain loops for all others.
//!
//! Invariant: a query, and in the backward pass a key, of a frame's head is computed in one order, whatever its neighbours.

use candle_core::Result;

use super::Tensor;
use super::launch::Launch;
use super::tables::Strides;
use crate::ops::Numbers;
use crate::ops::attention::How;

/// Width of the heads that matrix instructions compute.
const FAST: usize = 64;
/// Queries, or keys, of a warp of the fast kernels.
const TILE: usize = 16;
/// Threads of a warp.
const WARP: usize = 32;
/// Warps of a block of the plain kernels.
const PLAIN: usize = 4;

/// What a forward pass leaves for its backward pass.
#[derive(Debug, Clone)]
pub(crate) struct Trace(Option<Fast>);

/// Result of the fast kernel, and the logarithms of the sums of each query's exponentials, `[N, heads, L]`.
#[derive(Debug, Clone)]
struct Fast {
    y: Tensor,
    log_sums: Tensor,
}

/// Queries, keys and values in memory.
#[derive(Clone, Copy)]
struct Operands<'a> {
    q: &'a Tensor,
    kv: &'a Tensor,
    /// Elements before the first key.
    first_key: usize,
    frames: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// Numbers of a row of the result.
    c: usize,
    /// Numbers from one row of queries, and of keys, to the next.
    rows: [usize; 2],
}

impl<'a> Operands<'a> {
    /// Packed queries, keys and values `[N, L, 3C]`.
    fn packed(qkv: &'a Tensor, heads: usize) -> Result<Self> {
        let (frames, tokens, width) = qkv.dims3()?;
        let c = width / 3;
        let own = Self {
            q: qkv,
            kv: qkv,
            first_key: c,
            frames,
            queries: tokens,
            keys: tokens,
            heads,
            c,
            rows: [width, width],
        };
        own.checked(width.is_multiple_of(3))
    }

    /// One query a frame, `[N, C]`, over keys and values `[N, L, 2C]`.
    fn class(q: &'a Tensor, kv: &'a Tensor, heads: usize) -> Result<Self> {
        let ((frames, c), (of_kv, keys, width)) = (q.dims2()?, kv.dims3()?);
        let own = Self {
            q,
            kv,
            first_key: 0,
            frames,
            queries: 1,
            keys,
            heads,
            c,
            rows: [c, width],
        };
        own.checked(of_kv == frames && width == 2 * c && kv.numbers() == q.numbers())
    }

    fn checked(self, fits: bool) -> Result<Self> {
        if !fits || self.heads == 0 || !self.c.is_multiple_of(self.heads) || self.keys == 0 {
            candle_core::bail!(
                "attention of {} heads on {:?} and {:?}",
                self.heads,
                self.q,
                self.kv
            );
        }
        Ok(self)
    }

    fn width(&self) -> usize {
        self.c / self.heads
    }

    /// Returns 1 / √width.
    fn scale(&self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }

    /// Adds queries, keys and values to a launch.
    fn read(self, launch: Launch<'a>) -> Launch<'a> {
        launch
            .read(self.q)
            .read_from(self.kv, self.first_key)
            .read_from(self.kv, self.first_key + self.c)
    }

    /// Adds where rows of queries, of keys and values, and of the result lie.
    fn strides(&self, launch: Launch<'a>) -> Result<Launch<'a>> {
        let [of_q, of_kv] = self.rows;
        Ok(launch
            .value(Strides::of(self.queries, of_q)?)
            .value(Strides::of(self.keys, of_kv)?)
            .value(Strides::of(self.queries, self.c)?))
    }

    fn sizes(&self, launch: Launch<'a>) -> Launch<'a> {
        launch
            .int(self.queries)
            .int(self.keys)
            .int(self.width())
            .float(self.scale())
    }
}

/// Returns blocks and warps of a fast kernel, whose blocks have at most `most` warps.
fn divided(tokens: usize, most: usize) -> (usize, usize) {
    let tiles = tokens.div_ceil(TILE);
    let blocks = tiles.div_ceil(most);
    let warps = tiles.div_ceil(blocks);
    (tiles.div_ceil(warps), warps)
}

/// Computes attention over packed queries, keys and values `[N, L, 3C]`. Returns `[N, L, C]`.
pub(crate) fn forward(qkv: &Tensor, how: How) -> Result<(Tensor, Trace)> {
    let operands = Operands::packed(qkv, how.heads)?;
    let dims = [operands.frames, operands.queries, operands.c];
    let is_bf16 = qkv.numbers() == Numbers::Bf16 && how.numbers == Numbers::Bf16;
    if !is_bf16 || operands.width() != FAST {
        return Ok((plain(operands, &dims, how.numbers)?, Trace(None)));
    }
    let [frames, tokens, _] = dims;
    let (blocks, warps) = divided(tokens, 8);
    let mut y = Tensor::unfilled(qkv.gpu(), Numbers::Bf16, &dims)?;
    let of_sums = [frames, how.heads, tokens];
    let mut log_sums = Tensor::unfilled(qkv.gpu(), Numbers::F32, &of_sums)?;
    qkv.gpu()
        .launch("attention_64")
        .grid([blocks, how.heads, frames])
        .threads(WARP * warps)
        .shared((TILE * warps + 256) * 128)
        .read(qkv)
        .write(&mut y)
        .write(&mut log_sums)
        .int(tokens)
        .int(how.heads)
        .float(operands.scale() * std::f32::consts::LOG2_E)
        .run()?;
    let fast = Fast {
        y: y.clone(),
        log_sums,
    };
    Ok((y, Trace(Some(fast))))
}

/// Returns the gradient `[N, L, 3C]` of the packed operands from that of the result, `[N, L, C]`.
pub(crate) fn backward(qkv: &Tensor, trace: &Trace, dy: &Tensor, how: How) -> Result<Tensor> {
    let operands = Operands::packed(qkv, how.heads)?;
    if dy.elem_count() * 3 != qkv.elem_count() {
        candle_core::bail!("attention on {qkv:?}, gradient {dy:?}");
    }
    if let Some(fast) = &trace.0 {
        let d_qkv = fast_backward(operands, fast, &dy.cast(Numbers::Bf16)?)?;
        return d_qkv.cast(how.numbers);
    }
    let mut d_qkv = Tensor::unfilled(qkv.gpu(), how.numbers, qkv.dims())?;
    let sums = d_query(operands, dy, &mut d_qkv)?;
    d_keys(operands, dy, &sums, &d_qkv)?;
    Ok(d_qkv)
}

fn fast_backward(operands: Operands<'_>, fast: &Fast, dy: &Tensor) -> Result<Tensor> {
    let (qkv, gpu) = (operands.q, operands.q.gpu());
    let (frames, tokens, heads) = (operands.frames, operands.queries, operands.heads);
    let of_sums = [frames, heads, tokens];
    let mut deltas = Tensor::unfilled(gpu, Numbers::F32, &of_sums)?;
    gpu.launch("attention_64_delta")
        .grid([(frames * tokens).div_ceil(8), 1, 1])
        .threads(8 * WARP)
        .read(&fast.y)
        .read(dy)
        .write(&mut deltas)
        .int(frames * tokens)
        .int(tokens)
        .int(heads)
        .run()?;
    let (blocks, warps) = divided(tokens, 4);
    let mut d_qkv = Tensor::unfilled(gpu, Numbers::Bf16, qkv.dims())?;
    for kernel in ["attention_64_dq", "attention_64_dkv"] {
        gpu.launch(kernel)
            .grid([blocks, heads, frames])
            .threads(WARP * warps)
            .shared((2 * TILE * warps + 256) * 128)
            .read(qkv)
            .read(dy)
            .read(&fast.log_sums)
            .read(&deltas)
            .write(&mut d_qkv)
            .int(tokens)
            .int(heads)
            .float(operands.scale() * std::f32::consts::LOG2_E)
            .run()?;
    }
    Ok(d_qkv)
}

/// Computes attention of one query per frame, `[N, C]`, over keys and values `[N, L, 2C]`. Returns `[N, C]`.
pub(crate) fn class_forward(q: &Tensor, kv: &Tensor, how: How) -> Result<Tensor> {
    let operands = Operands::class(q, kv, how.heads)?;
    plain(operands, q.dims(), how.numbers)
}

/// Returns the gradients of one query per frame, `[N, C]`, and of keys and values, `[N, L, 2C]`.
pub(crate) fn class_backward(
    q: &Tensor,
    kv: &Tensor,
    dy: &Tensor,
    how: How,
) -> Result<(Tensor, Tensor)> {
    let operands = Operands::class(q, kv, how.heads)?;
    if dy.elem_count() != q.elem_count() {
        candle_core::bail!("class attention on {q:?}, gradient {dy:?}");
    }
    let mut dq = Tensor::unfilled(q.gpu(), how.numbers, q.dims())?;
    let sums = d_query(operands, dy, &mut dq)?;
    let dkv = Tensor::unfilled(kv.gpu(), how.numbers, kv.dims())?;
    d_keys(operands, dy, &sums, &dkv)?;
    Ok((dq, dkv))
}

fn plain(operands: Operands<'_>, dims: &[usize], numbers: Numbers) -> Result<Tensor> {
    let name = match (operands.q.numbers(), numbers) {
        (Numbers::F32, Numbers::F32) => "attention_plain_f32_f32",
        (Numbers::Bf16, Numbers::F32) => "attention_plain_bf16_f32",
        (Numbers::Bf16, Numbers::Bf16) => "attention_plain_bf16_bf16",
        (Numbers::F32, Numbers::Bf16) => {
            let floats = plain(operands, dims, Numbers::F32)?;
            return floats.cast(numbers);
        }
    };
    let gpu = operands.q.gpu();
    let mut y = Tensor::unfilled(gpu, numbers, dims)?;
    let launch = gpu
        .launch(name)
        .grid([
            operands.queries.div_ceil(PLAIN),
            operands.heads,
            operands.frames,
        ])
        .threads(PLAIN * WARP)
        .shared(4 * PLAIN * operands.keys);
    let launch = operands.read(launch).write(&mut y);
    operands.sizes(operands.strides(launch)?).run()?;
    Ok(y)
}

/// Names of the plain kernels of the backward pass, by the formats of operands, gradient and results.
fn names(q: Numbers, dy: Numbers, dq: Numbers) -> Result<[&'static str; 2]> {
    use Numbers::{Bf16, F32};
    Ok(match (q, dy, dq) {
        (F32, F32, F32) => [
            "attention_plain_dq_f32_f32_f32",
            "attention_plain_dkv_f32_f32_f32",
        ],
        (Bf16, F32, F32) => [
            "attention_plain_dq_bf16_f32_f32",
            "attention_plain_dkv_bf16_f32_f32",
        ],
        (Bf16, F32, Bf16) => [
            "attention_plain_dq_bf16_f32_bf16",
            "attention_plain_dkv_bf16_f32_bf16",
        ],
        (Bf16, Bf16, F32) => [
            "attention_plain_dq_bf16_bf16_f32",
            "attention_plain_dkv_bf16_bf16_f32",
        ],
        (Bf16, Bf16, Bf16) => [
            "attention_plain_dq_bf16_bf16_bf16",
            "attention_plain_dkv_bf16_bf16_bf16",
        ],
        (F32, _, _) => candle_core::bail!("attention on floats, gradients {dy:?} and {dq:?}"),
    })
}

/// Computes the gradient of the queries. Returns sums of each query, which the gradients of keys and values read.
fn d_query(operands: Operands<'_>, dy: &Tensor, dq: &mut Tensor) -> Result<Tensor> {
    let [name, _] = names(operands.q.numbers(), dy.numbers(), dq.numbers())?;
    let gpu = operands.q.gpu();
    let of_sums = [operands.frames, operands.heads, operands.queries, 2];
    let mut sums = Tensor::unfilled(gpu, Numbers::F32, &of_sums)?;
    let launch = gpu
        .launch(name)
        .grid([
            operands.queries.div_ceil(PLAIN),
            operands.heads,
            operands.frames,
        ])
        .threads(PLAIN * WARP)
        .shared(8 * PLAIN * operands.keys);
    let launch = operands.read(launch).read(dy).write(dq).write(&mut sums);
    let of_dq = Strides::of(operands.queries, operands.rows[0])?;
    let launch = operands.strides(launch)?.value(of_dq);
    operands.sizes(launch).run()?;
    Ok(sums)
}

/// Computes the gradients of keys and values into `d_kv`, which lies as the operand does.
fn d_keys(operands: Operands<'_>, dy: &Tensor, sums: &Tensor, d_kv: &Tensor) -> Result<()> {
    let [_, name] = names(operands.q.numbers(), dy.numbers(), d_kv.numbers())?;
    let launch = operands
        .q
        .gpu()
        .launch(name)
        .grid([
            operands.keys.div_ceil(PLAIN),
            operands.heads,
            operands.frames,
        ])
        .threads(PLAIN * WARP)
        .shared(8 * PLAIN * operands.queries);
    let launch = operands
        .read(launch)
        .read(dy)
        .read(sums)
        .update_from(d_kv, operands.first_key)
        .update_from(d_kv, operands.first_key + operands.c);
    let of_kv = Strides::of(operands.keys, operands.rows[1])?;
    let launch = operands.strides(launch)?.value(of_kv);
    operands.sizes(launch).run()
}
