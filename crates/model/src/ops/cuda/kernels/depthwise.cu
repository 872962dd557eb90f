// The adapters' depthwise convolution over (T, H, W), any odd kernel, "same" padding, of all segments of a batch in one launch.
// A sum begins at the bias and takes the taps in their order, whichever kernel forms it, so that both kernels here give the same bits.
#include "parts.cuh"

namespace {

// A thread V channels of one token. `mirrored`: the gradient of the input, with mirrored taps and without a bias.
template <class In, class Out, int V>
__device__ __forceinline__ void convolve(const In* x, Out* y, const Convolution* parts, int count, int clip, int grid,
                                         int mirrored) {
    Convolution part = part_of_block(parts, count);
    int chunks = part.channels / V, patches = grid * grid;
    int unit = (int(blockIdx.x) - part.tile) * int(blockDim.x) + int(threadIdx.x);
    if (unit >= part.frames * patches * chunks) return;
    int c = unit % chunks * V, token = unit / chunks;
    int frame = token / patches, row = token % patches / grid, column = token % patches % grid;
    float sum[V] = {}, own[V], weight[V];
    for (int i = 0; i < V && !mirrored; ++i) sum[i] = part.bias[c + i];
    const float* tap = part.taps + c;
    // Each format has the loops for which the compiler needs no stack: floats those that it unrolls, bfloat16 those that it must not.
    if constexpr (sizeof(In) == sizeof(float)) {
        for (int t = 0; t < part.kt; ++t)
            for (int h = 0; h < part.kh; ++h)
                for (int w = 0; w < part.kw; ++w, tap += part.channels) {
                    int dt = t - part.kt / 2, dh = h - part.kh / 2, dw = w - part.kw / 2;
                    if (mirrored) {
                        dt = -dt;
                        dh = -dh;
                        dw = -dw;
                    }
                    int within = frame % clip + dt;
                    if (within < 0 || within >= clip || row + dh < 0 || row + dh >= grid || column + dw < 0 ||
                        column + dw >= grid)
                        continue;
                    size_t from = (size_t(frame + dt) * patches + (row + dh) * grid + column + dw) * part.channels + c;
                    read_some<V>(x + part.x_at + from, own);
                    read_some<V>(tap, weight);
                    for (int i = 0; i < V; ++i) sum[i] = fmaf(own[i], weight[i], sum[i]);
                }
    } else {
        x += part.x_at + c;
        // Mirrored taps reach the other way.
        int sign = mirrored ? -1 : 1, within = frame % clip;
        for (int t = 0; t < part.kt; ++t) {
            int dt = sign * (t - part.kt / 2);
            for (int h = 0; h < part.kh; ++h) {
                int dh = sign * (h - part.kh / 2);
                bool inside = within + dt >= 0 && within + dt < clip && row + dh >= 0 && row + dh < grid;
#pragma unroll 1
                for (int w = 0; w < part.kw; ++w, tap += part.channels) {
                    int dw = sign * (w - part.kw / 2);
                    if (!inside || column + dw < 0 || column + dw >= grid) continue;
                    read_some<V>(x + size_t(token + (dt * grid + dh) * grid + dw) * part.channels, own);
                    read_some<V>(tap, weight);
                    for (int i = 0; i < V; ++i) sum[i] = fmaf(own[i], weight[i], sum[i]);
                }
            }
        }
    }
    write_some<V>(y + part.y_at + size_t(token) * part.channels + c, sum);
}

// Kernels (3, 1, 1) alone: a thread eight channels of one place in all frames of a clip, which it reads once.
template <class In, class Out>
__device__ __forceinline__ void convolve_in_time(const In* x, Out* y, const Convolution* parts, int count, int clip,
                                                 int grid, int mirrored) {
    Convolution part = part_of_block(parts, count);
    int chunks = part.channels / 8, patches = grid * grid;
    int unit = (int(blockIdx.x) - part.tile) * int(blockDim.x) + int(threadIdx.x);
    if (unit >= part.frames / clip * patches * chunks) return;
    int c = unit % chunks * 8, place = unit / chunks % patches, first = unit / chunks / patches * clip;
    float taps[3][8], bias[8] = {}, before[8] = {}, own[8], after[8] = {};
    for (int t = 0; t < 3; ++t) read8(part.taps + (mirrored ? 2 - t : t) * part.channels + c, taps[t]);
    for (int i = 0; i < 8 && !mirrored; ++i) bias[i] = part.bias[c + i];
    size_t step = size_t(patches) * part.channels;
    size_t at = size_t(first) * step + size_t(place) * part.channels + c;
    x += part.x_at + at;
    y += part.y_at + at;
    read8(x, own);
    for (int frame = 0; frame < clip; ++frame, x += step, y += step) {
        bool has_before = frame > 0, has_after = frame + 1 < clip;
        if (has_after) read8(x + step, after);
        float sum[8];
        for (int i = 0; i < 8; ++i) {
            sum[i] = bias[i];
            // The first tap of a mirrored convolution reads the frame after.
            if (mirrored) {
                if (has_after) sum[i] = fmaf(after[i], taps[2][i], sum[i]);
                sum[i] = fmaf(own[i], taps[1][i], sum[i]);
                if (has_before) sum[i] = fmaf(before[i], taps[0][i], sum[i]);
            } else {
                if (has_before) sum[i] = fmaf(before[i], taps[0][i], sum[i]);
                sum[i] = fmaf(own[i], taps[1][i], sum[i]);
                if (has_after) sum[i] = fmaf(after[i], taps[2][i], sum[i]);
            }
            before[i] = own[i];
            own[i] = after[i];
        }
        write8(y, sum);
    }
}

// Sums of one frame (blockIdx.z) for one tap (blockIdx.y), a thread a channel: partial `[frames, taps + 1, channels]`, the bias's last.
template <class In, class Dy>
__device__ __forceinline__ void add_frame(const In* x, const Dy* dy, float* partial, int clip, int grid, int channels,
                                          int kt, int kh, int kw) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, tap = blockIdx.y, frame = blockIdx.z;
    if (c >= channels) return;
    int patches = grid * grid, taps = kt * kh * kw;
    int dt = tap / (kh * kw) - kt / 2, dh = tap / kw % kh - kh / 2, dw = tap % kw - kw / 2;
    int within = frame % clip + dt;
    bool is_bias = tap == taps, inside = within >= 0 && within < clip;
    float sum = 0.0f;
    for (int row = 0; row < grid; ++row)
        for (int column = 0; column < grid; ++column) {
            float g = read1(dy + (size_t(frame) * patches + row * grid + column) * channels + c);
            if (is_bias) sum += g;
            else if (inside && row + dh >= 0 && row + dh < grid && column + dw >= 0 && column + dw < grid) {
                size_t from = size_t(frame + dt) * patches + (row + dh) * grid + column + dw;
                sum = fmaf(read1(x + from * channels + c), g, sum);
            }
        }
    partial[(size_t(frame) * (taps + 1) + tap) * channels + c] = sum;
}

}  // namespace

