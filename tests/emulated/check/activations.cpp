// QuickGELU and GELU, forward and backward, at any number of values and alignment.
#include "check.hpp"

namespace check {

static double quick(double x) { return x / (1 + std::exp(-1.702 * x)); }
static double exact(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
static double quick_slope(double x) {
    double s = 1 / (1 + std::exp(-1.702 * x));
    return s + 1.702 * x * s * (1 - s);
}
static double exact_slope(double x) {
    return 0.5 * (1 + std::erf(x / std::sqrt(2.0))) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
}

// `skip`: the values begin as many numbers after an aligned address.
template <class In, class Out>
static void forward(const string& act, double (*f)(double), size_t count, size_t skip) {
    Buffer<In> x = random<In>(count + skip, 21, 2);
    string name = act + "_" + format<In>() + "_" + format<Out>();
    string what = name + " " + std::to_string(count) + " from " + std::to_string(skip);
    vector<double> want(count), same(count);
    for (size_t i = 0; i < count; ++i) want[i] = f(x.get(i + skip)), same[i] = x.get(i + skip);
    Buffer<Out> y(count), before(count);
    Out* none = nullptr;
    auto run = [&](Out* kept) { launch(name, {over(count, 8 * 256)}, 256, 0, x.data() + skip, kept, y.data(), (long long)count); };
    compare(what, y, want, limit<Out>(), [&] { run(none); });
    vector<Out> alone = y.copy();
    compare(what + ", before", before, same, limit<Out>(), [&] { run(before.data()); });
    expect(same_bits(alone, y.copy()), what + ": keeping the values changes the result");
    x[skip + count / 2] = rounded<In>(NAN);
    with_nan(what, y, [&] { run(none); }, [&](size_t i) { return i == count / 2; });
}

template <class In, class Dy, class Out>
static void backward(const string& act, double (*slope)(double), size_t count, size_t skip) {
    Buffer<In> x = random<In>(count + skip, 22, 2);
    Buffer<Dy> dy = random<Dy>(count, 23);
    string name = act + "_backward_" + format<In>() + "_" + format<Dy>() + "_" + format<Out>();
    vector<double> want(count);
    for (size_t i = 0; i < count; ++i) want[i] = dy.get(i) * slope(x.get(i + skip));
    Buffer<Out> dx(count);
    auto run = [&] { launch(name, {over(count, 8 * 256)}, 256, 0, x.data() + skip, dy.data(), dx.data(), (long long)count); };
    string what = name + " " + std::to_string(count) + " from " + std::to_string(skip);
    compare(what, dx, want, limit<Out>(), run);
    dy[0] = rounded<Dy>(NAN);
    x[skip + count - 1] = rounded<In>(NAN);
    with_nan(what, dx, run, [&](size_t i) { return i == 0 || i + 1 == count; });
}

static void both(const string& act, double (*f)(double), double (*slope)(double)) {
    for (auto [count, skip] : {std::pair{size_t(1), size_t(0)}, {7, 1}, {8, 0}, {4099, 0}, {1000, 3}}) {
        forward<float, float>(act, f, count, skip);
        forward<float, bf16>(act, f, count, skip);
        forward<bf16, float>(act, f, count, skip);
        forward<bf16, bf16>(act, f, count, skip);
        backward<float, float, float>(act, slope, count, skip);
        backward<float, float, bf16>(act, slope, count, skip);
        backward<bf16, float, float>(act, slope, count, skip);
        backward<bf16, float, bf16>(act, slope, count, skip);
        backward<bf16, bf16, float>(act, slope, count, skip);
        backward<bf16, bf16, bf16>(act, slope, count, skip);
    }
}

// Eight at a time or one by one: the same numbers have the same bits.
template <class T>
static void paths(const string& act) {
    constexpr size_t COUNT = 1000;
    Buffer<T> x = random<T>(COUNT, 24, 2), dy = random<T>(COUNT, 25), moved(COUNT + 3), moved_dy(COUNT + 3), y(COUNT), dx(COUNT);
    for (size_t i = 0; i < COUNT; ++i) moved[i + 3] = x[i], moved_dy[i + 3] = dy[i];
    string formats = string(format<T>()) + "_" + format<T>();
    T* none = nullptr;
    vector<T> forward[2], backward[2];
    for (int skips : {0, 1}) {
        const T* own = skips ? moved.data() + 3 : x.data();
        const T* own_dy = skips ? moved_dy.data() + 3 : dy.data();
        launch(act + "_" + formats, {1}, 256, 0, own, none, y.data(), (long long)COUNT);
        launch(act + "_backward_" + formats + "_" + format<T>(), {1}, 256, 0, own, own_dy, dx.data(), (long long)COUNT);
        forward[skips] = y.copy(), backward[skips] = dx.copy();
    }
    expect(same_bits(forward[0], forward[1]) && same_bits(backward[0], backward[1]), act + "_" + formats + ": alignment changes the result");
}

// Values so large that an exponential overflows still give their limits.
static void limits(const string& act) {
    const float inputs[] = {-1e30f, -200.0f, -60.0f, 0.0f, 60.0f, 200.0f, 1e30f, -0.0f};
    Buffer<float> x(8), y(8), slope(8), ones(8);
    for (size_t i = 0; i < 8; ++i) x[i] = inputs[i], ones[i] = 1;
    float* none = nullptr;
    launch(act + "_f32_f32", {1}, 256, 0, x.data(), none, y.data(), 8LL);
    launch(act + "_backward_f32_f32_f32", {1}, 256, 0, x.data(), ones.data(), slope.data(), 8LL);
    bool right = true;
    for (size_t i = 0; i < 8; ++i) {
        right = right && std::abs(y[i] - std::max(inputs[i], 0.0f)) <= 1e-20f;
        if (inputs[i] != 0) right = right && std::abs(slope[i] - (inputs[i] > 0 ? 1.0f : 0.0f)) <= 1e-20f;
    }
    expect(right, act + ": wrong at very large values");
}

void activations() {
    both("quick_gelu", quick, quick_slope);
    both("gelu", exact, exact_slope);
    for (const char* act : {"quick_gelu", "gelu"}) {
        paths<float>(act);
        paths<bf16>(act);
    }
    limits("quick_gelu");
    limits("gelu");
}

}  // namespace check
