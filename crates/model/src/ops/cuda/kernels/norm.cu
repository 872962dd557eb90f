// LayerNorm over the last dimension: a warp a row, two passes over it (mean, then variance), floats throughout.
#include "numbers.cuh"

namespace {

// V: vectors of 8 numbers that a lane holds, so that 256 V ≥ c; c is a multiple of 8.
template <class Out, int V>
__device__ __forceinline__ void in_registers(const float* x, Out* y, const float* weight, const float* bias, int c,
                                             float eps) {
    int lane = threadIdx.x % 32;
    float own[V][8];
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < V; ++v) {
        int at = (v * 32 + lane) * 8;
        if (at < c) {
            read8(x + at, own[v]);
            for (int i = 0; i < 8; ++i) sum += own[v][i];
        }
    }
    float mean = warp_sum(sum) / c;
    sum = 0.0f;
#pragma unroll
    for (int v = 0; v < V; ++v)
        if ((v * 32 + lane) * 8 < c)
            for (int i = 0; i < 8; ++i) sum += (own[v][i] - mean) * (own[v][i] - mean);
    float scale = 1.0f / sqrtf(warp_sum(sum) / c + eps);
#pragma unroll
    for (int v = 0; v < V; ++v) {
        int at = (v * 32 + lane) * 8;
        if (at < c) {
            float w[8], b[8];
            read8(weight + at, w);
            read8(bias + at, b);
            for (int i = 0; i < 8; ++i) own[v][i] = (own[v][i] - mean) * scale * w[i] + b[i];
            write8(y + at, own[v]);
        }
    }
}

// Any width, a number at a time; the row is read three times.
template <class Out>
__device__ __forceinline__ void from_memory(const float* x, Out* y, const float* weight, const float* bias, int c,
                                            float eps) {
    int lane = threadIdx.x % 32;
    float sum = 0.0f;
    for (int i = lane; i < c; i += 32) sum += x[i];
    float mean = warp_sum(sum) / c;
    sum = 0.0f;
    for (int i = lane; i < c; i += 32) sum += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(warp_sum(sum) / c + eps);
    for (int i = lane; i < c; i += 32) write1(y + i, (x[i] - mean) * scale * weight[i] + bias[i]);
}

// V is 0 for any width.
template <class Out, int V>
__device__ __forceinline__ void normalise(const float* x, Out* y, const float* weight, const float* bias, int rows,
                                          int c, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += size_t(row) * c;
    y += size_t(row) * c;
    if constexpr (V == 0) from_memory(x, y, weight, bias, c, eps);
    else in_registers<Out, V>(x, y, weight, bias, c, eps);
}

}  // namespace

#define NORM(name, Out, V)                                                                                        \
    FS_KERNEL(256, name, const float* x, Out* y, const float* weight, const float* bias, int rows, int c, float eps) { \
        normalise<Out, V>(x, y, weight, bias, rows, c, eps);                                                       \
    }
NORM(norm_f32_1, float, 1)
NORM(norm_f32_3, float, 3)
NORM(norm_f32_4, float, 4)
NORM(norm_f32_8, float, 8)
NORM(norm_f32_any, float, 0)
NORM(norm_bf16_1, bf16, 1)
NORM(norm_bf16_3, bf16, 3)
NORM(norm_bf16_4, bf16, 4)
NORM(norm_bf16_8, bf16, 8)
NORM(norm_bf16_any, bf16, 0)
