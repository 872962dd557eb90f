// Rows of tokens: class rows, means over clips, patches of pictures and their embedding. Indices are of 32 bits: 64-bit divisions would take longer than
// the memory does.
#include "numbers.cuh"

// Where a picture lies: elements before its first value, and from channel to channel.
struct Picture {
    long long at, channel;
};

namespace {

__device__ __forceinline__ int own_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// y `[n, c]` = the class rows of x `[n, tokens, c]`.
template <class T>
__device__ __forceinline__ void class_rows(const T* x, T* y, int n, int tokens, int c) {
    int i = own_index();
    if (i < n * c) y[i] = x[i / c * tokens * c + i % c];
}

// y `[n, tokens, c]` = x `[n, c]` in the class rows, zeros elsewhere.
template <class T>
__device__ __forceinline__ void only_class_rows(const T* x, T* y, int n, int tokens, int c) {
    int i = own_index();
    if (i >= n * tokens * c) return;
    int row = i / c;
    y[i] = row % tokens == 0 ? x[row / tokens * c + i % c] : T(0);
}

// Patches `[pictures, grid², 3 · patch²]`, each as (channel, row, column): a thread a value, of picture blockIdx.y.
template <class In, class Out>
__device__ __forceinline__ void cut(const In* planes, Out* y, const Picture* pictures, int grid, int patch) {
    int length = 3 * patch * patch, side = grid * patch, i = own_index();
    if (i >= grid * grid * length) return;
    int p = i / length, channel = i % length / (patch * patch), row = i / patch % patch, column = i % patch;
    Picture picture = pictures[blockIdx.y];
    long long from = picture.at + channel * picture.channel + (p / grid * patch + row) * side + p % grid * patch + column;
    write1(y + size_t(blockIdx.y) * grid * grid * length + i, read1(planes + from));
}

}  // namespace

FS_KERNEL(256, class_rows_f32, const float* x, float* y, int n, int tokens, int c) { class_rows(x, y, n, tokens, c); }
FS_KERNEL(256, class_rows_bf16, const bf16* x, bf16* y, int n, int tokens, int c) { class_rows(x, y, n, tokens, c); }
FS_KERNEL(256, only_class_rows_f32, const float* x, float* y, int n, int tokens, int c) {
    only_class_rows(x, y, n, tokens, c);
}
FS_KERNEL(256, only_class_rows_bf16, const bf16* x, bf16* y, int n, int tokens, int c) {
    only_class_rows(x, y, n, tokens, c);
}

// Class rows of y `[n, tokens, c]` = those of x, of the same shape.
FS_KERNEL(256, copy_class_rows, const float* x, float* y, int n, int tokens, int c) {
    int i = own_index();
    if (i >= n * c) return;
    int at = i / c * tokens * c + i % c;
    y[at] = x[at];
}

// Class rows of y `[n, tokens, c]` += x `[n, c]`.
FS_KERNEL(256, add_class_rows, const float* x, float* y, int n, int tokens, int c) {
    int i = own_index();
    if (i < n * c) y[i / c * tokens * c + i % c] += x[i];
}

// Means over each clip's rows of x `[Σ frames, c]`; clip i has the rows from first[i] to first[i + 1]. A thread a number.
FS_KERNEL(256, clip_means, const float* x, float* y, const int* first, int clips, int c) {
    int i = own_index();
    if (i >= clips * c) return;
    int begin = first[i / c], end = first[i / c + 1];
    float sum = 0.0f;
    for (int row = begin; row < end; ++row) sum += x[size_t(row) * c + i % c];
    y[i] = sum / float(end - begin);
}

// Its gradient: each row of clip i (blockIdx.y) is dy's row i over the number of the clip's rows.
FS_KERNEL(256, clip_spread, const float* dy, float* dx, const int* first, int c) {
    int column = blockIdx.x * blockDim.x + threadIdx.x, clip = blockIdx.y;
    if (column >= c) return;
    int begin = first[clip], end = first[clip + 1];
    float share = dy[size_t(clip) * c + column] / float(end - begin);
    for (int row = begin; row < end; ++row) dx[size_t(row) * c + column] = share;
}

#define PATCHES(name, In, Out)                                                                                \
    FS_KERNEL(256, name, const In* planes, Out* y, const Picture* pictures, int grid, int patch) {            \
        cut(planes, y, pictures, grid, patch);                                                                \
    }
PATCHES(patches_f32_f32, float, float)
PATCHES(patches_f32_bf16, float, bf16)
PATCHES(patches_bf16_f32, bf16, float)
PATCHES(patches_bf16_bf16, bf16, bf16)

// Tokens `[n, tokens, c]` = base `[tokens, c]` (class embedding in row 0, plus positions) + the embedded patches `[n, tokens - 1, c]`, with no patch in row 0.
FS_KERNEL(256, embed, const float* patches, const float* base, float* y, int n, int tokens, int c) {
    int i = own_index();
    if (i >= n * tokens * c) return;
    int row = i / c, frame = row / tokens, token = row % tokens;
    float own = base[token * c + i % c];
    y[i] = token == 0 ? own : own + patches[(frame * (tokens - 1) + token - 1) * c + i % c];
}
