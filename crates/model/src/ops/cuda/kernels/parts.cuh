// Segments of a batch, each with its own weights, in one launch: which one a block belongs to, and where its rows lie.
#pragma once
#include "numbers.cuh"

// A segment of a product. Its rows are the last `patches` rows of each of its frames.
struct Part {
    const void* weight;     // [n, k]
    const float* bias;      // [n], or null
    long long x_at, y_at;   // elements before its first frame in the operand and in the result
    int rows;               // its frames times `patches`
    int tile;               // blocks (of the grid's x) before its first
    int n, k;
};

// A segment of a convolution over the tokens [frames, grid², channels] of whole clips.
struct Convolution {
    const float* taps;      // [kt · kh · kw, channels]
    const float* bias;      // [channels]
    long long x_at, y_at;   // elements before its first frame in the operand and in the result
    int frames;
    int tile;               // blocks (of the grid's x) before its first
    int channels;
    int kt, kh, kw;         // odd
};

namespace {

// The last of the parts, in the order of their blocks, that begins at or before this block.
template <class P>
__device__ __forceinline__ P part_of_block(const P* parts, int count) {
    int low = 0, high = count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (parts[middle].tile <= int(blockIdx.x)) low = middle;
        else high = middle - 1;
    }
    return parts[low];
}

// The place of row i in frames of `tokens` rows, of which the last `patches` take part.
__device__ __forceinline__ size_t row_at(int i, int patches, int tokens) {
    return size_t(i / patches) * tokens + (tokens - patches) + i % patches;
}

}  // namespace
