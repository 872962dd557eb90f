// Sums over rows, of squares, and of partial sums; and words that differ.
#include "parts.hpp"

namespace check {

namespace {

template <class In>
void columns(int rows, int clip, int most, int n, int patches, int tokens) {
    Buffer<In> x = random<In>(size_t(rows / patches) * tokens * n, 91);
    vector<double> want(n);
    for (size_t i = 0; i < x.size(); ++i)
        if (int(i / n % tokens) < tokens - patches) x[i] = rounded<In>(NAN);
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < n; ++j) want[j] += x.get(row_at(r, patches, tokens) * n + j);
    int runs = rows / clip * int(over(clip, most));
    Buffer<float> partial(size_t(runs) * n), out(n);
    const float* none = nullptr;
    string name = string("column_sums_") + format<In>();
    compare(name + " " + std::to_string(rows) + " x " + std::to_string(n), out, want, 1e-5, [&] {
        launch(name, {over(n, 256), unsigned(runs)}, 256, 0, x.data(), partial.data(), rows, clip, most, n, patches, tokens);
        launch("add_runs", {over(n, 256)}, 256, 0, partial.data(), none, out.data(), runs, (long long)n, 1, n, 0);
    });
}

// `bad`: a number that is not finite is among them.
void of_squares(long long count, int each, float bad) {
    Buffer<float> x = random<float>(size_t(count), 92, 1e18f);
    double want = 0;
    for (size_t i = 0; i < x.size(); ++i) want += x.get(i) * x.get(i);
    if (bad != 0) x[x.size() / 2] = bad;
    int blocks = int(over(size_t(count), size_t(each)));
    Buffer<double> partial(over(size_t(count), size_t(each))), out(1);
    auto run = [&] {
        launch("squares", {unsigned(blocks)}, 256, 256 * 8, x.data(), partial.data(), count, each);
        launch("add_doubles", {1}, 32, 0, partial.data(), out.data(), blocks);
    };
    string what = "squares " + std::to_string(count);
    if (bad == 0) return compare(what, out, {want}, 1e-14, run);
    run();
    expect(!std::isfinite(out.get(0)), what + ": a number that is not finite is lost");
}

// Words differ at a few places, also in the last block, and at none.
void differences(long long count, unsigned rows, vector<long long> places, int each) {
    Buffer<uint32_t> x(size_t(count) * rows);
    for (size_t i = 0; i < x.size(); ++i) x[i] = uint32_t(i % size_t(count)) * 2654435761u;
    for (long long place : places) x[size_t(place)] ^= 1u << (place % 32);
    unsigned blocks = over(size_t(count), size_t(each));
    Buffer<int> partial(size_t(blocks) * rows);
    string what = "differing_words " + std::to_string(rows) + " x " + std::to_string(count);
    in_orders(what, partial, [&] { launch("differing_words", {blocks, rows}, 256, 1024, x.data(), partial.data(), count, each); });
    vector<int> want(partial.size());
    for (size_t i = 0; i < x.size(); ++i) want[i / size_t(count) * blocks + i % size_t(count) / size_t(each)] += x[i] != x[i % size_t(count)];
    bool right = true;
    for (size_t i = 0; i < want.size(); ++i) right = right && partial[i] == want[i];
    expect(right, what + ": wrong");
}

}  // namespace

void sums() {
    differences(1, 1, {}, 1024);
    differences(197, 9, {}, 512);
    differences(197, 9, {197, 400, 197 * 9 - 1}, 512);
    differences(500, 3, {3, 1499}, 1500);
    columns<float>(600, 200, 70, 33, 20, 21);
    columns<bf16>(90, 90, 90, 300, 1, 1);
    columns<float>(7, 7, 256, 1, 1, 1);
    for (long long count : {1, 255, 256, 5000}) of_squares(count, 1024, 0);
    of_squares(3000, 1000, NAN);
    of_squares(3000, 1000, -INFINITY);
}

}  // namespace check
