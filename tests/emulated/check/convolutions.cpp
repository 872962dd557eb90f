// The depthwise convolution: forward, gradient of the input, gradients of the weights; several kernels in one launch.
#include "check.hpp"

namespace check {

namespace {

struct Convolution {
    const float *taps, *bias;
    long long x_at, y_at;
    int frames, tile, channels, kt, kh, kw;
};

struct Segment {
    int clips, channels, kt, kh, kw;
    int taps() const { return kt * kh * kw; }
    string name() const { return std::to_string(channels) + " channels (" + std::to_string(kt) + "," + std::to_string(kh) + "," + std::to_string(kw) + ")"; }
};

// Calls `f(tap, from)` with each neighbour, inside the clip, that the kernel's taps read for a token.
template <class F>
void neighbours(const Segment& s, int clip, int grid, int frame, int row, int column, bool mirrored, F f) {
    int tap = 0;
    for (int t = 0; t < s.kt; ++t)
        for (int h = 0; h < s.kh; ++h)
            for (int w = 0; w < s.kw; ++w, ++tap) {
                int sign = mirrored ? -1 : 1, dt = sign * (t - s.kt / 2), r = row + sign * (h - s.kh / 2), c = column + sign * (w - s.kw / 2);
                if (frame % clip + dt < 0 || frame % clip + dt >= clip || r < 0 || r >= grid || c < 0 || c >= grid) continue;
                f(tap, (size_t(frame + dt) * grid + r) * grid + c);
            }
}

// V: channels of a thread; `time`: a thread has all frames of a clip.
template <class In, class Out>
vector<Out> convolve(const string& variant, vector<Segment> segments, int clip, int grid, bool mirrored) {
    int v = variant == "any" ? 1 : 8;
    vector<Buffer<float>> weights;
    Buffer<Convolution> parts(segments.size());
    size_t size = 0;
    int tiles = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
        const Segment& s = segments[i];
        weights.push_back(random<float>(size_t(s.taps()) * s.channels, unsigned(71 + i)));
        // Biases lie at any address.
        weights.push_back(random<float>(s.channels + 1, unsigned(81 + i)));
        int frames = s.clips * clip;
        parts[i] = {weights[2 * i].data(), weights[2 * i + 1].data() + 1, (long long)size, (long long)size, frames, tiles, s.channels, s.kt, s.kh, s.kw};
        size_t units = size_t(variant == "time" ? s.clips : frames) * grid * grid * (s.channels / v);
        tiles += int(over(units, 256));
        size += size_t(frames) * grid * grid * s.channels;
    }
    Buffer<In> x = random<In>(size, 72);
    vector<double> want(size);
    for (size_t i = 0; i < segments.size(); ++i) {
        const Segment& s = segments[i];
        size_t first = size_t(parts[i].x_at);
        for (int token = 0; token < s.clips * clip * grid * grid; ++token)
            for (int c = 0; c < s.channels; ++c) {
                double sum = mirrored ? 0 : weights[2 * i + 1].get(c + 1);
                neighbours(s, clip, grid, token / grid / grid, token / grid % grid, token % grid, mirrored,
                           [&](int tap, size_t from) { sum += x.get(first + from * s.channels + c) * weights[2 * i].get(size_t(tap) * s.channels + c); });
                want[first + size_t(token) * s.channels + c] = sum;
            }
    }
    string name = "depthwise_" + variant + "_" + format<In>() + "_" + format<Out>();
    string what = name + (mirrored ? " mirrored " : " ") + std::to_string(segments.size()) + " x " + segments[0].name();
    Buffer<Out> y(size);
    int count = int(segments.size()), back = mirrored;
    auto run = [&] { launch(name, {unsigned(tiles)}, 256, 0, x.data(), y.data(), parts.data(), count, clip, grid, back); };
    compare(what, y, want, limit<Out>(), run);
    vector<Out> result = y.copy();
    // A NaN stays within the last clip, and the last channel.
    x[size - 1] = rounded<In>(NAN);
    y.poison();
    run();
    const Segment& last = segments.back();
    size_t begin = size - size_t(clip) * grid * grid * last.channels;
    bool kept = true;
    for (size_t i = 0; i < size; ++i)
        if (i < begin || (i - begin) % last.channels + 1 != size_t(last.channels)) kept = kept && !memcmp(&y[i], &result[i], sizeof(Out));
    expect(kept && std::isnan(y.get(size - 1)), what + ": a NaN is lost, or reaches another clip or channel");
    return result;
}

template <class In, class Out>
void forward() {
    for (bool mirrored : {false, true}) {
        vector<Segment> mixed = {{2, 16, 3, 1, 1}, {1, 8, 1, 1, 1}, {1, 24, 3, 3, 3}, {1, 8, 7, 5, 5}};
        auto plain = convolve<In, Out>("any", mixed, 4, 3, mirrored);
        expect(same_bits(plain, convolve<In, Out>("8", mixed, 4, 3, mirrored)), "depthwise_8: other bits than depthwise_any");
        convolve<In, Out>("any", {{2, 5, 1, 5, 3}, {1, 1, 3, 1, 1}}, 3, 4, mirrored);
        for (int clip : {1, 2, 8}) {
            vector<Segment> in_time = {{2, 40, 3, 1, 1}, {1, 8, 3, 1, 1}};
            auto whole = convolve<In, Out>("8", in_time, clip, 2, mirrored);
            expect(same_bits(whole, convolve<In, Out>("time", in_time, clip, 2, mirrored)), "depthwise_time: other bits than depthwise_8");
        }
    }
}

template <class In, class Dy>
void weights(Segment s, int clip, int grid) {
    int frames = s.clips * clip, taps = s.taps();
    size_t tokens = size_t(frames) * grid * grid, c = size_t(s.channels);
    Buffer<In> x = random<In>(tokens * c, 73);
    Buffer<Dy> dy = random<Dy>(tokens * c, 74);
    // The result: weights `[channels, taps]`, then biases.
    Buffer<float> partial(size_t(frames) * (taps + 1) * c), earlier = random<float>((taps + 1) * c, 75), out((taps + 1) * c);
    vector<double> want(out.size());
    for (size_t i = 0; i < want.size(); ++i) want[i] = earlier.get(i);
    for (size_t token = 0; token < tokens; ++token)
        for (size_t channel = 0; channel < c; ++channel) {
            double g = dy.get(token * c + channel);
            want[taps * c + channel] += g;
            neighbours(s, clip, grid, int(token) / grid / grid, int(token) / grid % grid, int(token) % grid, false,
                       [&](int tap, size_t from) { want[channel * taps + tap] += g * x.get(from * c + channel); });
        }
    string name = string("depthwise_weight_") + format<In>() + "_" + format<Dy>();
    long long stride = (long long)((taps + 1) * c);
    auto add = [&](const float* from, const float* onto, float* to, int rows, int transposed) {
        launch("add_runs", {over(rows * c, 256)}, 256, 0, from, onto, to, frames, stride, rows, s.channels, transposed);
    };
    compare(name + " " + s.name(), out, want, 3e-6, [&] {
        launch(name, {over(c, 256), unsigned(taps + 1), unsigned(frames)}, 256, 0, x.data(), dy.data(), partial.data(), clip, grid, s.channels, s.kt, s.kh, s.kw);
        add(partial.data(), earlier.data(), out.data(), taps, 1);
        add(partial.data() + taps * c, earlier.data() + taps * c, out.data() + taps * c, 1, 0);
    });
}

template <class In, class Dy>
void all_weights() {
    weights<In, Dy>({2, 40, 3, 1, 1}, 4, 3);
    weights<In, Dy>({1, 300, 1, 1, 1}, 2, 2);
    weights<In, Dy>({1, 5, 3, 5, 3}, 5, 4);
    weights<In, Dy>({1, 8, 7, 5, 5}, 3, 3);
}

}  // namespace

void convolutions() {
    forward<float, float>();
    forward<float, bf16>();
    forward<bf16, float>();
    forward<bf16, bf16>();
    all_weights<float, float>();
    all_weights<float, bf16>();
    all_weights<bf16, float>();
    all_weights<bf16, bf16>();
}

}  // namespace check
