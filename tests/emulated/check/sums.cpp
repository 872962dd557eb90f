// Sums over rows, of squares, and of partial sums.
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

}  // namespace

void sums() {
    columns<float>(600, 200, 70, 33, 20, 21);
    columns<bf16>(90, 90, 90, 300, 1, 1);
    columns<float>(7, 7, 256, 1, 1, 1);
    for (long long count : {1, 255, 256, 5000}) of_squares(count, 1024, 0);
    of_squares(3000, 1000, NAN);
    of_squares(3000, 1000, -INFINITY);
}

}  // namespace check
