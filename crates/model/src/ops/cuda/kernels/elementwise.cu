// Operations on each number by itself: conversion, addition, transposition, and one update of AdamW over flat buffers.
#include "numbers.cuh"

// Weights from `begin` on, up to the next range's, which are multiplied by `keep` = 1 - learning rate · decay.
struct Decay {
    long long begin;
    float keep;
};

// What an update needs, the same for all weights.
struct Update {
    float scale;                // of gradients, by clipping
    float keep_1, add_1;        // m = keep_1 · m + add_1 · g
    float keep_2, add_2;        // v = keep_2 · v + add_2 · g²
    float rate, root, eps;      // w = keep · w - rate · m / (√v / root + eps)
};

namespace {

__device__ __forceinline__ long long own_index() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }

// A thread eight numbers.
template <class In, class Out>
__device__ __forceinline__ void convert(const In* x, Out* y, long long count) {
    long long at = own_index() * 8;
    if (is_aligned(x) && is_aligned(y) && at + 8 <= count) {
        float own[8];
        read8(x + at, own);
        write8(y + at, own);
        return;
    }
    for (long long end = min(at + 8, count); at < end; ++at) write1(y + at, read1(x + at));
}

}  // namespace

FS_KERNEL(256, cast_f32_bf16, const float* x, bf16* y, long long count) { convert(x, y, count); }
FS_KERNEL(256, cast_bf16_f32, const bf16* x, float* y, long long count) { convert(x, y, count); }

FS_KERNEL(256, add_f32, const float* a, const float* b, float* y, long long count) {
    long long i = own_index();
    if (i < count) y[i] = a[i] + b[i];
}

// y `[columns, rows]` = xᵀ of x `[rows, columns]`.
FS_KERNEL(256, transpose_f32, const float* x, float* y, int rows, int columns) {
    int i = int(own_index());
    if (i < rows * columns) y[i % columns * rows + i / columns] = x[i];
}

// One step over all weights. `decays` are `count_decays` ranges in order; the first begins at 0.
FS_KERNEL(256, adamw, float* weights, const float* gradients, float* first, float* second, const Decay* decays,
          int count_decays, Update update, long long count) {
    long long i = own_index();
    if (i >= count) return;
    int low = 0, high = count_decays - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (decays[middle].begin <= i) low = middle;
        else high = middle - 1;
    }
    float g = gradients[i] * update.scale;
    float m = update.keep_1 * first[i] + update.add_1 * g;
    float v = update.keep_2 * second[i] + update.add_2 * (g * g);
    first[i] = m;
    second[i] = v;
    weights[i] = decays[low].keep * weights[i] - update.rate * m / (sqrtf(v) / update.root + update.eps);
}
