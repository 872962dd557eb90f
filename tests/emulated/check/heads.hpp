// Attention in 64-bit floats: what both families of kernels are compared with.
#pragma once
#include <algorithm>

#include "check.hpp"

namespace check {

// Operands of `queries` queries and `keys` keys a frame, each with its place in a buffer.
struct Attention {
    int frames, queries, keys, heads, width;
    vector<double> y, dq, dk, dv, log_sums, deltas;

    size_t rows_q() const { return size_t(frames) * queries; }
    size_t c() const { return size_t(heads) * width; }

    // Q, K, V and DY: numbers by (frame, row, channel).
    template <class Q, class K, class V, class Y>
    void compute(Q q, K k, V v, Y dy) {
        y.assign(rows_q() * c(), 0);
        dq = y;
        dk.assign(size_t(frames) * keys * c(), 0);
        dv = dk;
        log_sums.assign(size_t(frames) * heads * queries, 0);
        deltas = log_sums;
        for (int f = 0; f < frames; ++f)
            for (int h = 0; h < heads; ++h)
                for (int i = 0; i < queries; ++i) one(f, h, i, q, k, v, dy);
    }

  private:
    template <class Q, class K, class V, class Y>
    void one(int f, int h, int i, Q q, K k, V v, Y dy) {
        double scale = 1 / std::sqrt(double(width)), most = -1e300, sum = 0, delta = 0;
        vector<double> p(keys), dp(keys);
        int first = h * width;
        for (int j = 0; j < keys; ++j) {
            for (int d = first; d < first + width; ++d) {
                p[j] += q(f, i, d) * k(f, j, d) * scale;
                dp[j] += dy(f, i, d) * v(f, j, d);
            }
            most = std::max(most, p[j]);
        }
        for (double& s : p) sum += s = std::exp(s - most);
        for (int j = 0; j < keys; ++j) delta += (p[j] /= sum) * dp[j];
        size_t at = (size_t(f) * heads + h) * queries + i;
        log_sums[at] = (most + std::log(sum)) / std::log(2.0);
        deltas[at] = delta;
        for (int j = 0; j < keys; ++j)
            for (int d = first; d < first + width; ++d) {
                size_t of_q = (size_t(f) * queries + i) * c() + d, of_k = (size_t(f) * keys + j) * c() + d;
                double ds = p[j] * (dp[j] - delta) * scale;
                y[of_q] += p[j] * v(f, j, d);
                dq[of_q] += ds * k(f, j, d);
                dk[of_k] += ds * q(f, i, d);
                dv[of_k] += p[j] * dy(f, i, d);
            }
    }
};

}  // namespace check
