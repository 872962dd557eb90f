// Gradient of a linear layer's weight, dW = dyᵀ · x, over the patch rows of frames: a block adds up one run of rows (blockIdx.z) for 128 × 128 weights,
// and leaves the sum in `partial` `[runs, n, k]`; `add_runs` adds those in their order. Operands are rounded to bfloat16, sums are floats.
// n and k are multiples of 8.
#include "runs.cuh"
#include "tile128.cuh"

namespace {

// Brings a tile of 32 rows across the sum, from row `first` on, 128 numbers each from `column` on.
template <class In>
__device__ __forceinline__ void bring_across(bf16* tile, const In* x, int first, int end, int column, int width,
                                             int patches, int tokens) {
    int c = threadIdx.x % 16, at = column + c * 8;
    for (int row = threadIdx.x / 16; row < DEPTH; row += 16) {
        bool present = first + row < end && at < width;
        fetch(across(tile, row, c), present ? x + row_at(first + row, patches, tokens) * width + at : x, present);
    }
}

template <class In, class Dy>
__device__ __forceinline__ void differentiate(const In* x, const Dy* dy, float* partial, int rows, int clip, int most,
                                              int n, int k, int patches, int x_tokens, int dy_tokens) {
    Run run = run_of(blockIdx.z, rows, clip, most);
    int top = blockIdx.x * SIDE, side = blockIdx.y * SIDE;
    Sums sums;
    run_stages<false, false>(sums, run.end - run.begin, [&](int step, bf16* left, bf16* right) {
        int first = run.begin + step * DEPTH;
        bring_across(left, dy, first, run.end, top, n, patches, dy_tokens);
        bring_across(right, x, first, run.end, side, k, patches, x_tokens);
    });
    each_pair(sums, [&](int row, int column, float a, float b) {
        if (top + row >= n || side + column >= k) return;
        write_pair(partial + (size_t(blockIdx.z) * n + top + row) * k + side + column, a, b);
    });
}

}  // namespace

#define WEIGHT_GRADIENT(name, In, Dy)                                                                               \
    FS_KERNEL(256, name, const In* x, const Dy* dy, float* partial, int rows, int clip, int most, int n, int k,     \
              int patches, int x_tokens, int dy_tokens) {                                                           \
        differentiate(x, dy, partial, rows, clip, most, n, k, patches, x_tokens, dy_tokens);                        \
    }
WEIGHT_GRADIENT(weight_gradient_f32_f32, float, float)
WEIGHT_GRADIENT(weight_gradient_f32_bf16, float, bf16)
WEIGHT_GRADIENT(weight_gradient_bf16_f32, bf16, float)
WEIGHT_GRADIENT(weight_gradient_bf16_bf16, bf16, bf16)
