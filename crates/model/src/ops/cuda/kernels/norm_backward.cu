// LayerNorm backward: the gradient of the input with the one that bypassed the norm added, a warp a row; and the sums for its own weights.
#include "numbers.cuh"

namespace {

struct Row {
    float mean, scale;
};

// As the forward finds them, but for the order of its sums. V is 1 or 8 numbers at a time.
template <int V>
__device__ __forceinline__ Row statistics(const float* x, int c, float eps) {
    int lane = threadIdx.x % 32;
    float own[V], sum = 0.0f;
    for (int at = lane * V; at < c; at += 32 * V) {
        read_some<V>(x + at, own);
        for (int i = 0; i < V; ++i) sum += own[i];
    }
    float mean = warp_sum(sum) / c;
    sum = 0.0f;
    for (int at = lane * V; at < c; at += 32 * V) {
        read_some<V>(x + at, own);
        for (int i = 0; i < V; ++i) sum += (own[i] - mean) * (own[i] - mean);
    }
    return {mean, 1.0f / sqrtf(warp_sum(sum) / c + eps)};
}

// dx = add + scale · (dy · w - Σ dy · w / c - x̂ · Σ dy · w · x̂ / c); also rounded to `rounded`, unless that is null.
template <class Dy, int V>
__device__ __forceinline__ void differentiate(const float* x, const Dy* dy, const float* add, const float* weight,
                                              float* dx, bf16* rounded, int rows, int c, float eps) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    size_t first = size_t(row) * c;
    Row own = statistics<V>(x + first, c, eps);
    float of_x[V], of_dy[V], w[V], a = 0.0f, b = 0.0f;
    for (int at = lane * V; at < c; at += 32 * V) {
        read_some<V>(x + first + at, of_x);
        read_some<V>(dy + first + at, of_dy);
        read_some<V>(weight + at, w);
        for (int i = 0; i < V; ++i) {
            float g = of_dy[i] * w[i];
            a += g;
            b += g * ((of_x[i] - own.mean) * own.scale);
        }
    }
    a = warp_sum(a) / c;
    b = warp_sum(b) / c;
    for (int at = lane * V; at < c; at += 32 * V) {
        float past[V] = {};
        read_some<V>(x + first + at, of_x);
        read_some<V>(dy + first + at, of_dy);
        read_some<V>(weight + at, w);
        if (add) read_some<V>(add + first + at, past);
        for (int i = 0; i < V; ++i) {
            float normal = (of_x[i] - own.mean) * own.scale;
            past[i] += own.scale * (of_dy[i] * w[i] - a - normal * b);
        }
        write_some<V>(dx + first + at, past);
        if (rounded) write_some<V>(rounded + first + at, past);
    }
}

// Sums over the `depth` rows of a block (blockIdx.y), a thread a column (of blockIdx.x): partial `[blocks, 2, c]`, dy · x̂ and dy.
template <class Dy>
__device__ __forceinline__ void add_rows(const float* x, const float* statistics, const Dy* dy, float* partial,
                                         int rows, int c, int depth) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= c) return;
    float weight = 0.0f, bias = 0.0f;
    int first = blockIdx.y * depth, end = min(first + depth, rows);
    for (int row = first; row < end; ++row) {
        float g = read1(dy + size_t(row) * c + column);
        float normal = (x[size_t(row) * c + column] - statistics[2 * size_t(row)]) * statistics[2 * size_t(row) + 1];
        weight = fmaf(g, normal, weight);
        bias += g;
    }
    partial[(2 * size_t(blockIdx.y)) * c + column] = weight;
    partial[(2 * size_t(blockIdx.y) + 1) * c + column] = bias;
}

}  // namespace

#define NORM_BACKWARD(name, Dy, V)                                                                                  \
    FS_KERNEL(256, name, const float* x, const Dy* dy, const float* add, const float* weight, float* dx,            \
              bf16* rounded, int rows, int c, float eps) {                                                          \
        differentiate<Dy, V>(x, dy, add, weight, dx, rounded, rows, c, eps);                                        \
    }
NORM_BACKWARD(norm_backward_f32_8, float, 8)
NORM_BACKWARD(norm_backward_f32_any, float, 1)
NORM_BACKWARD(norm_backward_bf16_8, bf16, 8)
NORM_BACKWARD(norm_backward_bf16_any, bf16, 1)

// Mean and 1 / √(variance + eps) of each row: `[rows, 2]`. A warp a row.
FS_KERNEL(256, norm_statistics, const float* x, float* statistics_of, int rows, int c, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    Row own = statistics<1>(x + size_t(row) * c, c, eps);
    if (threadIdx.x % 32 == 0) {
        statistics_of[2 * size_t(row)] = own.mean;
        statistics_of[2 * size_t(row) + 1] = own.scale;
    }
}
FS_KERNEL(256, norm_weight_gradient_f32, const float* x, const float* statistics, const float* dy, float* partial,
          int rows, int c, int depth) {
    add_rows(x, statistics, dy, partial, rows, c, depth);
}
FS_KERNEL(256, norm_weight_gradient_bf16, const float* x, const float* statistics, const bf16* dy, float* partial,
          int rows, int c, int depth) {
    add_rows(x, statistics, dy, partial, rows, c, depth);
}
