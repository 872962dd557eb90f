// Attention of any head width, floats or bfloat16, forward and backward, without matrix instructions: also of one query a frame, and what the fast
// kernels are compared with on a device. A warp makes one query (or, in the second half of the backward, one key) of one head of one frame.
#include "numbers.cuh"

// Where the rows of an operand lie: elements from frame to frame and from row to row; a head's numbers follow those of the head before.
struct Strides {
    long long frame;
    int row;
};

namespace {

template <class T>
__device__ __forceinline__ T* row_of(T* operand, Strides rows, int frame, int row, int head, int width) {
    return operand + frame * rows.frame + static_cast<long long>(row) * rows.row + head * width;
}

// In the order of the numbers, however many are read at a time.
template <class A, class B>
__device__ __forceinline__ float dot(const A* a, const B* b, int width) {
    float sum = 0.0f;
    int i = 0;
    if (is_aligned(a) && is_aligned(b))
        for (float x[8], y[8]; i + 8 <= width; i += 8) {
            read8(a + i, x);
            read8(b + i, y);
            for (int j = 0; j < 8; ++j) sum = fmaf(x[j], y[j], sum);
        }
    for (; i < width; ++i) sum = fmaf(read1(a + i), read1(b + i), sum);
    return sum;
}

// weights[j] = softmax(scale · q · k_j); returns the log of the sum, base e.
template <class T>
__device__ __forceinline__ float weigh(float* weights, const T* q, const T* k, Strides rows, int keys, int head,
                                       int width, float scale) {
    int lane = threadIdx.x % 32, frame = blockIdx.z;
    float most = -INFINITY, sum = 0.0f;
    for (int j = lane; j < keys; j += 32) {
        weights[j] = dot(q, row_of(k, rows, frame, j, head, width), width) * scale;
        most = fmaxf(most, weights[j]);
    }
    most = warp_max(most);
    for (int j = lane; j < keys; j += 32) {
        weights[j] = expf(weights[j] - most);
        sum += weights[j];
    }
    sum = warp_sum(sum);
    for (int j = lane; j < keys; j += 32) weights[j] /= sum;
    __syncwarp();
    return most + logf(sum);
}

template <class T, class Out>
__device__ __forceinline__ void attend(const T* q, const T* k, const T* v, Out* y, Strides of_q, Strides of_kv, Strides of_y,
                                       int queries, int keys, int width, float scale) {
    FS_DYNAMIC_SHARED(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, frame = blockIdx.z;
    int query = blockIdx.x * (blockDim.x / 32) + warp;
    if (query >= queries) return;
    float* weights = reinterpret_cast<float*>(shared) + warp * keys;
    weigh(weights, row_of(q, of_q, frame, query, head, width), k, of_kv, keys, head, width, scale);
    Out* to = row_of(y, of_y, frame, query, head, width);
    for (int i = lane; i < width; i += 32) {
        float sum = 0.0f;
        for (int j = 0; j < keys; ++j) sum = fmaf(weights[j], read1(row_of(v, of_kv, frame, j, head, width) + i), sum);
        write1(to + i, sum);
    }
}

// dQ of one query; leaves the log of its sum and Σ p · dp for the other half, `[N, heads, queries, 2]`.
template <class T, class Dy, class Out>
__device__ __forceinline__ void differentiate_query(const T* q, const T* k, const T* v, const Dy* dy, Out* dq,
                                                    float* sums, Strides of_q, Strides of_kv, Strides of_y, Strides of_dq,
                                                    int queries, int keys, int width, float scale) {
    FS_DYNAMIC_SHARED(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, frame = blockIdx.z;
    int query = blockIdx.x * (blockDim.x / 32) + warp;
    if (query >= queries) return;
    float *weights = reinterpret_cast<float*>(shared) + 2 * warp * keys, *slopes = weights + keys;
    const Dy* own = row_of(dy, of_y, frame, query, head, width);
    float log_sum = weigh(weights, row_of(q, of_q, frame, query, head, width), k, of_kv, keys, head, width, scale);
    float delta = 0.0f;
    for (int j = lane; j < keys; j += 32) {
        slopes[j] = dot(own, row_of(v, of_kv, frame, j, head, width), width);
        delta = fmaf(weights[j], slopes[j], delta);
    }
    delta = warp_sum(delta);
    for (int j = lane; j < keys; j += 32) slopes[j] = weights[j] * (slopes[j] - delta) * scale;
    __syncwarp();
    Out* to = row_of(dq, of_dq, frame, query, head, width);
    for (int i = lane; i < width; i += 32) {
        float sum = 0.0f;
        for (int j = 0; j < keys; ++j) sum = fmaf(slopes[j], read1(row_of(k, of_kv, frame, j, head, width) + i), sum);
        write1(to + i, sum);
    }
    if (lane == 0) {
        float* at = sums + ((size_t(frame) * gridDim.y + head) * queries + query) * 2;
        at[0] = log_sum;
        at[1] = delta;
    }
}

// dK and dV of one key.
template <class T, class Dy, class Out>
__device__ __forceinline__ void differentiate_key(const T* q, const T* k, const T* v, const Dy* dy, const float* sums,
                                                  Out* dk, Out* dv, Strides of_q, Strides of_kv, Strides of_y, Strides of_dkv,
                                                  int queries, int keys, int width, float scale) {
    FS_DYNAMIC_SHARED(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, frame = blockIdx.z;
    int key = blockIdx.x * (blockDim.x / 32) + warp;
    if (key >= keys) return;
    float *weights = reinterpret_cast<float*>(shared) + 2 * warp * queries, *slopes = weights + queries;
    const T* own_k = row_of(k, of_kv, frame, key, head, width);
    const T* own_v = row_of(v, of_kv, frame, key, head, width);
    sums += (size_t(frame) * gridDim.y + head) * queries * 2;
    for (int j = lane; j < queries; j += 32) {
        float score = dot(row_of(q, of_q, frame, j, head, width), own_k, width) * scale;
        weights[j] = expf(score - sums[2 * j]);
        float slope = dot(row_of(dy, of_y, frame, j, head, width), own_v, width);
        slopes[j] = weights[j] * (slope - sums[2 * j + 1]) * scale;
    }
    __syncwarp();
    for (int i = lane; i < width; i += 32) {
        float of_k = 0.0f, of_v = 0.0f;
        for (int j = 0; j < queries; ++j) {
            of_k = fmaf(slopes[j], read1(row_of(q, of_q, frame, j, head, width) + i), of_k);
            of_v = fmaf(weights[j], read1(row_of(dy, of_y, frame, j, head, width) + i), of_v);
        }
        write1(row_of(dk, of_dkv, frame, key, head, width) + i, of_k);
        write1(row_of(dv, of_dkv, frame, key, head, width) + i, of_v);
    }
}

}  // namespace

#define ATTENTION(names, T, Out)                                                                                      \
    FS_KERNEL(128, attention_plain_##names, const T* q, const T* k, const T* v, Out* y, Strides of_q, Strides of_kv,        \
              Strides of_y, int queries, int keys, int width, float scale) {                                             \
        attend(q, k, v, y, of_q, of_kv, of_y, queries, keys, width, scale);                                           \
    }
ATTENTION(f32_f32, float, float)
ATTENTION(bf16_f32, bf16, float)
ATTENTION(bf16_bf16, bf16, bf16)

#define ATTENTION_BACKWARD(names, T, Dy, Out)                                                                         \
    FS_KERNEL(128, attention_plain_dq_##names, const T* q, const T* k, const T* v, const Dy* dy, Out* dq,             \
              float* sums, Strides of_q, Strides of_kv, Strides of_y, Strides of_dq, int queries, int keys, int width,            \
              float scale) {                                                                                          \
        differentiate_query(q, k, v, dy, dq, sums, of_q, of_kv, of_y, of_dq, queries, keys, width, scale);            \
    }                                                                                                                 \
    FS_KERNEL(128, attention_plain_dkv_##names, const T* q, const T* k, const T* v, const Dy* dy, const float* sums,  \
              Out* dk, Out* dv, Strides of_q, Strides of_kv, Strides of_y, Strides of_dkv, int queries, int keys, int width,      \
              float scale) {                                                                                          \
        differentiate_key(q, k, v, dy, sums, dk, dv, of_q, of_kv, of_y, of_dkv, queries, keys, width, scale);         \
    }
ATTENTION_BACKWARD(f32_f32_f32, float, float, float)
ATTENTION_BACKWARD(bf16_f32_f32, bf16, float, float)
ATTENTION_BACKWARD(bf16_f32_bf16, bf16, float, bf16)
ATTENTION_BACKWARD(bf16_bf16_f32, bf16, bf16, float)
ATTENTION_BACKWARD(bf16_bf16_bf16, bf16, bf16, bf16)