#define DEPTHWISE(name, body, In, Out)                                                                            \
    FS_KERNEL(256, name, const In* x, Out* y, const Convolution* parts, int count, int clip, int grid,            \
              int mirrored) {                                                                                     \
        body(x, y, parts, count, clip, grid, mirrored);                                                           \
    }
#define DEPTHWISES(In, Out, names)                                                        \
    DEPTHWISE(depthwise_any_##names, (convolve<In, Out, 1>), In, Out)                     \
    DEPTHWISE(depthwise_8_##names, (convolve<In, Out, 8>), In, Out)                       \
    DEPTHWISE(depthwise_time_##names, (convolve_in_time<In, Out>), In, Out)
DEPTHWISES(float, float, f32_f32)
DEPTHWISES(float, bf16, f32_bf16)
DEPTHWISES(bf16, float, bf16_f32)
DEPTHWISES(bf16, bf16, bf16_bf16)

#define DEPTHWISE_WEIGHT(name, In, Dy)                                                                            \
    FS_KERNEL(256, name, const In* x, const Dy* dy, float* partial, int clip, int grid, int channels, int kt,     \
              int kh, int kw) {                                                                                   \
        add_frame(x, dy, partial, clip, grid, channels, kt, kh, kw);                                              \
    }
DEPTHWISE_WEIGHT(depthwise_weight_f32_f32, float, float)
DEPTHWISE_WEIGHT(depthwise_weight_f32_bf16, float, bf16)
DEPTHWISE_WEIGHT(depthwise_weight_bf16_f32, bf16, float)
DEPTHWISE_WEIGHT(depthwise_weight_bf16_bf16, bf16, bf16)
