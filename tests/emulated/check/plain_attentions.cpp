// Attention of any head width without matrix instructions: packed operands, and one query a frame.
#include "heads.hpp"

namespace check {

namespace {

struct Strides {
    long long frame;
    int row;
};

// Queries and keys as the walk has them: packed in one buffer, or the class tokens' queries beside keys and values.
template <class T, class Dy, class Out>
struct Case {
    int frames, queries, keys, heads, width;
    bool packed;
    size_t c;
    Buffer<T> q, kv;
    Buffer<Dy> dy;
    Strides of_q, of_kv, of_y;
    T *k, *v;
    Attention want;

    Case(int frames, int tokens, int heads, int width, bool packed)
        : frames(frames), queries(packed ? tokens : 1), keys(tokens), heads(heads), width(width), packed(packed), c(size_t(heads) * width),
          q(random<T>(size_t(frames) * (packed ? 3 * tokens : 1) * c, 41)), kv(random<T>(packed ? 8 : size_t(frames) * tokens * 2 * c, 42)),
          dy(random<Dy>(size_t(frames) * queries * c, 43)), want{frames, queries, tokens, heads, width, {}, {}, {}, {}, {}, {}} {
        int wide = int(packed ? 3 * c : 2 * c);
        of_kv = {(long long)tokens * wide, wide};
        of_q = packed ? of_kv : Strides{(long long)c, int(c)};
        of_y = {(long long)(queries * c), int(c)};
        k = packed ? q.data() + c : kv.data();
        v = k + c;
        auto in = [](T* at, Strides s) { return [=](int f, int row, int d) { return double(value(at[f * s.frame + (long long)row * s.row + d])); }; };
        want.compute(in(q.data(), of_q), in(k, of_kv), in(v, of_kv), [this](int f, int row, int d) { return dy.get((size_t(f) * queries + row) * c + d); });
    }
    Size grid(int rows, int warps) const { return {over(rows, warps), unsigned(heads), unsigned(frames)}; }
    string name(const string& kernel) const {
        return kernel + " " + std::to_string(frames) + " x " + std::to_string(queries) + "/" + std::to_string(keys) + " x " + std::to_string(heads) + " x " + std::to_string(width);
    }
    float scale() const { return 1 / std::sqrt(float(width)); }

    void forward(int warps) {
        string own = string("attention_plain_") + format<T>() + "_" + format<Out>();
        Buffer<Out> y(want.y.size());
        auto run = [&] {
            launch(own, grid(queries, warps), 32 * warps, 4 * size_t(warps) * keys, q.data(), k, v, y.data(), of_q, of_kv, of_y, queries, keys, width, scale());
        };
        compare(name(own), y, want.y, limit<Out>(), run);
        size_t last = size_t(frames - 1) * of_kv.frame + size_t(keys - 1) * of_kv.row;
        T kept = k[last];
        k[last] = rounded<T>(NAN);
        with_nan(name(own), y, run, [&](size_t i) { return i / (queries * c) + 1 == size_t(frames) && i % c < size_t(width); });
        k[last] = kept;
    }

    void backward(int warps) {
        string formats = string(format<T>()) + "_" + format<Dy>() + "_" + format<Out>();
        Buffer<Out> dx(size_t(frames) * (packed ? 3 * keys : 2 * keys + 1) * c);
        Buffer<float> sums(size_t(frames) * heads * queries * 2);
        // One buffer for all gradients: packed as the operands, or those of the queries first.
        Out* dk = dx.data() + (packed ? c : frames * c);
        auto run = [&] {
            launch("attention_plain_dq_" + formats, grid(queries, warps), 32 * warps, 8 * size_t(warps) * keys, q.data(), k, v, dy.data(), dx.data(), sums.data(), of_q, of_kv,
                   of_y, of_q, queries, keys, width, scale());
            launch("attention_plain_dkv_" + formats, grid(keys, warps), 32 * warps, 8 * size_t(warps) * queries, q.data(), k, v, dy.data(), sums.data(), dk, dk + c, of_q, of_kv,
                   of_y, of_kv, queries, keys, width, scale());
        };
        vector<double> all(dx.size());
        auto put = [&](const vector<double>& from, size_t first, Strides s, int rows) {
            for (int f = 0; f < frames; ++f)
                for (int row = 0; row < rows; ++row)
                    for (size_t d = 0; d < c; ++d) all[first + size_t(f) * s.frame + size_t(row) * s.row + d] = from[(size_t(f) * rows + row) * c + d];
        };
        size_t of_k = packed ? c : frames * c;
        put(want.dq, 0, of_q, queries);
        put(want.dk, of_k, of_kv, keys);
        put(want.dv, of_k + c, of_kv, keys);
        compare(name("attention_plain backward " + formats), dx, all, std::max(limit<Out>(), 1e-5), run);
        dy[dy.size() - 1] = rounded<Dy>(NAN);
        vector<Out> before = dx.copy();
        run();
        bool kept = true;
        for (size_t i = 0; i < dx.size(); ++i)
            if (packed && i < dx.size() / frames * (frames - 1)) kept = kept && !memcmp(&dx[i], &before[i], sizeof(Out));
        expect(kept && std::isnan(dx.get(dx.size() - 1)), name("attention_plain backward") + ": a NaN is lost, or reaches another frame");
    }
};

template <class T, class Dy, class Out>
void both(int frames, int tokens, int heads, int width, bool packed) {
    Case<T, Dy, Out> own(frames, tokens, heads, width, packed);
    if (!(std::is_same_v<T, float> && std::is_same_v<Out, bf16>)) own.forward(4);
    own.backward(3);
}

}  // namespace

void plain_attentions() {
    for (bool packed : {true, false})
        for (auto [tokens, heads, width] : {std::tuple{1, 1, 8}, {5, 3, 12}, {17, 2, 36}, {50, 1, 64}, {65, 2, 88}, {197, 1, 80}}) {
            both<float, float, float>(2, tokens, heads, width, packed);
            both<bf16, float, float>(2, tokens, heads, width, packed);
            both<bf16, float, bf16>(2, tokens, heads, width, packed);
            if (tokens > 50) continue;
            both<bf16, bf16, float>(2, tokens, heads, width, packed);
            both<bf16, bf16, bf16>(2, tokens, heads, width, packed);
        }
}

}  // namespace check
