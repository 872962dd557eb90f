// The device on the CPU: CUDA's names and `device.cuh`'s functions, on fibers, so that the kernels' own source runs.
//
// What it finds: wrong arithmetic and indexing, a missing barrier or wait (shared memory begins as NaN, asynchronous copies happen at their wait or at once,
// threads run in an order that is chosen per launch, warps side by side or one as far as it gets), lanes that part before a warp-wide instruction, deadlocks, addresses outside shared memory or misaligned,
// bank conflicts of matrix loads. What it cannot find: what the compiler or the chip does otherwise than this file says, memory ordering between
// blocks, and speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "block.hpp"

#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define FS_KERNEL(threads, name, ...)                                                                        \
    extern "C" void name(__VA_ARGS__);                                                                       \
    static const fs::Registration fs_entry_##name(#name, threads, fs::Caller<name>::call, fs::Caller<name>::keep); \
    extern "C" void name(__VA_ARGS__)
#define FS_DYNAMIC_SHARED(name) unsigned char* name = fs::lane->block->shared
#define FS_ALIGNED(at, bytes) fs::aligned(at, bytes)
#define threadIdx (fs::lane->thread)
#define blockIdx (fs::lane->block->index)
#define blockDim (fs::lane->block->threads)
#define gridDim (fs::lane->block->grid)

using std::max;
using std::min;

namespace fs {

inline void aligned(const void* at, unsigned bytes) {
    if (reinterpret_cast<uintptr_t>(at) % bytes) fail("a misaligned address");
}

inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline void copy_now(const Copy& copy) {
    if (copy.from) memcpy(copy.to, copy.from, 16);
    else memset(copy.to, 0, 16);
}
inline uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

}  // namespace fs

// --- CUDA's names ---
inline void __syncthreads() { fs::barrier(); }
inline void __syncwarp() {
    fs::warp_wide<int, int>("syncwarp", 0, [](const int*, int* out) { std::fill(out, out + 32, 0); });
}
inline float __shfl_xor_sync(unsigned mask, float x, int distance) {
    if (mask != 0xffffffffu) fs::fail("a shuffle of some lanes");
    struct In {
        float x;
        int distance;
    };
    return fs::warp_wide<In, float>("shuffle", In{x, distance}, [](const In* in, float* out) {
        for (int i = 0; i < 32; ++i) out[i] = in[i ^ in[i].distance].x;
    });
}

// --- device.cuh's ---
inline float widen(bf16 x) { return fs::from_bits(uint32_t(x) << 16); }
inline bf16 narrow(float x) {
    uint32_t bits = fs::to_bits(x);
    if (x != x) return 0x7fff;
    return bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint32_t narrow2(float low, float high) { return uint32_t(narrow(low)) | uint32_t(narrow(high)) << 16; }
// Numbers below the least normal one are zeros, on the way in and out.
inline float exp2_fast(float x) {
    float y = std::exp2(x);
    return y < 0x1p-126f ? 0.0f : y;
}

inline void copy16_async(void* shared, const void* global, bool present) {
    if (reinterpret_cast<uintptr_t>(global) % 16) fs::fail("a misaligned address of global memory");
    unsigned char* to = fs::in_shared(shared);
    const void* from = present ? global : nullptr;
    if (fs::lane->block->early) {
        fs::copy_now({to, from});
        to = nullptr;
    }
    fs::lane->copies.push_back({to, from});
}
inline void copies_commit() { fs::lane->groups.push_back(fs::lane->copies.size()); }
template <int n>
inline void copies_wait() {
    auto& copies = fs::lane->copies;
    auto& groups = fs::lane->groups;
    if (groups.size() <= n) return;
    size_t oldest = groups.size() - n, done = groups[oldest - 1];
    for (size_t i = 0; i < done; ++i)
        if (copies[i].to) fs::copy_now(copies[i]);
    copies.erase(copies.begin(), copies.begin() + long(done));
    groups.erase(groups.begin(), groups.begin() + long(oldest));
    for (size_t& group : groups) group -= done;
}

namespace fs {

struct Four {
    uint32_t m[4];
};
template <bool transposed>
inline Four load(const void* row) {
    const unsigned char* own = in_shared(row);
    const char* what = transposed ? "ldmatrix.trans" : "ldmatrix";
    return warp_wide<const unsigned char*, Four>(what, own, [](const unsigned char* const* rows, Four* out) {
        for (int i = 0; i < 4; ++i) {
            int banks[8] = {}, most = 0;
            for (int j = 0; j < 8; ++j)
                most = std::max(most, ++banks[reinterpret_cast<uintptr_t>(rows[8 * i + j]) / 16 % 8]);
            counters.matrix_loads += 1;
            counters.conflicts += uint64_t(most - 1);
            for (int l = 0; l < 32; ++l) {
                uint16_t two[2];
                for (int e = 0; e < 2; ++e) {
                    int r = transposed ? 2 * (l % 4) + e : l / 4, c = transposed ? l / 4 : 2 * (l % 4) + e;
                    memcpy(&two[e], rows[8 * i + r] + 2 * c, 2);
                }
                out[l].m[i] = two[0] | uint32_t(two[1]) << 16;
            }
        }
    }, place);
}

}  // namespace fs

inline void load_matrices(uint32_t (&m)[4], const void* row) { memcpy(m, fs::load<false>(row).m, 16); }
inline void load_matrices_transposed(uint32_t (&m)[4], const void* row) { memcpy(m, fs::load<true>(row).m, 16); }

// Fragments as the PTX manual lays them out: a lane's group is lane / 4 and its pair lane % 4.
inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct In {
        float d[4];
        uint32_t a[4], b[2];
    } in;
    memcpy(in.d, d, 16);
    memcpy(in.a, a, 16);
    in.b[0] = b0, in.b[1] = b1;
    struct Out {
        float d[4];
    };
    Out out = fs::warp_wide<In, Out>("mma", in, [](const In* in, Out* out) {
        float a[16][16], b[8][16];
        for (int l = 0; l < 32; ++l)
            for (int e = 0; e < 2; ++e) {
                for (int r = 0; r < 4; ++r)
                    a[l / 4 + r % 2 * 8][l % 4 * 2 + e + r / 2 * 8] = widen(bf16(in[l].a[r] >> 16 * e));
                for (int r = 0; r < 2; ++r) b[l / 4][l % 4 * 2 + e + r * 8] = widen(bf16(in[l].b[r] >> 16 * e));
            }
        for (int l = 0; l < 32; ++l)
            for (int r = 0; r < 4; ++r) {
                int row = l / 4 + r / 2 * 8, column = l % 4 * 2 + r % 2;
                double sum = in[l].d[r];
                for (int k = 0; k < 16; ++k) sum += double(a[row][k]) * double(b[column][k]);
                out[l].d[r] = float(sum);
            }
        fs::counters.products += 1;
    }, fs::place);
    memcpy(d, out.d, 16);
}
