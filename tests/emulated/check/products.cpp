// Products of several segments in one launch, and their gradients: on matrix instructions, exact, and plain.
#include "parts.hpp"

namespace check {

namespace {

template <class W, class In, class Out>
void grouped(const string& name, vector<Segment> segments, int patches, int in_tokens, int out_tokens, bool back, bool adds, int tile) {
    bool biased = !back;
    Segments<W> own(segments, patches, in_tokens, out_tokens, back, tile, biased);
    Buffer<In> x = random<In>(own.in_size, 51);
    Buffer<float> residual = random<float>(own.out_size, 52);
    vector<double> want(own.out_size);
    if (adds)
        for (size_t i = 0; i < want.size(); ++i) want[i] = residual.get(i);
    own.template add<W>(x, want, back, biased);
    Buffer<Out> y(own.out_size);
    const float* past = adds ? residual.data() : nullptr;
    size_t shared = tile == 128 ? 3 * 2 * 128 * 32 * 2 : 2 * 16 * 68 * 4;
    auto run = [&] {
        launch(name, {unsigned(own.tiles), over(size_t(own.widest), size_t(tile))}, 256, shared, x.data(), y.data(), past, own.parts.data(), own.count(), patches, in_tokens,
               out_tokens);
    };
    string what = name + " " + std::to_string(segments.size()) + " segments, " + std::to_string(patches) + " patches, " + std::to_string(segments[0].k) + " to " +
                  std::to_string(segments[0].n);
    in_orders(what, y, run, in_tokens == patches && out_tokens == patches);
    double d = 0, total = 0;
    bool right = true;
    for (size_t i = 0; i < want.size(); ++i) {
        bool is_patch = own.is_patch(i, back);
        right = right && is_patch != y.is_poisoned(i);
        if (is_patch) d += std::pow(y.get(i) - want[i], 2), total += want[i] * want[i];
    }
    printf("%-64s distance to f64 %.1e\n", what.c_str(), std::sqrt(d / total));
    expect(right, what + ": rows of patches are not written, or others are");
    expect(std::sqrt(d / total) < limit<Out>(), what + ": too far");
    // A NaN in the last row of all reaches that row alone.
    auto [frames, n, k] = own.segments.back();
    x[own.in_size - 1] = rounded<In>(NAN);
    with_nan(what, y, run, [&](size_t i) { return i >= own.out_size - size_t(back ? k : n); });
}

template <class In, class Out>
void both(vector<Segment> segments, int patches) {
    string formats = string(format<In>()) + "_" + format<Out>();
    bool adds = std::is_same_v<Out, float>;
    grouped<bf16, In, Out>("grouped_" + formats, segments, patches, patches + 1, patches, false, false, 128);
    grouped<bf16, In, Out>("grouped_" + formats, segments, patches, patches, patches + 1, false, adds, 128);
    grouped<bf16, In, Out>("grouped_dx_" + formats, segments, patches, patches + 1, patches, true, false, 128);
    grouped<bf16, In, Out>("grouped_dx_" + formats, segments, patches, patches, patches + 1, true, adds, 128);
}

void exact(vector<Segment> segments, int patches) {
    grouped<float, float, float>("exact_grouped", segments, patches, patches + 1, patches, false, true, 64);
    grouped<float, float, float>("exact_grouped_dx", segments, patches, patches, patches + 1, true, true, 64);
    grouped<float, float, float>("exact_grouped_dx", segments, patches, patches, patches, true, false, 64);
}

template <class In, class Out>
void plain(int m, int n, int length, bool transposed) {
    Buffer<In> a = random<In>(size_t(m) * length, 53), b = random<In>(size_t(n) * length, 54);
    Buffer<float> bias = random<float>(n, 55), residual = random<float>(size_t(m) * n, 56);
    long long a_row = transposed ? 1 : length, a_step = transposed ? m : 1, b_row = transposed ? 1 : length, b_step = transposed ? n : 1;
    vector<double> want(size_t(m) * n);
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
            double sum = bias.get(j) + residual.get(size_t(i) * n + j);
            for (int p = 0; p < length; ++p) sum += a.get(size_t(i * a_row + p * a_step)) * b.get(size_t(j * b_row + p * b_step));
            want[size_t(i) * n + j] = sum;
        }
    Buffer<Out> y(want.size());
    string name = string("plain_") + format<In>() + "_" + format<Out>();
    compare(name + " " + std::to_string(m) + " x " + std::to_string(n), y, want, limit<Out>(), [&] {
        launch(name, {over(n, 256), unsigned(m)}, 256, 0, a.data(), b.data(), y.data(), bias.data(), residual.data(), n, length, a_row, a_step, b_row, b_step);
    });
}

// The rows of a segment have the same bits in a launch of many segments as alone.
void alone_and_together() {
    vector<Segment> all = {{1, 40, 64}, {2, 24, 64}, {1, 40, 64}};
    int patches = 90, tokens = patches + 1;
    Segments<bf16> together(all, patches, tokens, patches, false, 128, true);
    Buffer<float> x = random<float>(together.in_size, 57);
    Buffer<bf16> y(together.out_size), one(together.out_size);
    const float* none = nullptr;
    auto run = [&](const Part* parts, int count, int tiles, bf16* to) {
        launch("grouped_f32_bf16", {unsigned(tiles), 1}, 256, 3 * 2 * 128 * 32 * 2, x.data(), to, none, parts, count, patches, tokens, patches);
    };
    run(together.parts.data(), 3, together.tiles, y.data());
    for (size_t i = 0; i < all.size(); ++i) {
        Buffer<Part> alone(1);
        alone[0] = together.parts[i];
        alone[0].tile = 0;
        run(alone.data(), 1, int(over(size_t(alone[0].rows), 128)), one.data());
    }
    expect(same_bits(y.copy(), one.copy()), "grouped: a segment depends on its neighbours");
    // 64 segments of one clip each.
    Segments<bf16> many(vector<Segment>(64, Segment{1, 8, 40}), 3, 4, 3, false, 128, true);
    Buffer<bf16> x_many = random<bf16>(many.in_size, 58), y_many(many.out_size);
    vector<double> want(many.out_size);
    many.add<bf16>(x_many, want, false, true);
    compare("grouped_bf16_bf16 64 segments", y_many, want, limit<bf16>(), [&] {
        launch("grouped_bf16_bf16", {unsigned(many.tiles), 1}, 256, 3 * 2 * 128 * 32 * 2, x_many.data(), y_many.data(), none, many.parts.data(), 64, 3, 4, 3);
    });
}

// Equal rows have equal bits wherever they lie in a tile, and in whichever block of columns.
void rows_at_every_place() {
    constexpr int PERIOD = 9, ROWS = 300, WIDTH = 136, LENGTH = 64;
    Buffer<bf16> nine = random<bf16>(PERIOD * LENGTH, 59), x(ROWS * LENGTH);
    for (size_t i = 0; i < x.size(); ++i) x[i] = nine[i % nine.size()];
    for (bool back : {false, true}) {
        Segments<bf16> own({{1, back ? LENGTH : WIDTH, back ? WIDTH : LENGTH}}, ROWS, ROWS, ROWS, back, 128, false);
        // Columns repeat, too.
        for (size_t i = 0; i < own.weights[0].size(); ++i) {
            size_t column = back ? i % WIDTH : i / LENGTH, along = back ? i / WIDTH : i % LENGTH;
            own.weights[0][i] = nine[column % 5 * LENGTH + along];
        }
        Buffer<float> y(own.out_size);
        const float* none = nullptr;
        launch(back ? "grouped_dx_bf16_f32" : "grouped_bf16_f32", {unsigned(own.tiles), 2}, 256, 3 * 2 * 128 * 32 * 2, x.data(), y.data(), none, own.parts.data(), 1, ROWS, ROWS,
               ROWS);
        bool same = true;
        for (size_t row = 0; row < ROWS; ++row)
            for (size_t column = 0; column < WIDTH; ++column)
                same = same && !memcmp(&y[row * WIDTH + column], &y[row % PERIOD * WIDTH + column % 5], sizeof(float));
        expect(same, string("grouped: the place of a row or column changes its bits") + (back ? ", backward" : ""));
    }
}

}  // namespace

