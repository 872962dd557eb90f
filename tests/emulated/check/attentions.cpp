// Attention of heads 64 wide on matrix instructions, forward and backward.
#include "heads.hpp"

namespace check {

namespace {

constexpr int D = 64;

struct Packed {
    int frames, tokens, heads, width, warps;
    Buffer<bf16> qkv, dy;
    Attention want;
    Packed(int frames, int tokens, int heads, int warps)
        : frames(frames), tokens(tokens), heads(heads), width(heads * D), warps(warps),
          qkv(random<bf16>(size_t(frames) * tokens * 3 * width, 31, 1.5f)),
          dy(random<bf16>(size_t(frames) * tokens * width, 32)), want{frames, tokens, tokens, heads, D, {}, {}, {}, {}, {}, {}} {
        auto of = [&](int part) { return [this, part](int f, int row, int d) { return qkv.get((size_t(f) * this->tokens + row) * 3 * width + part * width + d); }; };
        want.compute(of(0), of(1), of(2), [this](int f, int row, int d) { return dy.get((size_t(f) * this->tokens + row) * width + d); });
    }
    size_t rows() const { return size_t(frames) * tokens; }
    string name(const char* kernel) const { return string(kernel) + " " + std::to_string(frames) + " x " + std::to_string(tokens) + " x " + std::to_string(heads); }
    Size grid() const { return {over(tokens, 16 * warps), unsigned(heads), unsigned(frames)}; }
    void forward(bf16* y, float* log_sums) {
        float scale = float(1.4426950408889634 / 8);
        launch("attention_64", grid(), 32 * warps, (16 * warps + 4 * 64) * D * 2, qkv.data(), y, log_sums, tokens, heads, scale);
    }
};

void forward(int frames, int tokens, int heads, int warps) {
    Packed own(frames, tokens, heads, warps);
    Buffer<bf16> y(own.rows() * own.width);
    Buffer<float> sums(size_t(frames) * heads * tokens);
    auto run = [&] { own.forward(y.data(), sums.data()); };
    compare(own.name("attention_64"), y, own.want.y, 6e-3, run);
    expect(distance(sums, own.want.log_sums) < 1e-4, own.name("attention_64") + ": log sums too far");
    vector<bf16> whole = y.copy();
    own.forward(y.data(), nullptr);
    expect(same_bits(whole, y.copy()), own.name("attention_64") + ": asking for log sums changes the result");
    // A NaN among the keys of the last frame reaches that head of that frame alone.
    own.qkv[(own.rows() - 1) * 3 * own.width + own.width] = 0x7fff;
    with_nan(own.name("attention_64"), y, run, [&](size_t i) { return i / own.width / tokens + 1 == size_t(frames) && i % own.width < D; });
}

void backward(int frames, int tokens, int heads, int warps) {
    Packed own(frames, tokens, heads, warps);
    Buffer<bf16> y(own.rows() * own.width), dx(own.rows() * 3 * own.width);
    Buffer<float> sums(size_t(frames) * heads * tokens), deltas(sums.size());
    float scale = float(1.4426950408889634 / 8);
    auto run = [&] {
        own.forward(y.data(), sums.data());
        launch("attention_64_delta", {over(own.rows(), 8)}, 256, 0, y.data(), own.dy.data(), deltas.data(), int(own.rows()), tokens, heads);
        for (const char* name : {"attention_64_dq", "attention_64_dkv"})
            launch(name, own.grid(), 32 * warps, (32 * warps + 4 * 64) * D * 2, own.qkv.data(), own.dy.data(), sums.data(), deltas.data(), dx.data(), tokens, heads, scale);
    };
    vector<double> want(dx.size());
    for (size_t i = 0; i < want.size(); ++i) {
        size_t row = i / (3 * own.width), part = i / own.width % 3, at = row * own.width + i % own.width;
        want[i] = part == 0 ? own.want.dq[at] : part == 1 ? own.want.dk[at] : own.want.dv[at];
    }
    compare(own.name("attention_64 backward"), dx, want, 8e-3, run);
    expect(distance(deltas, own.want.deltas) < 2e-2, own.name("attention_64_delta") + ": too far");
    // dv of the last frame's first head comes from all its gradients.
    own.dy[(own.rows() - 1) * own.width] = 0x7fff;
    vector<bf16> before = dx.copy();
    run();
    bool kept = true, reached = true;
    for (size_t i = 0; i < dx.size(); ++i) {
        size_t row = i / (3 * own.width), head = i % own.width / D;
        if (row / tokens + 1 == size_t(frames) && head == 0) {
            if (i / own.width % 3 == 2 && i % own.width == 0) reached = reached && std::isnan(dx.get(i));
        } else kept = kept && dx[i] == before[i];
    }
    expect(kept && reached, own.name("attention_64 backward") + ": a NaN is lost, or reaches another frame or head");
}

}  // namespace

// Blocks of keys enough that each part of shared memory is used again.
void few_attentions() { backward(1, 200, 1, 4); }

void attentions() {
    for (int tokens : {1, 5, 17, 50, 64, 65, 197}) backward(2, tokens, tokens == 50 ? 5 : 2, 4);
    backward(1, 37, 1, 1);
    for (int tokens : {1, 5, 17, 50, 64, 65, 197, 257}) forward(2, tokens, 2, 4);
    forward(1, 197, 3, 7);
    forward(1, 577, 1, 8);
}

}  // namespace check
