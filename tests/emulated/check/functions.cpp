// The functions of `device.cuh` one by one, against what the PTX manual says of their instructions. They come first: everything else stands on them.
#include "check.hpp"

namespace check {

namespace {

float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
bool is_nan(bf16 x) { return (x & 0x7f80) == 0x7f80 && (x & 0x7f) != 0; }
bf16 half_of(uint32_t word, int half) { return bf16(word >> 16 * half); }

// Every bfloat16 there is.
void widening() {
    Buffer<bf16> x(65536);
    Buffer<float> y(65536);
    for (size_t i = 0; i < x.size(); ++i) x[i] = bf16(i);
    in_orders(
        "widen", y, [&] { launch("function_widen", {256}, 256, 0, x.data(), y.data(), 65536); }, false);
    bool same = true;
    for (size_t i = 0; i < x.size(); ++i) {
        uint32_t bits;
        memcpy(&bits, &y[i], 4);
        same = same && bits == uint32_t(i) << 16;
    }
    expect(same, "widen: a bfloat16 is the high half of its float");
}

// Ties, the numbers beside them, and what is not finite; and random bits.
void narrowing() {
    vector<uint32_t> bits;
    for (uint32_t high : {0x0000u, 0x0001u, 0x007fu, 0x0080u, 0x3f80u, 0x3f81u, 0x4049u, 0x7f7fu, 0x7f80u, 0x8000u, 0xbf80u, 0xff7fu, 0xff80u})
        for (uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) bits.push_back(high << 16 | low);
    std::mt19937 source(7);
    while (bits.size() < 4096) bits.push_back(uint32_t(source()));
    int count = int(bits.size());
    Buffer<float> x(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) memcpy(&x[i], &bits[i], 4);
    Buffer<uint32_t> pairs(bits.size() / 2);
    Buffer<bf16> singles(bits.size());
    in_orders(
        "narrow", singles,
        [&] { launch("function_narrow", {over(bits.size(), 256)}, 256, 0, x.data(), pairs.data(), singles.data(), count); }, false);
    bool nearest = true, ordered = true;
    for (size_t i = 0; i < bits.size(); ++i) {
        float own = from_bits(bits[i]);
        bf16 want = rounded<bf16>(own);
        bool same = own != own ? is_nan(singles[i]) : singles[i] == want;
        nearest = nearest && same;
        bf16 of_pair = half_of(pairs[i / 2], int(i % 2));
        ordered = ordered && (own != own ? is_nan(of_pair) : of_pair == want);
    }
    expect(nearest, "narrow: to the nearest even bfloat16");
    expect(ordered, "narrow2: its first number is in the low half");
}

void exponentials() {
    vector<float> numbers = {0.0f, -0.0f, 1.0f, -1.0f, 10.0f, -10.0f, 127.0f, -125.5f, 128.0f, -126.5f, -140.0f, -200.0f, INFINITY, -INFINITY, NAN};
    std::mt19937 source(8);
    std::uniform_real_distribution<float> range(-126.0f, 127.0f);
    while (numbers.size() < 2048) numbers.push_back(range(source));
    Buffer<float> x(numbers.size()), y(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) x[i] = numbers[i];
    in_orders(
        "exp2", y, [&] { launch("function_exp2", {over(numbers.size(), 256)}, 256, 0, x.data(), y.data(), int(numbers.size())); }, false);
    double most = 0;
    bool ends = true;
    for (size_t i = 0; i < numbers.size(); ++i) {
        double want = std::exp2(double(numbers[i])), got = y.get(i);
        if (numbers[i] != numbers[i]) ends = ends && got != got;
        else if (numbers[i] >= 128) ends = ends && std::isinf(got) && got > 0;
        else if (numbers[i] < -126) ends = ends && got == 0 && !std::signbit(got);
        else most = std::max(most, std::abs(got - want) / want);
    }
    printf("%-64s largest relative error %.1e\n", "exp2", most);
    // The manual promises two units of the last place from the correctly rounded result: two and a half from the exact one, 2.5 · 2^-23.
    expect(most <= 3.0e-7, "exp2: within two units of the last place");
    expect(ends, "exp2: infinities, zeros below the least normal number, and NaN");
}

void copies() {
    constexpr int THREADS = 96, COUNT = 3 * THREADS * 8;
    Buffer<bf16> x(COUNT), y(COUNT);
    for (int i = 0; i < COUNT; ++i) x[size_t(i)] = bf16(i + 1);
    in_orders("asynchronous copies", y, [&] { launch("function_copy", {1}, THREADS, COUNT * 2, x.data(), y.data()); });
    bool right = true;
    for (int group = 0; group < 3; ++group)
        for (int own = 0; own < THREADS; ++own)
            for (int i = 0; i < 8; ++i) {
                int next = (own + 1) % THREADS, from = (group * THREADS + next) * 8 + i;
                bf16 want = (next + group) % 4 != 0 ? x[size_t(from)] : bf16(0);
                right = right && y[size_t((group * THREADS + own) * 8 + i)] == want;
            }
    expect(right, "asynchronous copies: what was copied, and zeros for what is absent");
}

// Lane l gets of matrix i the row l / 4 and its numbers 2 (l % 4) and the next; transposed, the column l / 4.
void matrices() {
    Buffer<bf16> x(32 * 8);
    for (size_t i = 0; i < x.size(); ++i) x[i] = bf16(0x100 + i);
    Buffer<uint32_t> y(32 * 4), transposed(32 * 4);
    in_orders("matrices", y, [&] { launch("function_load", {1}, 32, 512, x.data(), y.data(), transposed.data()); });
    bool right = true, turned = true;
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            for (int e = 0; e < 2; ++e) {
                int major = lane / 4, minor = 2 * (lane % 4) + e;
                size_t at = size_t(lane * 4 + i);
                right = right && half_of(y[at], e) == x[size_t((8 * i + major) * 8 + minor)];
                turned = turned && half_of(transposed[at], e) == x[size_t((8 * i + minor) * 8 + major)];
            }
    expect(right, "load_matrices: a lane's row and pair");
    expect(turned, "load_matrices_transposed: a lane's column and pair");
}

// Whole numbers, so that every sum is exact: d[16 × 8] += a[16 × 16] · b[16 × 8] by the manual's fragments of m16n8k16.
void products_of_matrices() {
    std::mt19937 source(9);
    int a[16][16], b[16][8], d[16][8];
    for (auto& row : a)
        for (int& x : row) x = int(source() % 31) - 15;
    for (auto& row : b)
        for (int& x : row) x = int(source() % 31) - 15;
    for (auto& row : d)
        for (int& x : row) x = int(source() % 1001) - 500;
    auto pair = [](int low, int high) { return uint32_t(rounded<bf16>(float(low))) | uint32_t(rounded<bf16>(float(high))) << 16; };
    Buffer<uint32_t> of_a(128), of_b(64);
    Buffer<float> sums(128);
    auto fill = [&] {
        for (int lane = 0; lane < 32; ++lane) {
            int group = lane / 4, two = 2 * (lane % 4);
            for (int i = 0; i < 4; ++i) {
                int row = group + i % 2 * 8, column = two + i / 2 * 8;
                of_a[size_t(lane * 4 + i)] = pair(a[row][column], a[row][column + 1]);
                sums[size_t(lane * 4 + i)] = float(d[group + i / 2 * 8][two + i % 2]);
            }
            for (int i = 0; i < 2; ++i) of_b[size_t(lane * 2 + i)] = pair(b[two + i * 8][group], b[two + 1 + i * 8][group]);
        }
    };
    in_orders("multiply_add", sums, [&] {
        fill();
        launch("function_multiply", {1}, 32, 0, of_a.data(), of_b.data(), sums.data());
    });
    bool right = true;
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2, want = d[row][column];
            for (int k = 0; k < 16; ++k) want += a[row][k] * b[k][column];
            right = right && sums[size_t(lane * 4 + i)] == float(want);
        }
    expect(right, "multiply_add: the fragments of m16n8k16");
}

void exchanges() {
    Buffer<float> x(32), y(5 * 32);
    for (size_t i = 0; i < 32; ++i) x[i] = float(10 * i);
    in_orders("shuffles", y, [&] { launch("function_shuffle", {1}, 32, 0, x.data(), y.data()); });
    bool right = true;
    for (int i = 0; i < 5; ++i)
        for (int lane = 0; lane < 32; ++lane) {
            int from = lane ^ (16 >> i);
            right = right && y[size_t(i * 32 + lane)] == float(10 * from + (from % 4 == 3));
        }
    expect(right, "a shuffle brings the number of the lane at a distance");

    constexpr int THREADS = 256, STEPS = 37;
    Buffer<float> numbers(THREADS), out(THREADS);
    for (size_t i = 0; i < THREADS; ++i) numbers[i] = float(i);
    for (int round : {THREADS, 32}) {
        const char* name = round == 32 ? "function_warp_barrier" : "function_barrier";
        in_orders(name, out, [&] { launch(name, {1}, THREADS, THREADS * 4, numbers.data(), out.data(), STEPS); });
        bool moved = true;
        for (int i = 0; i < THREADS; ++i) moved = moved && out[size_t(i)] == float(i / round * round + (i + STEPS) % round);
        expect(moved, string(name) + ": numbers go round");
    }
}

}  // namespace

void functions() {
    widening();
    narrowing();
    exponentials();
    copies();
    matrices();
    products_of_matrices();
    exchanges();
}

}  // namespace check
