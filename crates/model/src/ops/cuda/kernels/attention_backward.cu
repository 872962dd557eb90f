// Attention backward on packed `[N, L, 3C]`, head dimension 64, bfloat16, without atomics: one kernel makes dQ, block by block of keys; its mirror
// image makes dK and dV, block by block of queries. Both make the scores again from the forward's log sums.
#include "numbers.cuh"
#include "tile64.cuh"

namespace {

// The operands of one head of one frame. Scores are products of `row_1` and `column_1`, their gradients of `row_2` and `column_2`.
struct Head {
    const bf16 *row_1, *row_2, *column_1, *column_2;
    const float *log_sums, *deltas;
    int tokens, stride, row_stride, column_stride;
};

// KEYS: rows are keys and values, columns queries and their gradients; else the other way round.
template <bool KEYS>
__device__ __forceinline__ Head head_of(const bf16* qkv, const bf16* dy, const float* log_sums, const float* deltas,
                                        int tokens, int heads) {
    int head = blockIdx.y, frame = blockIdx.z, width = heads * D, stride = 3 * width;
    const bf16* q = qkv + size_t(frame) * tokens * stride + head * D;
    const bf16* own_dy = dy + size_t(frame) * tokens * width + head * D;
    size_t sums = (size_t(frame) * heads + head) * tokens;
    return {KEYS ? q + width : q,          KEYS ? q + 2 * width : own_dy,
            KEYS ? q : q + width,          KEYS ? own_dy : q + 2 * width,
            log_sums + sums,               deltas + sums,
            tokens,                        stride,
            KEYS ? stride : width,         KEYS ? width : stride};
}

// rows · columnsᵀ: [16, 32] of a warp's 16 rows and 32 columns from `at` on.
__device__ __forceinline__ void scores_of(float (&s)[4][4], bf16* rows, int row, bf16* columns, int at) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 4; ++i) s[j][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        uint32_t a[4], b[4];
        load_left(a, rows, row, k);
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            load_columns(b, columns, at + p * 16, k);
            multiply_add(s[2 * p], a, b[0], b[1]);
            multiply_add(s[2 * p + 1], a, b[2], b[3]);
        }
    }
}

// sums[16, 64] += s[16, 32] · columns.
__device__ __forceinline__ void add_product(float (&sums)[8][4], const float (&s)[4][4], bf16* columns, int at) {
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        uint32_t a[4] = {narrow2(s[2 * p][0], s[2 * p][1]), narrow2(s[2 * p][2], s[2 * p][3]),
                         narrow2(s[2 * p + 1][0], s[2 * p + 1][1]), narrow2(s[2 * p + 1][2], s[2 * p + 1][3])};
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            uint32_t b[4];
            load_right(b, columns, at + p * 16, n);
            multiply_add(sums[2 * n], a, b[0], b[1]);
            multiply_add(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// Products become weights p and the gradients of scores p · (dp - δ), of the 32 columns from token `at` on.
template <bool KEYS>
__device__ __forceinline__ void slopes(float (&p)[4][4], float (&ds)[4][4], const Head& head, const float (&of_row)[2],
                                       const float (&delta_of_row)[2], int at, float scale) {
    int pair = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int token = at + j * 8 + pair * 2 + i % 2;
            bool inside = token < head.tokens;
            float sum = KEYS ? (inside ? head.log_sums[token] : 0.0f) : of_row[i / 2];
            float less = KEYS ? (inside ? head.deltas[token] : 0.0f) : delta_of_row[i / 2];
            p[j][i] = inside ? exp2_fast(p[j][i] * scale - sum) : 0.0f;
            ds[j][i] = inside ? p[j][i] * (ds[j][i] - less) : 0.0f;
        }
}

__device__ __forceinline__ void write(bf16* out, const float (&sums)[8][4], int first, int tokens, int stride,
                                      float scale) {
    int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        int token = first + group + 8 * h;
        if (token >= tokens) continue;
        uint32_t* row = reinterpret_cast<uint32_t*>(out + size_t(token) * stride);
#pragma unroll
        for (int j = 0; j < 8; ++j) row[j * 4 + pair] = narrow2(sums[j][2 * h] * scale, sums[j][2 * h + 1] * scale);
    }
}

