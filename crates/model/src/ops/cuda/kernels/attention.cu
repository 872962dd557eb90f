// Attention forward on packed queries, keys and values `[N, L, 3C]`, head dimension 64, bfloat16: blocks of 64 keys; scores never leave registers.
// One block: 16 queries a warp, blockDim.x / 32 warps, of one head (blockIdx.y) of one frame (blockIdx.z).
#include "tile64.cuh"

namespace {

// Maxima and sums of a lane's two rows so far, with what weighs their values.
struct Rows {
    float out[8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sums[2] = {0.0f, 0.0f};
};

// scores[16, 64] = queries · keysᵀ of the pairs of 8 keys that hold a token at all.
__device__ __forceinline__ void score(float (&scores)[8][4], const uint32_t (&of_q)[4][4], bf16* keys, int pairs) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
        for (int i = 0; i < 4; ++i) scores[2 * p][i] = scores[2 * p + 1][i] = 0.0f;
        if (p < pairs) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                uint32_t b[4];
                load_columns(b, keys, p * 16, i);
                multiply_add(scores[2 * p], of_q[i], b[0], b[1]);
                multiply_add(scores[2 * p + 1], of_q[i], b[2], b[3]);
            }
        }
    }
}

// Scores become weights relative to the largest so far; what was summed before is scaled to it. `left`: keys of this block that exist.
__device__ __forceinline__ void weigh(float (&scores)[8][4], Rows& rows, int left, float scale) {
    int pair = threadIdx.x % 4;
    float now[2] = {rows.most[0], rows.most[1]};
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            bool inside = j * 8 + pair * 2 + i % 2 < left;
            scores[j][i] = inside ? scores[j][i] * scale : -INFINITY;
            now[i / 2] = fmaxf(now[i / 2], scores[j][i]);
        }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 1));
        now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 2));
        float keep = exp2_fast(rows.most[h] - now[h]);
        rows.most[h] = now[h];
        rows.sums[h] *= keep;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            rows.out[j][2 * h] *= keep;
            rows.out[j][2 * h + 1] *= keep;
        }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            scores[j][i] = exp2_fast(scores[j][i] - rows.most[i / 2]);
            rows.sums[i / 2] += scores[j][i];
        }
}

// out[16, 64] += weights · values.
__device__ __forceinline__ void add_values(Rows& rows, const float (&weights)[8][4], bf16* values, int pairs) {
#pragma unroll
    for (int p = 0; p < 4; ++p)
        if (p < pairs) {
            const float(&low)[4] = weights[2 * p];
            const float(&high)[4] = weights[2 * p + 1];
            uint32_t a[4] = {narrow2(low[0], low[1]), narrow2(low[2], low[3]), narrow2(high[0], high[1]),
                             narrow2(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                uint32_t b[4];
                load_right(b, values, p * 16, n);
                multiply_add(rows.out[2 * n], a, b[0], b[1]);
                multiply_add(rows.out[2 * n + 1], a, b[2], b[3]);
            }
        }
}

}  // namespace

// `log_sums` `[N, heads, L]`, in base 2, is what a backward reads; null where there is none. `scale` is log2(e) / √64.
FS_KERNEL(256, attention_64, const bf16* qkv, bf16* y, float* log_sums, int tokens, int heads, float scale) {
    FS_DYNAMIC_SHARED(shared);
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    int head = blockIdx.y, frame = blockIdx.z, width = heads * D, stride = 3 * width;
    bf16* queries = reinterpret_cast<bf16*>(shared);
    bf16* tiles = queries + warps * 16 * D;
    const bf16* q = qkv + size_t(frame) * tokens * stride + head * D;
    const bf16 *k = q + width, *v = q + 2 * width;
    int first = blockIdx.x * warps * 16, blocks = (tokens + TILE - 1) / TILE;

    load_tile(queries, q, first, warps * 16, tokens, stride);
    load_tile(tiles, k, 0, TILE, tokens, stride);
    load_tile(tiles + TILE * D, v, 0, TILE, tokens, stride);
    copies_commit();
    uint32_t of_q[4][4];
    Rows rows;
    for (int block = 0; block < blocks; ++block) {
        bf16* keys = tiles + (block % 2) * 2 * TILE * D;
        copies_wait<0>();
        __syncthreads();
        if (block + 1 < blocks) {
            bf16* next = tiles + ((block + 1) % 2) * 2 * TILE * D;
            load_tile(next, k, (block + 1) * TILE, TILE, tokens, stride);
            load_tile(next + TILE * D, v, (block + 1) * TILE, TILE, tokens, stride);
            copies_commit();
        }
        if (block == 0) {
#pragma unroll
            for (int i = 0; i < 4; ++i) load_left(of_q[i], queries, warp * 16, i);
        }
        int left = tokens - block * TILE, pairs = left >= TILE ? TILE / 16 : (left + 15) / 16;
        float scores[8][4];
        score(scores, of_q, keys, pairs);
        weigh(scores, rows, left, scale);
        add_values(rows, scores, keys + TILE * D, pairs);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float sum = rows.sums[h];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        int token = first + warp * 16 + group + 8 * h;
        if (token >= tokens) continue;
        float share = 1.0f / sum;
        uint32_t* row = reinterpret_cast<uint32_t*>(y + (size_t(frame) * tokens + token) * width + head * D);
#pragma unroll
        for (int j = 0; j < 8; ++j) row[j * 4 + pair] = narrow2(rows.out[j][2 * h] * share, rows.out[j][2 * h + 1] * share);
        if (log_sums && pair == 0) log_sums[(size_t(frame) * heads + head) * tokens + token] = rows.most[h] + log2f(sum);
    }
}
