// Products of several segments, each with its own weight, in one launch, on the patch rows of frames, class tokens skipped where they lie:
// y = x · Wᵀ + b (+ residual), and its gradient dx = dy · W (+ residual). Floats of an operand are rounded to bfloat16 on the way in; sums are floats.
// n and k are multiples of 8. A block makes 128 rows × 128 columns of one segment.
#include "tile128.cuh"

namespace {

// A block's segment, the first of its rows and of its columns.
struct Block {
    Part part;
    int first, column;
};

__device__ __forceinline__ Block block_of(const Part* parts, int count) {
    Part part = part_of_block(parts, count);
    return {part, (int(blockIdx.x) - part.tile) * SIDE, int(blockIdx.y) * SIDE};
}

// Brings a tile of 128 rows along the sum, of an operand of `length` numbers a row: each thread two chunks.
template <class In>
__device__ __forceinline__ void bring_rows(bf16* tile, const In* x, const Block& block, int step, int length,
                                           int patches, int tokens) {
    int c = threadIdx.x % 4, at = step * DEPTH + c * 8;
    for (int row = threadIdx.x / 4; row < SIDE; row += 64) {
        int i = block.first + row;
        bool present = i < block.part.rows && at < length;
        fetch(along(tile, row, c), present ? x + block.part.x_at + row_at(i, patches, tokens) * length + at : x, present);
    }
}

// Writes sums, with the bias and the residual if there are any, to the rows of the result, `width` numbers each.
template <class Out>
__device__ __forceinline__ void finish(const Sums& sums, const Block& block, Out* y, const float* bias,
                                       const float* residual, int width, int patches, int tokens) {
    each_pair(sums, [&](int row, int side, float a, float b) {
        int i = block.first + row, n = block.column + side;
        if (i >= block.part.rows || n >= width) return;
        if (bias) {
            a += bias[n];
            b += bias[n + 1];
        }
        size_t at = block.part.y_at + row_at(i, patches, tokens) * width + n;
        if (residual) {
            Pair r = read_pair(residual + at);
            a += r.x[0];
            b += r.x[1];
        }
        write_pair(y + at, a, b);
    });
}

template <class In, class Out>
__device__ __forceinline__ void forward(const In* x, Out* y, const float* residual, const Part* parts, int count,
                                        int patches, int in_tokens, int out_tokens) {
    Block block = block_of(parts, count);
    int n = block.part.n, k = block.part.k;
    if (block.column >= n) return;
    const bf16* weight = static_cast<const bf16*>(block.part.weight);
    Sums sums;
    run_stages<true, true>(sums, k, [&](int step, bf16* left, bf16* right) {
        bring_rows(left, x, block, step, k, patches, in_tokens);
        int c = threadIdx.x % 4, at = step * DEPTH + c * 8;
        for (int row = threadIdx.x / 4; row < SIDE; row += 64) {
            bool present = block.column + row < n && at < k;
            copy16_async(along(right, row, c), present ? weight + size_t(block.column + row) * k + at : weight, present);
        }
    });
    finish(sums, block, y, block.part.bias, residual, n, patches, out_tokens);
}

template <class Dy, class Out>
__device__ __forceinline__ void backward(const Dy* dy, Out* dx, const float* residual, const Part* parts, int count,
                                         int patches, int in_tokens, int out_tokens) {
    Block block = block_of(parts, count);
    int n = block.part.n, k = block.part.k;
    if (block.column >= k) return;
    const bf16* weight = static_cast<const bf16*>(block.part.weight);
    Sums sums;
    run_stages<true, false>(sums, n, [&](int step, bf16* left, bf16* right) {
        bring_rows(left, dy, block, step, n, patches, in_tokens);
        int c = threadIdx.x % 16, at = block.column + c * 8;
        for (int row = threadIdx.x / 16; row < DEPTH; row += 16) {
            bool present = step * DEPTH + row < n && at < k;
            copy16_async(across(right, row, c), present ? weight + size_t(step * DEPTH + row) * k + at : weight, present);
        }
    });
    finish(sums, block, dx, nullptr, residual, k, patches, out_tokens);
}

}  // namespace

#define GROUPED(name, body, In, Out)                                                                                 \
    FS_KERNEL(256, name, const In* x, Out* y, const float* residual, const Part* parts, int count, int patches,      \
              int in_tokens, int out_tokens) {                                                                       \
        body(x, y, residual, parts, count, patches, in_tokens, out_tokens);                                          \
    }
GROUPED(grouped_f32_f32, forward, float, float)
GROUPED(grouped_f32_bf16, forward, float, bf16)
GROUPED(grouped_bf16_f32, forward, bf16, float)
GROUPED(grouped_bf16_bf16, forward, bf16, bf16)
GROUPED(grouped_dx_f32_f32, backward, float, float)
GROUPED(grouped_dx_f32_bf16, backward, float, bf16)
GROUPED(grouped_dx_bf16_f32, backward, bf16, float)
GROUPED(grouped_dx_bf16_bf16, backward, bf16, bf16)
