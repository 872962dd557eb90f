// Rows of tokens: class rows, means over clips, patches and their embedding. All of them only move, add or divide: results are equal by the bit.
#include "check.hpp"

namespace check {

namespace {

template <class T, class F>
void exactly(const string& what, Buffer<T>& out, const vector<T>& want, F run) {
    in_orders(what, out, run, false);
    printf("%-64s equal\n", what.c_str());
    expect(same_bits(out.copy(), want), what + ": wrong");
}

template <class T>
void class_tokens(int n, int tokens, int c) {
    Buffer<T> x = random<T>(size_t(n) * tokens * c, 101), rows = random<T>(size_t(n) * c, 102), y(rows.size()), all(x.size());
    vector<T> want(rows.size()), only(x.size());
    for (int f = 0; f < n; ++f)
        for (int i = 0; i < c; ++i) {
            want[size_t(f) * c + i] = x[size_t(f) * tokens * c + i];
            only[size_t(f) * tokens * c + i] = rows[size_t(f) * c + i];
        }
    string sizes = string("_") + format<T>() + " " + std::to_string(n) + " x " + std::to_string(tokens) + " x " + std::to_string(c);
    string name = string("class_rows_") + format<T>();
    exactly("class_rows" + sizes, y, want, [&] { launch(name, {over(want.size(), 256)}, 256, 0, x.data(), y.data(), n, tokens, c); });
    exactly("only_class_rows" + sizes, all, only, [&] { launch("only_" + name, {over(only.size(), 256)}, 256, 0, rows.data(), all.data(), n, tokens, c); });
}

void changed_class_tokens(int n, int tokens, int c) {
    Buffer<float> x = random<float>(size_t(n) * tokens * c, 103), rows = random<float>(size_t(n) * c, 104), y(x.size());
    Buffer<float> before = random<float>(x.size(), 105);
    vector<float> copied(x.size()), added(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        bool is_class = i / c % tokens == 0;
        copied[i] = is_class ? x[i] : before[i];
        added[i] = is_class ? before[i] + rows[i / c / tokens * c + i % c] : before[i];
    }
    auto restore = [&] { memcpy(y.data(), before.data(), before.size() * 4); };
    unsigned blocks = over(rows.size(), 256);
    exactly("copy_class_rows", y, copied, [&] { restore(); launch("copy_class_rows", {blocks}, 256, 0, x.data(), y.data(), n, tokens, c); });
    exactly("add_class_rows", y, added, [&] { restore(); launch("add_class_rows", {blocks}, 256, 0, rows.data(), y.data(), n, tokens, c); });
}

void means(vector<int> frames, int c) {
    Buffer<int> first(frames.size() + 1);
    first[0] = 0;
    for (size_t i = 0; i < frames.size(); ++i) first[i + 1] = first[i] + frames[i];
    int clips = int(frames.size()), total = first[frames.size()];
    Buffer<float> x = random<float>(size_t(total) * c, 106), y(size_t(clips) * c), dy = random<float>(size_t(clips) * c, 107), dx(x.size());
    vector<float> want(y.size()), spread(x.size());
    for (int clip = 0; clip < clips; ++clip)
        for (int i = 0; i < c; ++i) {
            float sum = 0;
            for (int row = first[clip]; row < first[clip + 1]; ++row) sum += x[size_t(row) * c + i];
            want[size_t(clip) * c + i] = sum / float(frames[clip]);
            for (int row = first[clip]; row < first[clip + 1]; ++row) spread[size_t(row) * c + i] = dy[size_t(clip) * c + i] / float(frames[clip]);
        }
    exactly("clip_means " + std::to_string(clips), y, want, [&] { launch("clip_means", {over(y.size(), 256)}, 256, 0, x.data(), y.data(), first.data(), clips, c); });
    exactly("clip_spread " + std::to_string(clips), dx, spread, [&] { launch("clip_spread", {over(c, 256), unsigned(clips)}, 256, 0, dy.data(), dx.data(), first.data(), c); });
}

template <class In, class Out>
void patches(int count, int grid, int patch) {
    struct Picture {
        long long at, channel;
    };
    // Frames of one clip `[3, T, S, S]`, and a picture by itself behind it.
    int side = grid * patch, length = 3 * patch * patch;
    long long plane = (long long)side * side;
    Buffer<In> planes = random<In>(size_t(3 * count * plane + 3 * plane), 108);
    Buffer<Picture> table(size_t(count) + 1);
    for (int t = 0; t < count; ++t) table[size_t(t)] = {t * plane, count * plane};
    table[size_t(count)] = {3 * count * plane, plane};
    Buffer<Out> y(size_t(count + 1) * grid * grid * length);
    vector<Out> want(y.size());
    for (size_t i = 0; i < want.size(); ++i) {
        Picture own = table[i / (size_t(grid) * grid * length)];
        int p = int(i / length % (size_t(grid) * grid)), channel = int(i % length) / (patch * patch), row = int(i % length) / patch % patch, column = int(i) % patch;
        size_t from = size_t(own.at + channel * own.channel) + size_t(p / grid * patch + row) * side + p % grid * patch + column;
        want[i] = rounded<Out>(value(planes[from]));
    }
    string name = string("patches_") + format<In>() + "_" + format<Out>();
    exactly(name + " " + std::to_string(grid) + " x " + std::to_string(patch), y, want, [&] {
        launch(name, {over(size_t(grid) * grid * length, 256), unsigned(count) + 1}, 256, 0, planes.data(), y.data(), table.data(), grid, patch);
    });
}

void embedding(int n, int tokens, int c) {
    Buffer<float> from = random<float>(size_t(n) * (tokens - 1) * c + 1, 109), base = random<float>(size_t(tokens) * c, 110), y(size_t(n) * tokens * c);
    vector<float> want(y.size());
    for (size_t i = 0; i < want.size(); ++i) {
        size_t frame = i / c / tokens, token = i / c % tokens;
        want[i] = base[token * c + i % c];
        if (token > 0) want[i] += from[(frame * (tokens - 1) + token - 1) * c + i % c];
    }
    exactly("embed", y, want, [&] { launch("embed", {over(y.size(), 256)}, 256, 0, from.data(), base.data(), y.data(), n, tokens, c); });
}

}  // namespace

void rows() {
    for (auto [n, tokens, c] : {std::tuple{1, 1, 1}, {3, 5, 36}, {2, 50, 100}}) {
        class_tokens<float>(n, tokens, c);
        class_tokens<bf16>(n, tokens, c);
        changed_class_tokens(n, tokens, c);
        embedding(n, tokens, c);
    }
    means({1, 8, 3, 16}, 300);
    means({2}, 1);
    for (auto [grid, patch] : {std::pair{1, 1}, {2, 7}, {3, 16}}) {
        patches<float, float>(3, grid, patch);
        patches<float, bf16>(3, grid, patch);
        patches<bf16, float>(3, grid, patch);
        patches<bf16, bf16>(3, grid, patch);
    }
}

}  // namespace check