template <bool KEYS>
__device__ __forceinline__ void differentiate(const Head& head, bf16* d_q, int width, float scale) {
    FS_DYNAMIC_SHARED(shared);
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4;
    bf16* rows = reinterpret_cast<bf16*>(shared);
    bf16* rows_2 = rows + warps * 16 * D;
    bf16* tiles = rows_2 + warps * 16 * D;
    int tokens = head.tokens, first = blockIdx.x * warps * 16, blocks = (tokens + TILE - 1) / TILE;
    load_tile(rows, head.row_1, first, warps * 16, tokens, head.stride);
    load_tile(rows_2, head.row_2, first, warps * 16, tokens, head.row_stride);
    load_tile(tiles, head.column_1, 0, TILE, tokens, head.stride);
    load_tile(tiles + TILE * D, head.column_2, 0, TILE, tokens, head.column_stride);
    copies_commit();

    float of_row[2] = {}, delta_of_row[2] = {};
    if (!KEYS)
        for (int h = 0; h < 2; ++h) {
            int token = first + warp * 16 + group + 8 * h;
            if (token < tokens) {
                of_row[h] = head.log_sums[token];
                delta_of_row[h] = head.deltas[token];
            }
        }
    float d_1[8][4] = {}, d_2[8][4] = {};
    for (int block = 0; block < blocks; ++block) {
        bf16* columns = tiles + block % 2 * 2 * TILE * D;
        bf16* columns_2 = columns + TILE * D;
        copies_wait<0>();
        __syncthreads();
        if (block + 1 < blocks) {
            bf16* next = tiles + (block + 1) % 2 * 2 * TILE * D;
            load_tile(next, head.column_1, (block + 1) * TILE, TILE, tokens, head.stride);
            load_tile(next + TILE * D, head.column_2, (block + 1) * TILE, TILE, tokens, head.column_stride);
            copies_commit();
        }
        for (int at = 0; at < TILE && block * TILE + at < tokens; at += 32) {
            float p[4][4], ds[4][4];
            scores_of(p, rows, warp * 16, columns, at);
            scores_of(ds, rows_2, warp * 16, columns_2, at);
            slopes<KEYS>(p, ds, head, of_row, delta_of_row, block * TILE + at, scale);
            if (KEYS) add_product(d_2, p, columns_2, at);
            add_product(d_1, ds, columns, at);
        }
    }
    int own = first + warp * 16;
    write(KEYS ? d_q + width : d_q, d_1, own, tokens, head.stride, 0.125f);
    if (KEYS) write(d_q + 2 * width, d_2, own, tokens, head.stride, 1.0f);
}

}  // namespace

FS_KERNEL(128, attention_64_dq, const bf16* qkv, const bf16* dy, const float* log_sums, const float* deltas,
          bf16* d_qkv, int tokens, int heads, float scale) {
    bf16* d_q = d_qkv + size_t(blockIdx.z) * tokens * 3 * heads * D + blockIdx.y * D;
    differentiate<false>(head_of<false>(qkv, dy, log_sums, deltas, tokens, heads), d_q, heads * D, scale);
}
FS_KERNEL(128, attention_64_dkv, const bf16* qkv, const bf16* dy, const float* log_sums, const float* deltas,
          bf16* d_qkv, int tokens, int heads, float scale) {
    bf16* d_q = d_qkv + size_t(blockIdx.z) * tokens * 3 * heads * D + blockIdx.y * D;
    differentiate<true>(head_of<true>(qkv, dy, log_sums, deltas, tokens, heads), d_q, heads * D, scale);
}

// Σ dy · y over each head of each token: `[N, heads, L]`. A warp a token; eight lanes a head.
FS_KERNEL(256, attention_64_delta, const bf16* y, const bf16* dy, float* deltas, int rows, int tokens, int heads) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    for (int first = 0; first < heads; first += 4) {
        int head = first + lane / 8;
        float sum = 0.0f;
        if (head < heads) {
            size_t at = size_t(row) * heads * D + head * D + lane % 8 * 8;
            float a[8], b[8];
            read8(y + at, a);
            read8(dy + at, b);
#pragma unroll
            for (int i = 0; i < 8; ++i) sum += a[i] * b[i];
        }
        for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        if (head < heads && lane % 8 == 0)
            deltas[(size_t(row / tokens) * heads + head) * tokens + row % tokens] = sum;
    }
}
