// The class token and the means of a grid of cells, and their gradients: sums in one order, so results are equal by the bit.
#include <set>

#include "check.hpp"

namespace check {

namespace {

void pooled(int n, int grid, int side, int c) {
    int tokens = 1 + grid * grid, rows = 1 + side * side;
    Buffer<float> x = random<float>(size_t(n) * tokens * c, 111), y(size_t(n) * rows * c);
    Buffer<float> dy = random<float>(y.size(), 112), dx(x.size());
    vector<float> want(y.size()), spread(x.size());
    auto begin = [&](int cell) { return cell * grid / side; };
    auto end = [&](int cell) { return ((cell + 1) * grid + side - 1) / side; };
    for (int f = 0; f < n; ++f)
        for (int i = 0; i < c; ++i) {
            const float* from = x.data() + size_t(f) * tokens * c + i;
            const float* d_from = dy.data() + size_t(f) * rows * c + i;
            want[size_t(f) * rows * c + i] = from[0];
            spread[size_t(f) * tokens * c + i] = d_from[0];
            for (int cell = 0; cell < side * side; ++cell) {
                std::set<int> own;
                for (int row = begin(cell / side); row < end(cell / side); ++row)
                    for (int column = begin(cell % side); column < end(cell % side); ++column) own.insert(1 + row * grid + column);
                float sum = 0;
                for (int token : own) {
                    sum += from[size_t(token) * c];
                    spread[(size_t(f) * tokens + token) * c + i] += d_from[size_t(1 + cell) * c] / float(own.size());
                }
                want[(size_t(f) * rows + 1 + cell) * c + i] = sum / float(own.size());
            }
        }
    string sizes = " " + std::to_string(grid) + " to " + std::to_string(side);
    auto equal = [&](const string& what, Buffer<float>& out, const vector<float>& expected, Buffer<float>& in) {
        auto run = [&] { launch(what, {over(out.size(), 256)}, 256, 0, in.data(), out.data(), n, grid, side, c); };
        in_orders(what + sizes, out, run);
        printf("%-64s equal\n", (what + sizes).c_str());
        expect(same_bits(out.copy(), expected), what + sizes + ": wrong");
        // A NaN of the first frame stays there.
        float before = in[0];
        in[0] = NAN;
        with_nan(what + sizes, out, run, [&](size_t at) { return at == 0; });
        in[0] = before;
    };
    equal("cell_means", y, want, x);
    equal("cell_spread", dx, spread, dy);
}

}  // namespace

void cells() {
    for (auto [grid, side] : {std::pair{1, 1}, {3, 3}, {6, 4}, {7, 4}, {14, 4}}) pooled(2, grid, side, 36);
}

}  // namespace check
