// Segments of a batch for the checks of products: their tables, and products in 64-bit floats.
#pragma once
#include "check.hpp"

namespace check {

struct Part {
    const void* weight;
    const float* bias;
    long long x_at, y_at;
    int rows, tile, n, k;
};

// One segment's sizes: frames, columns of the result, length of the sum.
struct Segment {
    int frames, n, k;
};

inline size_t row_at(int i, int patches, int tokens) { return size_t(i / patches) * tokens + (tokens - patches) + i % patches; }

// Segments of frames that follow one another; class rows are skipped where frames have more tokens than patches. Weights are W's formats.
template <class W>
struct Segments {
    vector<Segment> segments;
    int patches, in_tokens, out_tokens;
    vector<Buffer<W>> weights;
    vector<Buffer<float>> biases;
    Buffer<Part> parts;
    size_t in_size = 0, out_size = 0;
    int tiles = 0, widest = 0;

    // `back`: the operand has n numbers a row, the result k.
    Segments(vector<Segment> all, int patches, int in_tokens, int out_tokens, bool back, int tile, bool biased)
        : segments(std::move(all)), patches(patches), in_tokens(in_tokens), out_tokens(out_tokens), parts(segments.size()) {
        for (size_t i = 0; i < segments.size(); ++i) {
            auto [frames, n, k] = segments[i];
            weights.push_back(random<W>(size_t(n) * k, unsigned(100 + i), 1 / std::sqrt(float(k))));
            biases.push_back(random<float>(n, unsigned(200 + i)));
            const float* bias = biased ? biases.back().data() : nullptr;
            parts[i] = {weights.back().data(), bias, (long long)in_size, (long long)out_size, frames * patches, tiles, n, k};
            in_size += size_t(frames) * in_tokens * (back ? n : k);
            out_size += size_t(frames) * out_tokens * (back ? k : n);
            tiles += int(over(size_t(frames) * patches, size_t(tile)));
            widest = std::max(widest, back ? k : n);
        }
    }
    int count() const { return int(segments.size()); }

    // y = x Wᵀ + b, or x W, on top of what `want` holds; operands rounded to R on the way in.
    template <class R, class X>
    void add(const Buffer<X>& x, vector<double>& want, bool back, bool biased) {
        for (size_t p = 0; p < segments.size(); ++p) {
            auto [frames, n, k] = segments[p];
            const Part& part = parts[p];
            int width = back ? k : n, length = back ? n : k;
            for (int i = 0; i < part.rows; ++i) {
                size_t from = size_t(part.x_at) + row_at(i, patches, in_tokens) * length;
                size_t to = size_t(part.y_at) + row_at(i, patches, out_tokens) * width;
                for (int j = 0; j < width; ++j) {
                    double sum = biased ? biases[p].get(j) : 0;
                    for (int s = 0; s < length; ++s)
                        sum += double(value(rounded<R>(float(x.get(from + s))))) * weights[p].get(back ? size_t(s) * k + j : size_t(j) * k + s);
                    want[to + j] += sum;
                }
            }
        }
    }
    // Whether the kernel writes this number of the result, and which row of a frame it lies in.
    bool is_patch(size_t i, bool back) const {
        size_t p = segments.size() - 1;
        while (size_t(parts_at(p)) > i) --p;
        size_t width = size_t(back ? segments[p].k : segments[p].n);
        return int((i - size_t(parts_at(p))) / width % out_tokens) >= out_tokens - patches;
    }
    long long parts_at(size_t p) const { return const_cast<Buffer<Part>&>(parts)[p].y_at; }
};

}  // namespace check
