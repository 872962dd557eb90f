// The products of `grouped.cu` and `weight_gradient.cu` in floats throughout, of any sizes: a block makes 64 × 64 numbers, a thread 4 × 4; a sum is one
// chain of multiply-adds in the order of its length.
#include "parts.cuh"
#include "runs.cuh"

namespace {

constexpr int SIDE = 64, DEPTH = 16, PAD = 4;

struct Tile {
    float left[DEPTH][SIDE + PAD], right[DEPTH][SIDE + PAD];
};

// sums += left · right, of operands that are functions of (row, p) and (p, column); zeros stand where those are outside. `along`: neighbouring threads read
// neighbouring p.
template <bool LEFT_ALONG, bool RIGHT_ALONG, class Left, class Right>
__device__ __forceinline__ void multiply(float (&sums)[4][4], int length, Left left, Right right) {
    FS_DYNAMIC_SHARED(shared);
    Tile& tile = *reinterpret_cast<Tile*>(shared);
    int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    for (int first = 0; first < length; first += DEPTH) {
        for (int i = threadIdx.x; i < SIDE * DEPTH; i += blockDim.x) {
            int p = LEFT_ALONG ? i % DEPTH : i / SIDE, r = LEFT_ALONG ? i / DEPTH : i % SIDE;
            tile.left[p][r] = first + p < length ? left(r, first + p) : 0.0f;
            p = RIGHT_ALONG ? i % DEPTH : i / SIDE, r = RIGHT_ALONG ? i / DEPTH : i % SIDE;
            tile.right[p][r] = first + p < length ? right(first + p, r) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < DEPTH; ++p)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(tile.left[p][row + i], tile.right[p][column + j], sums[i][j]);
        __syncthreads();
    }
}

// Writes the sums of a block's rows of a part, with the bias and the residual if there are any.
__device__ __forceinline__ void finish(const float (&sums)[4][4], const Part& part, float* y, const float* bias,
                                       const float* residual, int width, int patches, int tokens) {
    int first = (int(blockIdx.x) - part.tile) * SIDE + threadIdx.x / 16 * 4;
    int column = blockIdx.y * SIDE + threadIdx.x % 16 * 4;
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            if (first + i >= part.rows || column + j >= width) continue;
            size_t at = part.y_at + row_at(first + i, patches, tokens) * width + column + j;
            float sum = sums[i][j];
            if (bias) sum += bias[column + j];
            if (residual) sum += residual[at];
            y[at] = sum;
        }
}

}  // namespace

FS_KERNEL(256, exact_grouped, const float* x, float* y, const float* residual, const Part* parts, int count,
          int patches, int in_tokens, int out_tokens) {
    Part part = part_of_block(parts, count);
    int first = (int(blockIdx.x) - part.tile) * SIDE, column = blockIdx.y * SIDE, n = part.n, k = part.k;
    if (column >= n) return;
    const float* weight = static_cast<const float*>(part.weight);
    float sums[4][4] = {};
    auto left = [&](int r, int p) {
        return first + r < part.rows ? x[part.x_at + row_at(first + r, patches, in_tokens) * k + p] : 0.0f;
    };
    auto right = [&](int p, int c) { return column + c < n ? weight[size_t(column + c) * k + p] : 0.0f; };
    multiply<true, true>(sums, k, left, right);
    finish(sums, part, y, part.bias, residual, n, patches, out_tokens);
}

FS_KERNEL(256, exact_grouped_dx, const float* dy, float* dx, const float* residual, const Part* parts, int count,
          int patches, int in_tokens, int out_tokens) {
    Part part = part_of_block(parts, count);
    int first = (int(blockIdx.x) - part.tile) * SIDE, column = blockIdx.y * SIDE, n = part.n, k = part.k;
    if (column >= k) return;
    const float* weight = static_cast<const float*>(part.weight);
    float sums[4][4] = {};
    auto left = [&](int r, int p) {
        return first + r < part.rows ? dy[part.x_at + row_at(first + r, patches, in_tokens) * n + p] : 0.0f;
    };
    auto right = [&](int p, int c) { return column + c < k ? weight[size_t(p) * k + column + c] : 0.0f; };
    multiply<true, false>(sums, n, left, right);
    finish(sums, part, dx, nullptr, residual, k, patches, out_tokens);
}

FS_KERNEL(256, exact_weight_gradient, const float* x, const float* dy, float* partial, int rows, int clip, int most,
          int n, int k, int patches, int x_tokens, int dy_tokens) {
    Run run = run_of(blockIdx.z, rows, clip, most);
    int top = blockIdx.x * SIDE, side = blockIdx.y * SIDE;
    float sums[4][4] = {};
    auto left = [&](int r, int p) {
        return top + r < n ? dy[row_at(run.begin + p, patches, dy_tokens) * n + top + r] : 0.0f;
    };
    auto right = [&](int p, int c) {
        return side + c < k ? x[row_at(run.begin + p, patches, x_tokens) * k + side + c] : 0.0f;
    };
    multiply<false, false>(sums, run.end - run.begin, left, right);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            int row = top + threadIdx.x / 16 * 4 + i, column = side + threadIdx.x % 16 * 4 + j;
            if (row < n && column < k) partial[(size_t(blockIdx.z) * n + row) * k + column] = sums[i][j];
        }
}
