// A product without tiles, which the others are compared with on a device: a thread a number, one chain of multiply-adds.
#include "numbers.cuh"

namespace {

// y[i, j] = Σ_p a[i · a_row + p · a_step] · b[j · b_row + p · b_step] (+ bias[j]) (+ residual[i, j]); y `[m, n]`, row blockIdx.y.
template <class In, class Out>
__device__ __forceinline__ void multiply(const In* a, const In* b, Out* y, const float* bias, const float* residual,
                                         int n, int length, long long a_row, long long a_step, long long b_row,
                                         long long b_step) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) return;
    a += blockIdx.y * a_row;
    b += j * b_row;
    float sum = 0.0f;
    for (int p = 0; p < length; ++p) sum = fmaf(read1(a + p * a_step), read1(b + p * b_step), sum);
    size_t at = size_t(blockIdx.y) * n + j;
    if (bias) sum += bias[j];
    if (residual) sum += residual[at];
    write1(y + at, sum);
}

}  // namespace

#define PLAIN(name, In, Out)                                                                                           \
    FS_KERNEL(256, name, const In* a, const In* b, Out* y, const float* bias, const float* residual, int n,            \
              int length, long long a_row, long long a_step, long long b_row, long long b_step) {                      \
        multiply(a, b, y, bias, residual, n, length, a_row, a_step, b_row, b_step);                                    \
    }
PLAIN(plain_f32_f32, float, float)
PLAIN(plain_bf16_f32, bf16, float)
PLAIN(plain_bf16_bf16, bf16, bf16)
