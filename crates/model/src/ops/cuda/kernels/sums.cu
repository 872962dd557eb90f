// Sums over rows in a fixed order: partial sums of runs of rows, and those added one after another to an earlier sum; sums of squares; and the number of words
// that differ.
#include "numbers.cuh"
#include "parts.cuh"
#include "runs.cuh"

namespace {

// Partial `[runs, n]` of the last `patches` rows of frames of `tokens` rows: a thread a column (of blockIdx.x) of a run (blockIdx.y).
template <class In>
__device__ __forceinline__ void add_columns(const In* x, float* partial, int rows, int clip, int most, int n,
                                            int patches, int tokens) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n) return;
    Run run = run_of(blockIdx.y, rows, clip, most);
    float sum = 0.0f;
    for (int row = run.begin; row < run.end; ++row) sum += read1(x + row_at(row, patches, tokens) * n + column);
    partial[size_t(blockIdx.y) * n + column] = sum;
}

}  // namespace

FS_KERNEL(256, column_sums_f32, const float* x, float* partial, int rows, int clip, int most, int n, int patches,
          int tokens) {
    add_columns(x, partial, rows, clip, most, n, patches, tokens);
}
FS_KERNEL(256, column_sums_bf16, const bf16* x, float* partial, int rows, int clip, int most, int n, int patches,
          int tokens) {
    add_columns(x, partial, rows, clip, most, n, patches, tokens);
}

// out[i] = earlier[i] + partial[0][i] + partial[1][i] + …, of `[rows, columns]` numbers, one partial sum `stride` after the other; without `earlier` it
// begins at the first. `transposed`: `earlier` and `out` are `[columns, rows]`. `earlier` may be `out`.
FS_KERNEL(256, add_runs, const float* partial, const float* earlier, float* out, int runs, long long stride, int rows,
          int columns, int transposed) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * columns) return;
    int to = transposed ? i % columns * rows + i / columns : i;
    float sum = earlier ? earlier[to] + partial[i] : partial[i];
    for (int run = 1; run < runs; ++run) sum += partial[run * stride + i];
    out[to] = sum;
}

// Sums of squares, in double precision, of `each` numbers a block: finite exactly where all of these numbers are.
FS_KERNEL(256, squares, const float* x, double* partial, long long count, int each) {
    FS_DYNAMIC_SHARED(shared);
    double* own = reinterpret_cast<double*>(shared);
    long long first = static_cast<long long>(blockIdx.x) * each, end = min(first + each, count);
    double sum = 0.0;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) sum += double(x[i]) * double(x[i]);
    own[threadIdx.x] = sum;
    for (int distance = blockDim.x / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < distance) own[threadIdx.x] += own[threadIdx.x + distance];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = own[0];
}

// The sum of the partial sums, in their order: one thread.
FS_KERNEL(32, add_doubles, const double* partial, double* out, int count) {
    if (threadIdx.x != 0) return;
    double sum = 0.0;
    for (int i = 0; i < count; ++i) sum += partial[i];
    *out = sum;
}

// How many words of a row (blockIdx.y) of x `[rows, count]` differ from those of its first row: partial sums `[rows, blocks]`, of `each` words a block.
FS_KERNEL(256, differing_words, const uint32_t* x, int* partial, long long count, int each) {
    FS_DYNAMIC_SHARED(shared);
    int* own = reinterpret_cast<int*>(shared);
    long long first = static_cast<long long>(blockIdx.x) * each, end = min(first + each, count);
    const uint32_t* row = x + size_t(blockIdx.y) * count;
    int differing = 0;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) differing += row[i] != x[i];
    own[threadIdx.x] = differing;
    for (int distance = blockDim.x / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < distance) own[threadIdx.x] += own[threadIdx.x + distance];
    }
    if (threadIdx.x == 0) partial[size_t(blockIdx.y) * gridDim.x + blockIdx.x] = own[0];
}
