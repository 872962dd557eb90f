// Each function of `device.cuh`, and each warp-wide instruction that kernels use, in a kernel of its own: what a lane gave, and what it got.
#include "device.cuh"

// y[i] = widen(x[i]).
FS_KERNEL(256, function_widen, const bf16* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = widen(x[i]);
}

// pairs[i] = narrow2(x[2 i], x[2 i + 1]), singles[i] = narrow(x[i]).
FS_KERNEL(256, function_narrow, const float* x, uint32_t* pairs, bf16* singles, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    singles[i] = narrow(x[i]);
    if (2 * i + 1 < count) pairs[i] = narrow2(x[2 * i], x[2 * i + 1]);
}

FS_KERNEL(256, function_exp2, const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = exp2_fast(x[i]);
}

// Three groups of copies of 16 bytes a thread, of which every fourth is absent: y `[3, threads, 8]`. A group is read as soon as it must be there, while those
// after it may be under way; each thread reads what its neighbour copied.
FS_KERNEL(128, function_copy, const bf16* x, bf16* y) {
    FS_DYNAMIC_SHARED(shared);
    bf16* tile = reinterpret_cast<bf16*>(shared);
    int threads = blockDim.x, own = threadIdx.x, next = (own + 1) % threads;
    for (int group = 0; group < 3; ++group) {
        int at = (group * threads + own) * 8;
        copy16_async(tile + at, x + at, (own + group) % 4 != 0);
        copies_commit();
    }
    for (int group = 0; group < 3; ++group) {
        if (group == 0) copies_wait<2>();
        else if (group == 1) copies_wait<1>();
        else copies_wait<0>();
        __syncthreads();
        for (int i = 0; i < 8; ++i) y[(group * threads + own) * 8 + i] = tile[(group * threads + next) * 8 + i];
    }
}

// x: 32 rows of 8 numbers, four matrices of 8 × 8; y `[32 lanes, 4]`, as they lie and transposed.
FS_KERNEL(32, function_load, const bf16* x, uint32_t* y, uint32_t* transposed) {
    FS_DYNAMIC_SHARED(shared);
    bf16* rows = reinterpret_cast<bf16*>(shared);
    int lane = threadIdx.x;
    for (int i = 0; i < 8; ++i) rows[lane * 8 + i] = x[lane * 8 + i];
    __syncthreads();
    uint32_t m[4];
    load_matrices(m, rows + lane * 8);
    for (int i = 0; i < 4; ++i) y[lane * 4 + i] = m[i];
    load_matrices_transposed(m, rows + lane * 8);
    for (int i = 0; i < 4; ++i) transposed[lane * 4 + i] = m[i];
}

// Fragments of each lane: a `[32, 4]`, b `[32, 2]`, d `[32, 4]`, which is added to.
FS_KERNEL(32, function_multiply, const uint32_t* a, const uint32_t* b, float* d) {
    int lane = threadIdx.x;
    uint32_t own[4];
    float sums[4];
    for (int i = 0; i < 4; ++i) {
        own[i] = a[lane * 4 + i];
        sums[i] = d[lane * 4 + i];
    }
    multiply_add(sums, own, b[lane * 2], b[lane * 2 + 1]);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}

// y `[5, 32 lanes]`: what a lane gets over the distances 16, 8, 4, 2 and 1, although its neighbours have parted before.
FS_KERNEL(32, function_shuffle, const float* x, float* y) {
    int lane = threadIdx.x;
    float own = x[lane];
    if (lane % 4 == 3) own += 1.0f;
    for (int i = 0; i < 5; ++i) y[i * 32 + lane] = __shfl_xor_sync(0xffffffffu, own, 16 >> i);
}

// Numbers go round a block: `steps` times, each thread writes what it has and reads what its neighbour has written.
FS_KERNEL(256, function_barrier, const float* x, float* y, int steps) {
    FS_DYNAMIC_SHARED(shared);
    float* numbers = reinterpret_cast<float*>(shared);
    int own = threadIdx.x, next = (own + 1) % blockDim.x;
    float number = x[own];
    for (int i = 0; i < steps; ++i) {
        numbers[own] = number;
        __syncthreads();
        number = numbers[next];
        __syncthreads();
    }
    y[own] = number;
}

// The same within a warp.
FS_KERNEL(256, function_warp_barrier, const float* x, float* y, int steps) {
    FS_DYNAMIC_SHARED(shared);
    float* numbers = reinterpret_cast<float*>(shared);
    int own = threadIdx.x, first = own / 32 * 32, next = first + (own + 1) % 32;
    float number = x[own];
    for (int i = 0; i < steps; ++i) {
        numbers[own] = number;
        __syncwarp();
        number = numbers[next];
        __syncwarp();
    }
    y[own] = number;
}
