// QuickGELU and GELU with the error function, forward and backward: a thread eight values.
#include "activations.cuh"
#include "numbers.cuh"

namespace {

// y = act(x); x itself, in y's format, goes to `before`, unless that is null.
template <class Act, class In, class Out>
__device__ __forceinline__ void activate(const In* x, Out* before, Out* y, long long count) {
    long long at = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    bool aligned = is_aligned(x) && is_aligned(y) && (!before || is_aligned(before));
    if (aligned && at + 8 <= count) {
        float own[8];
        read8(x + at, own);
        if (before) write8(before + at, own);
        for (int i = 0; i < 8; ++i) own[i] = Act::value(own[i]);
        write8(y + at, own);
        return;
    }
    for (long long end = min(at + 8, count); at < end; ++at) {
        float own = read1(x + at);
        if (before) write1(before + at, own);
        write1(y + at, Act::value(own));
    }
}

// dx = dy · act'(x)
template <class Act, class In, class Dy, class Out>
__device__ __forceinline__ void differentiate(const In* x, const Dy* dy, Out* dx, long long count) {
    long long at = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (is_aligned(x) && is_aligned(dy) && is_aligned(dx) && at + 8 <= count) {
        float own[8], of_dy[8];
        read8(x + at, own);
        read8(dy + at, of_dy);
        for (int i = 0; i < 8; ++i) own[i] = of_dy[i] * Act::slope(own[i]);
        write8(dx + at, own);
        return;
    }
    for (long long end = min(at + 8, count); at < end; ++at)
        write1(dx + at, read1(dy + at) * Act::slope(read1(x + at)));
}

}  // namespace

#define ACTIVATION(name, Act, In, Out)                                                 \
    FS_KERNEL(256, name, const In* x, Out* before, Out* y, long long count) {          \
        activate<Act>(x, before, y, count);                                            \
    }
#define ACTIVATIONS(name, Act)                   \
    ACTIVATION(name##_f32_f32, Act, float, float)  \
    ACTIVATION(name##_f32_bf16, Act, float, bf16)  \
    ACTIVATION(name##_bf16_f32, Act, bf16, float)  \
    ACTIVATION(name##_bf16_bf16, Act, bf16, bf16)
ACTIVATIONS(quick_gelu, Quick)
ACTIVATIONS(gelu, Exact)

#define BACKWARD(name, Act, In, Dy, Out)                                               \
    FS_KERNEL(256, name, const In* x, const Dy* dy, Out* dx, long long count) {        \
        differentiate<Act>(x, dy, dx, count);                                          \
    }
#define BACKWARDS(name, Act)                                \
    BACKWARD(name##_f32_f32_f32, Act, float, float, float)  \
    BACKWARD(name##_f32_f32_bf16, Act, float, float, bf16)  \
    BACKWARD(name##_bf16_f32_f32, Act, bf16, float, float)  \
    BACKWARD(name##_bf16_f32_bf16, Act, bf16, float, bf16)  \
    BACKWARD(name##_bf16_bf16_f32, Act, bf16, bf16, float)  \
    BACKWARD(name##_bf16_bf16_bf16, Act, bf16, bf16, bf16)
BACKWARDS(quick_gelu_backward, Quick)
BACKWARDS(gelu_backward, Exact)
