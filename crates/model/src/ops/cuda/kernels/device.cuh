// What the kernels ask of a device: once for nvcc, and once (tests/emulated/host.hpp) for the CPU.
// A kernel's body uses CUDA's own names (threadIdx, __syncthreads, __shfl_xor_sync, expf) and, for anything that is an instruction, one of these functions.
#pragma once
#include <stdint.h>

// A bfloat16 is its 16 bits; two of them are a word, the first in the low half.
typedef uint16_t bf16;

#ifdef FS_EMULATED
#include "host.hpp"
#else

// Defines a kernel: the most threads of a block, its name, its arguments. Blocks have one dimension, so that a lane is `threadIdx.x % 32`.
#define FS_KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define FS_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// States that an address is a multiple of so many bytes, which the emulated device checks.
#define FS_ALIGNED(at, bytes)

__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float(uint32_t(x) << 16); }

// Two floats, rounded to the nearest even bfloat16.
__device__ __forceinline__ uint32_t narrow2(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ bf16 narrow(float x) { return bf16(narrow2(x, 0.0f)); }

// 2^x
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Copies 16 bytes to shared memory later; zeros when `present` is false (nothing is read then).
__device__ __forceinline__ void copy16_async(void* shared, const void* global, bool present) {
    uint32_t to = uint32_t(__cvta_generic_to_shared(shared));
    int bytes = present ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `n` of this thread's groups of copies are under way.
template <int n>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// Loads four 8 × 8 matrices of 16-bit numbers; lane 8i + j gives the address of row j of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], const void* row) {
    uint32_t from = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(from)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], const void* row) {
    uint32_t from = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(from)
                 : "memory");
}

// d[16 × 8] += a[16 × 16] · b[16 × 8], bfloat16 in, floats out.
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
