// Gradients of weights over runs of rows: on matrix instructions and exact, continued clip by clip with the same bits.
#include "parts.hpp"

namespace check {

namespace {

struct Sizes {
    int rows, clip, most, n, k, patches, x_tokens, dy_tokens;
    int runs() const { return rows / clip * int(over(clip, most)); }
};

// W: what operands are rounded to.
template <class W, class In, class Dy>
void gradient(const string& name, Sizes s, int tile) {
    auto [rows, clip, most, n, k, patches, x_tokens, dy_tokens] = s;
    size_t frames = size_t(rows / patches);
    Buffer<In> x = random<In>(frames * x_tokens * k, 61);
    Buffer<Dy> dy = random<Dy>(frames * dy_tokens * n, 62);
    // Class rows must not be read.
    for (size_t i = 0; i < x.size(); ++i)
        if (int(i / k % x_tokens) < x_tokens - patches) x[i] = rounded<In>(NAN);
    for (size_t i = 0; i < dy.size(); ++i)
        if (int(i / n % dy_tokens) < dy_tokens - patches) dy[i] = rounded<Dy>(NAN);
    Buffer<float> earlier = random<float>(size_t(n) * k, 63), out(size_t(n) * k), partial(size_t(s.runs()) * n * k);
    vector<double> want(size_t(n) * k);
    for (size_t i = 0; i < want.size(); ++i) want[i] = earlier.get(i);
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < k; ++j)
                want[size_t(i) * k + j] += double(value(rounded<W>(float(dy.get(row_at(r, patches, dy_tokens) * n + i))))) *
                                           value(rounded<W>(float(x.get(row_at(r, patches, x_tokens) * k + j))));
    size_t shared = tile == 128 ? 3 * 2 * 128 * 32 * 2 : 2 * 16 * 68 * 4;
    auto of = [&](int first, int count, const float* onto, float* to) {
        const In* own_x = x.data() + size_t(first / patches) * x_tokens * k;
        const Dy* own_dy = dy.data() + size_t(first / patches) * dy_tokens * n;
        int runs = count / clip * int(over(clip, most));
        launch(name, {over(n, tile), over(k, tile), unsigned(runs)}, 256, shared, own_x, own_dy, partial.data(), count, clip, most, n, k, patches, x_tokens, dy_tokens);
        launch("add_runs", {over(size_t(n) * k, 256)}, 256, 0, partial.data(), onto, to, runs, (long long)n * k, n, k, 0);
    };
    string what = name + " " + std::to_string(rows) + " rows in clips of " + std::to_string(clip) + ", " + std::to_string(n) + " x " + std::to_string(k);
    compare(what, out, want, 3e-6, [&] { of(0, rows, earlier.data(), out.data()); });
    vector<float> whole = out.copy();
    // Clip by clip, in place.
    for (size_t i = 0; i < out.size(); ++i) out[i] = earlier[i];
    for (int first = 0; first < rows; first += clip) of(first, clip, out.data(), out.data());
    expect(same_bits(whole, out.copy()), what + ": clip by clip has other bits");
}

}  // namespace

void few_weight_gradients() {
    Sizes s{160, 160, 160, 24, 72, 20, 21, 20};
    gradient<bf16, float, bf16>("weight_gradient_f32_bf16", s, 128);
    gradient<bf16, bf16, bf16>("weight_gradient_bf16_bf16", s, 128);
    gradient<float, float, float>("exact_weight_gradient", s, 64);
}

void weight_gradients() {
    for (Sizes s : {Sizes{120, 40, 40, 24, 72, 20, 21, 20}, {96, 48, 20, 136, 8, 12, 12, 13}, {70, 70, 33, 8, 160, 1, 1, 1}}) {
        gradient<bf16, float, float>("weight_gradient_f32_f32", s, 128);
        gradient<bf16, float, bf16>("weight_gradient_f32_bf16", s, 128);
        gradient<bf16, bf16, float>("weight_gradient_bf16_f32", s, 128);
        gradient<bf16, bf16, bf16>("weight_gradient_bf16_bf16", s, 128);
    }
    for (Sizes s : {Sizes{120, 40, 40, 7, 75, 20, 21, 20}, {96, 48, 20, 65, 3, 12, 12, 13}, {70, 70, 33, 1, 36, 1, 1, 1}})
        gradient<float, float, float>("exact_weight_gradient", s, 64);
}

}  // namespace check
