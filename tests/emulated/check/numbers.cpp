// Operations on single numbers: conversions, addition, transposition, and steps of AdamW.
#include "check.hpp"

namespace check {

namespace {

void conversions(size_t count, size_t skip) {
    Buffer<float> x = random<float>(count + skip, 111, 100), back(count);
    Buffer<bf16> y(count);
    const float special[] = {NAN, INFINITY, -INFINITY, -0.0f, 1.00390625f, 1.01171875f, 3.3961775e38f, 1e-40f};
    for (size_t i = 0; i < 8 && i < count; ++i) x[skip + i] = special[i];
    auto run = [&] { launch("cast_f32_bf16", {over(count, 8 * 256)}, 256, 0, x.data() + skip, y.data(), (long long)count); };
    in_orders("cast_f32_bf16", y, run);
    launch("cast_bf16_f32", {over(count, 8 * 256)}, 256, 0, y.data(), back.data(), (long long)count);
    bool right = true;
    for (size_t i = 0; i < count; ++i) right = right && y[i] == rounded<bf16>(x[skip + i]) && (x[skip + i] != x[skip + i] ? std::isnan(back[i]) : back[i] == value(y[i]));
    expect(right, "cast: not to the nearest even");
}

void additions(size_t count) {
    Buffer<float> a = random<float>(count, 112), b = random<float>(count, 113), y(count);
    in_orders("add_f32", y, [&] { launch("add_f32", {over(count, 256)}, 256, 0, a.data(), b.data(), y.data(), (long long)count); });
    bool right = true;
    for (size_t i = 0; i < count; ++i) right = right && y[i] == a[i] + b[i];
    expect(right, "add_f32: wrong");
}

void transposed(int rows, int columns) {
    Buffer<float> x = random<float>(size_t(rows) * columns, 114), y(x.size());
    in_orders("transpose_f32", y, [&] { launch("transpose_f32", {over(x.size(), 256)}, 256, 0, x.data(), y.data(), rows, columns); });
    bool right = true;
    for (size_t i = 0; i < x.size(); ++i) right = right && y[i % columns * rows + i / columns] == x[i];
    expect(right, "transpose_f32: wrong");
}

struct Decay {
    long long begin;
    float keep;
};
struct Update {
    float scale, keep_1, add_1, keep_2, add_2, rate, root, eps;
};

// Several steps in 64-bit floats beside the kernel's.
void adamw(size_t count, vector<Decay> ranges) {
    Buffer<float> w = random<float>(count, 115), m(count), v(count), out(3 * count);
    Buffer<Decay> decays(ranges.size());
    for (size_t i = 0; i < ranges.size(); ++i) decays[i] = ranges[i];
    vector<double> want(3 * count);
    for (size_t i = 0; i < count; ++i) want[i] = w[i], m[i] = v[i] = 0;
    Buffer<float> before = random<float>(count, 115);
    auto steps = [&](bool beside) {
        for (size_t i = 0; i < count; ++i) w[i] = before[i], m[i] = v[i] = 0;
        for (int step = 1; step <= 3; ++step) {
            Buffer<float> g = random<float>(count, unsigned(116 + step), 0.1f);
            Update update{0.5f, 0.9f, 0.1f, 0.999f, 0.001f, float(0.01 / (1 - std::pow(0.9, step))), float(std::sqrt(1 - std::pow(0.999, step))), 1e-8f};
            launch("adamw", {over(count, 256)}, 256, 0, w.data(), g.data(), m.data(), v.data(), decays.data(), int(ranges.size()), update, (long long)count);
            for (size_t i = 0; beside && i < count; ++i) {
                double keep = 0, own = g.get(i) * update.scale;
                for (const Decay& range : ranges)
                    if (range.begin <= (long long)i) keep = range.keep;
                want[count + i] = double(update.keep_1) * want[count + i] + update.add_1 * own;
                want[2 * count + i] = double(update.keep_2) * want[2 * count + i] + update.add_2 * own * own;
                want[i] = keep * want[i] - update.rate * want[count + i] / (std::sqrt(want[2 * count + i]) / update.root + update.eps);
            }
        }
        memcpy(out.data(), w.data(), 4 * count);
        memcpy(out.data() + count, m.data(), 4 * count);
        memcpy(out.data() + 2 * count, v.data(), 4 * count);
    };
    bool first = true;
    compare("adamw " + std::to_string(count), out, want, 1e-6, [&] { steps(std::exchange(first, false)); });
}

}  // namespace

void numbers() {
    for (auto [count, skip] : {std::pair{size_t(1), size_t(0)}, {8, 0}, {2061, 0}, {100, 3}}) conversions(count, skip);
    additions(1000);
    transposed(3, 100);
    transposed(27, 16);
    adamw(1, {{0, 0.5f}});
    adamw(1000, {{0, 0.99f}, {1, 1.0f}, {400, 0.9f}, {401, 1.0f}, {999, 0.95f}});
}

}  // namespace check