void few_products() {
    for (int patches : {20, 130}) {
        grouped<bf16, float, bf16>("grouped_f32_bf16", {{1, 136, 160}}, patches, patches + 1, patches, false, false, 128);
        grouped<bf16, bf16, float>("grouped_dx_bf16_f32", {{1, 160, 136}}, patches, patches, patches + 1, true, true, 128);
    }
    grouped<float, float, float>("exact_grouped", {{1, 65, 33}}, 20, 21, 20, false, true, 64);
}

void products() {
    const vector<Segment> small = {{3, 32, 64}, {1, 24, 40}, {2, 136, 8}}, wide = {{2, 160, 96}, {1, 8, 264}}, one = {{1, 384, 192}};
    for (auto& [segments, patches] : {std::pair{small, 16}, {wide, 49}, {one, 9}}) {
        both<float, float>(segments, patches);
        both<float, bf16>(segments, patches);
        both<bf16, float>(segments, patches);
        both<bf16, bf16>(segments, patches);
    }
    both<float, bf16>({{2, 32, 32}}, 196);
    exact({{3, 33, 65}, {1, 1, 3}, {2, 100, 7}}, 16);
    exact({{1, 12, 36}}, 65);
    alone_and_together();
    rows_at_every_place();
    for (bool transposed : {false, true}) {
        plain<float, float>(5, 300, 36, transposed);
        plain<bf16, float>(3, 17, 100, transposed);
        plain<bf16, bf16>(3, 17, 100, transposed);
    }
}

}  // namespace check
