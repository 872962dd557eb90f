// Numbers in memory, as floats or bfloat16, one or eight at a time; sums and maxima over a warp.
#pragma once
#include "device.cuh"

namespace {

struct alignas(16) Words {
    uint32_t w[4];
};
struct alignas(16) Floats {
    float x[4];
};

__device__ __forceinline__ float read1(const float* from) { return *from; }
__device__ __forceinline__ float read1(const bf16* from) { return widen(*from); }
__device__ __forceinline__ void write1(float* to, float x) { *to = x; }
__device__ __forceinline__ void write1(bf16* to, float x) { *to = narrow(x); }

// Eight numbers at an address that is a multiple of 16 bytes.
__device__ __forceinline__ void read8(const bf16* from, float (&x)[8]) {
    FS_ALIGNED(from, 16);
    Words words = *reinterpret_cast<const Words*>(from);
    for (int i = 0; i < 4; ++i) {
        x[2 * i] = widen(bf16(words.w[i]));
        x[2 * i + 1] = widen(bf16(words.w[i] >> 16));
    }
}
__device__ __forceinline__ void read8(const float* from, float (&x)[8]) {
    FS_ALIGNED(from, 16);
    Floats low = reinterpret_cast<const Floats*>(from)[0], high = reinterpret_cast<const Floats*>(from)[1];
    for (int i = 0; i < 4; ++i) {
        x[i] = low.x[i];
        x[4 + i] = high.x[i];
    }
}
__device__ __forceinline__ void write8(bf16* to, const float (&x)[8]) {
    FS_ALIGNED(to, 16);
    Words words;
    for (int i = 0; i < 4; ++i) words.w[i] = narrow2(x[2 * i], x[2 * i + 1]);
    *reinterpret_cast<Words*>(to) = words;
}
__device__ __forceinline__ void write8(float* to, const float (&x)[8]) {
    FS_ALIGNED(to, 16);
    Floats low, high;
    for (int i = 0; i < 4; ++i) {
        low.x[i] = x[i];
        high.x[i] = x[4 + i];
    }
    reinterpret_cast<Floats*>(to)[0] = low;
    reinterpret_cast<Floats*>(to)[1] = high;
}

// Whether eight numbers at a time can be read there.
__device__ __forceinline__ bool is_aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

// V numbers at a time, V being 1 or 8.
template <int V, class T>
__device__ __forceinline__ void read_some(const T* from, float (&x)[V]) {
    if constexpr (V == 8) read8(from, x);
    else x[0] = read1(from);
}
template <int V, class T>
__device__ __forceinline__ void write_some(T* to, const float (&x)[V]) {
    if constexpr (V == 8) write8(to, x);
    else write1(to, x[0]);
}

// All lanes get the result, formed in the same order in each.
__device__ __forceinline__ float warp_sum(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
// A NaN among the numbers is left out, as fmaxf does.
__device__ __forceinline__ float warp_max(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

}  // namespace
