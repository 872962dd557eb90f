// LayerNorm forward and backward, and the gradients of its weights.
#include "check.hpp"

namespace check {

static const float EPS = 1e-5f;

struct Rows {
    int rows, c;
    Buffer<float> x, weight, bias;
    Rows(int rows, int c)
        : rows(rows), c(c), x(random<float>(size_t(rows) * c, 7, 2, 3)), weight(random<float>(c, 8)), bias(random<float>(c, 9)) {}
    std::pair<double, double> statistics(int r) const {
        double mean = 0, variance = 0;
        for (int i = 0; i < c; ++i) mean += x.get(size_t(r) * c + i) / c;
        for (int i = 0; i < c; ++i) variance += std::pow(x.get(size_t(r) * c + i) - mean, 2) / c;
        return {mean, 1 / std::sqrt(variance + EPS)};
    }
};

template <class Out>
static void forward(const string& variant, int rows, int c) {
    Rows own(rows, c);
    string name = string("norm_") + format<Out>() + "_" + variant;
    vector<double> want(size_t(rows) * c);
    for (int r = 0; r < rows; ++r) {
        auto [mean, scale] = own.statistics(r);
        for (int i = 0; i < c; ++i) want[size_t(r) * c + i] = (own.x.get(size_t(r) * c + i) - mean) * scale * own.weight.get(i) + own.bias.get(i);
    }
    Buffer<Out> y(want.size());
    auto run = [&] { launch(name, {over(rows, 8)}, 256, 0, own.x.data(), y.data(), own.weight.data(), own.bias.data(), rows, c, EPS); };
    string what = name + " " + std::to_string(rows) + " x " + std::to_string(c);
    compare(what, y, want, limit<Out>(), run);
    int row = rows / 2;
    own.x[size_t(row) * c + c / 3] = NAN;
    with_nan(what, y, run, [&](size_t i) { return int(i / c) == row; });
}

template <class Dy>
static void backward(const string& variant, int rows, int c, bool adds) {
    Rows own(rows, c);
    Buffer<Dy> dy = random<Dy>(size_t(rows) * c, 10);
    Buffer<float> add = random<float>(size_t(rows) * c, 11);
    vector<double> want(size_t(rows) * c);
    for (int r = 0; r < rows; ++r) {
        auto [mean, scale] = own.statistics(r);
        double a = 0, b = 0;
        for (int i = 0; i < c; ++i) {
            double g = dy.get(size_t(r) * c + i) * own.weight.get(i);
            a += g / c, b += g * (own.x.get(size_t(r) * c + i) - mean) * scale / c;
        }
        for (int i = 0; i < c; ++i) {
            size_t at = size_t(r) * c + i;
            want[at] = (adds ? add.get(at) : 0) + scale * (dy.get(at) * own.weight.get(i) - a - (own.x.get(at) - mean) * scale * b);
        }
    }
    string name = string("norm_backward_") + format<Dy>() + "_" + variant;
    string what = name + " " + std::to_string(rows) + " x " + std::to_string(c);
    Buffer<float> dx(want.size());
    Buffer<bf16> rounded_dx(want.size());
    const float* past = adds ? add.data() : nullptr;
    auto run = [&] {
        bf16* rounded_to = adds ? rounded_dx.data() : nullptr;
        launch(name, {over(rows, 8)}, 256, 0, own.x.data(), dy.data(), past, own.weight.data(), dx.data(), rounded_to, rows, c, EPS);
    };
    compare(what, dx, want, limit<float>(), run);
    bool same = true;
    for (size_t i = 0; adds && i < want.size(); ++i) same = same && rounded_dx[i] == rounded<bf16>(dx[i]);
    expect(same, what + ": the rounded gradient differs");
    int row = rows / 2;
    dy[size_t(row) * c + c - 1] = rounded<Dy>(NAN);
    with_nan(what, dx, run, [&](size_t i) { return int(i / c) == row; });
}

template <class Dy>
static void weight_gradient(int rows, int c, int depth) {
    Rows own(rows, c);
    Buffer<Dy> dy = random<Dy>(size_t(rows) * c, 12);
    vector<double> want(2 * size_t(c));
    for (int r = 0; r < rows; ++r) {
        auto [mean, scale] = own.statistics(r);
        for (int i = 0; i < c; ++i) {
            want[i] += dy.get(size_t(r) * c + i) * (own.x.get(size_t(r) * c + i) - mean) * scale;
            want[c + i] += dy.get(size_t(r) * c + i);
        }
    }
    int blocks = int(over(rows, depth));
    Buffer<float> statistics(2 * size_t(rows)), partial(size_t(blocks) * 2 * c), out(2 * size_t(c));
    string name = string("norm_weight_gradient_") + format<Dy>();
    const float* none = nullptr;
    auto run = [&] {
        launch("norm_statistics", {over(rows, 8)}, 256, 0, own.x.data(), statistics.data(), rows, c, EPS);
        launch(name, {over(c, 256), unsigned(blocks)}, 256, 0, own.x.data(), statistics.data(), dy.data(), partial.data(), rows, c, depth);
        launch("add_runs", {over(2 * size_t(c), 256)}, 256, 0, partial.data(), none, out.data(), blocks, 2LL * c, 2, c, 0);
    };
    compare(name + " " + std::to_string(rows) + " x " + std::to_string(c), out, want, 1e-5, run);
}

void norms() {
    for (auto [variant, c] : {std::pair{"1", 8}, {"1", 256}, {"1", 192}, {"3", 384}, {"3", 768}, {"3", 520}, {"4", 1024}, {"4", 776}, {"8", 1664}, {"8", 2048}}) {
        forward<bf16>(variant, c > 1024 ? 5 : 19, c);
        forward<float>(variant, 9, c);
    }
    for (int c : {1, 3, 36, 100, 768}) {
        forward<bf16>("any", 17, c);
        forward<float>("any", 17, c);
        if (c == 1) continue;  // the gradient is 0 but for roundings
        backward<bf16>("any", 17, c, true);
        backward<float>("any", 17, c, false);
    }
    for (int c : {8, 40, 768, 1664}) {
        backward<bf16>("8", 9, c, false);
        backward<float>("8", 9, c, true);
    }
    for (int c : {5, 300}) {
        weight_gradient<float>(70, c, 32);
        weight_gradient<bf16>(70, c, 256);
    }
}

}  // namespace check
