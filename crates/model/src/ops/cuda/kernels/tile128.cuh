// Products of bfloat16 by tiles of 128 × 128: a block has 8 warps of 64 × 32, and takes 32 numbers of the sum's length at a time, in three stages of
// shared memory. Operands lie there as rows of 32 numbers along the sum ("rows along"), or as 32 rows of 128 numbers across it ("rows across").
#pragma once
#include "parts.cuh"

namespace {

constexpr int SIDE = 128, DEPTH = 32, STAGES = 3;

// A chunk of 8 numbers of a tile of rows along the sum; chunks change places so that no two of eight neighbouring rows share a bank.
__device__ __forceinline__ bf16* along(bf16* tile, int row, int c) { return tile + row * DEPTH + ((c ^ (row >> 1 & 3)) * 8); }
// The same of a tile of rows across it.
__device__ __forceinline__ bf16* across(bf16* tile, int row, int c) { return tile + row * SIDE + ((c ^ (row & 7)) * 8); }

// Eight numbers of an operand to shared memory, zeros unless present: from bfloat16 asynchronously, from floats through registers, rounded.
__device__ __forceinline__ void fetch(bf16* to, const bf16* from, bool present) { copy16_async(to, from, present); }
__device__ __forceinline__ void fetch(bf16* to, const float* from, bool present) {
    float x[8] = {};
    if (present) read8(from, x);
    write8(to, x);
}

// The sums of one thread: 4 × 4 fragments of a warp's 64 rows × 32 columns.
struct Sums {
    float of[4][4][4] = {};
};

__device__ __forceinline__ int top_of_warp() { return threadIdx.x / 128 * 64; }
__device__ __forceinline__ int side_of_warp() { return threadIdx.x / 32 % 4 * 32; }

// Adds the products of one stage. LEFT_ALONG, RIGHT_ALONG: how either operand lies.
template <bool LEFT_ALONG, bool RIGHT_ALONG>
__device__ __forceinline__ void add_stage(Sums& sums, bf16* left, bf16* right) {
    int lane = threadIdx.x % 32, top = top_of_warp(), side = side_of_warp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint32_t a[4][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (LEFT_ALONG) load_matrices(a[i], along(left, top + 16 * i + lane % 16, 2 * half + lane / 16));
            else
                load_matrices_transposed(
                    a[i], across(left, 16 * half + lane / 16 * 8 + lane % 8, top / 8 + 2 * i + lane / 8 % 2));
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (RIGHT_ALONG)
                load_matrices(b[j], along(right, side + 16 * j + lane / 16 * 8 + lane % 8, 2 * half + lane / 8 % 2));
            else load_matrices_transposed(b[j], across(right, 16 * half + lane % 16, side / 8 + 2 * j + lane / 16));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) multiply_add(sums.of[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

// Runs the stages of a sum of this length; `load(step, left, right)` starts the copies of one.
template <bool LEFT_ALONG, bool RIGHT_ALONG, class Load>
__device__ __forceinline__ void run_stages(Sums& sums, int length, Load load) {
    FS_DYNAMIC_SHARED(shared);
    bf16* left = reinterpret_cast<bf16*>(shared);
    bf16* right = left + STAGES * SIDE * DEPTH;
    int steps = (length + DEPTH - 1) / DEPTH;
    auto start = [&](int step) {
        int at = step % STAGES * SIDE * DEPTH;
        if (step < steps) load(step, left + at, right + at);
        copies_commit();
    };
    for (int s = 0; s < STAGES - 1; ++s) start(s);
    for (int step = 0; step < steps; ++step) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        start(step + STAGES - 1);
        int at = step % STAGES * SIDE * DEPTH;
        add_stage<LEFT_ALONG, RIGHT_ALONG>(sums, left + at, right + at);
    }
    copies_wait<0>();
}

// Calls `end(row, column, a, b)` with each pair of neighbouring sums of this thread, by its place in the tile.
template <class End>
__device__ __forceinline__ void each_pair(const Sums& sums, End end) {
    int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                end(top_of_warp() + 16 * i + group + 8 * h, side_of_warp() + 8 * j + 2 * pair, sums.of[i][j][2 * h],
                    sums.of[i][j][2 * h + 1]);
}

struct alignas(8) Pair {
    float x[2];
};
__device__ __forceinline__ Pair read_pair(const float* from) {
    FS_ALIGNED(from, 8);
    return *reinterpret_cast<const Pair*>(from);
}
__device__ __forceinline__ void write_pair(bf16* to, float a, float b) {
    FS_ALIGNED(to, 4);
    *reinterpret_cast<uint32_t*>(to) = narrow2(a, b);
}
__device__ __forceinline__ void write_pair(float* to, float a, float b) {
    FS_ALIGNED(to, 8);
    *reinterpret_cast<Pair*>(to) = {{a, b}};
}

}  // namespace
