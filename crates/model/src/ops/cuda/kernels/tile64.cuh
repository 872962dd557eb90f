// Tiles of rows of 64 numbers in shared memory, as attention's kernels share them.
#pragma once
#include "device.cuh"

namespace {

constexpr int D = 64, TILE = 64, CHUNKS = D / 8;

// Rows of 128 bytes; the 16-byte chunks of a row change places by the row's number, so that no two of eight rows share a bank.
__device__ __forceinline__ bf16* chunk(bf16* tile, int row, int c) { return tile + row * D + ((c ^ (row & 7)) * 8); }

// Brings `rows` rows of a head from token `first` on; zeros beyond the last token.
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* head, int first, int rows, int tokens, int stride) {
    for (int i = threadIdx.x; i < rows * CHUNKS; i += blockDim.x) {
        int row = i / CHUNKS, c = i % CHUNKS, token = first + row;
        bool present = token < tokens;
        copy16_async(chunk(tile, row, c), head + size_t(present ? token : 0) * stride + c * 8, present);
    }
}

// The 16 rows of `rows` from `row` on, as the left operand: 16 numbers of each in a[k].
__device__ __forceinline__ void load_left(uint32_t (&a)[4], bf16* rows, int row, int k) {
    load_matrices(a, chunk(rows, row + threadIdx.x % 32 % 16, 2 * k + threadIdx.x % 32 / 16));
}
// 16 rows from `at` on, as columns of the right operand: rowsᵀ.
__device__ __forceinline__ void load_columns(uint32_t (&b)[4], bf16* rows, int at, int k) {
    int lane = threadIdx.x % 32;
    load_matrices(b, chunk(rows, at + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
}
// 16 rows from `at` on, 16 numbers of each from chunk 2 n on, as the right operand itself.
__device__ __forceinline__ void load_right(uint32_t (&b)[4], bf16* rows, int at, int n) {
    int lane = threadIdx.x % 32;
    load_matrices_transposed(b, chunk(rows, at + lane % 16, 2 * n + lane / 16));
}

}  // namespace
