// What the checks share: buffers that end at a guard page, random numbers, launches in several orders of the threads, distances to 64-bit floats.
#pragma once
#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace check {

using bf16 = uint16_t;
using std::string;
using std::vector;

inline float value(float x) { return x; }
inline double value(double x) { return x; }
inline int value(int x) { return x; }
inline float value(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
template <class T>
T rounded(float x) {
    if constexpr (!std::is_same_v<T, bf16>) {
        return T(x);
    } else {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        return x != x ? bf16(0x7fff) : bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}
template <class T>
const char* format() {
    return std::is_same_v<T, bf16> ? "bf16" : "f32";
}
// The distance that one rounding to this format leaves, with room for a second.
template <class T>
double limit() {
    return std::is_same_v<T, bf16> ? 4e-3 : 3e-6;
}

// Numbers that begin as NaN and end at a page that cannot be touched.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t size) : size_(size) {
        size_t bytes = (size * sizeof(T) + 15) / 16 * 16;
        pages_ = (bytes + PAGE - 1) / PAGE * PAGE;
        base_ = static_cast<char*>(
            mmap(nullptr, pages_ + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED) abort();
        mprotect(base_ + pages_, PAGE, PROT_NONE);
        fs::show(base_, pages_);
        at_ = reinterpret_cast<T*>(base_ + pages_ - bytes);
        poison();
    }
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(base_, other.base_);
        std::swap(at_, other.at_);
        std::swap(size_, other.size_);
        std::swap(pages_, other.pages_);
        return *this;
    }
    ~Buffer() {
        if (!base_) return;
        fs::hide(base_);
        munmap(base_, pages_ + PAGE);
    }
    void poison() { memset(base_, 0xff, pages_); }
    T* data() { return at_; }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return at_[i]; }
    double get(size_t i) const { return double(value(at_[i])); }
    bool is_poisoned(size_t i) const {
        unsigned char own[sizeof(T)];
        memcpy(own, at_ + i, sizeof own);
        for (unsigned char byte : own)
            if (byte != 0xff) return false;
        return true;
    }
    vector<T> copy() const { return vector<T>(at_, at_ + size_); }

  private:
    static constexpr size_t PAGE = 4096;
    char* base_ = nullptr;
    T* at_ = nullptr;
    size_t size_ = 0, pages_ = 0;
};

extern int failures;
extern unsigned order;
void expect(bool ok, const string& what);
// The kernel of a name; its launch is counted.
const fs::Kernel* kernel(const string& name);

struct Size {
    unsigned x = 1, y = 1, z = 1;
};
inline unsigned over(size_t count, size_t each) { return unsigned((count + each - 1) / each); }

template <class... A>
void launch(const string& name, Size grid, unsigned threads, size_t shared, A... a) {
    void* arguments[] = {&a...};
    fs::launch(kernel(name), {{grid.x, grid.y, grid.z}, threads, shared, order}, arguments);
}

template <class T>
Buffer<T> random(size_t count, unsigned seed, float deviation = 1.0f, float mean = 0.0f) {
    std::mt19937 source(seed);
    std::normal_distribution<float> normal(mean, deviation);
    Buffer<T> x(count);
    for (size_t i = 0; i < count; ++i) x[i] = rounded<T>(normal(source));
    return x;
}

// ‖got − want‖ / ‖want‖
template <class T>
double distance(const Buffer<T>& got, const vector<double>& want) {
    double d = 0, n = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        d += (got.get(i) - want[i]) * (got.get(i) - want[i]);
        n += want[i] * want[i];
    }
    return d == 0 ? 0 : std::sqrt(d / n);
}

template <class T>
bool same_bits(const vector<T>& a, const vector<T>& b) {
    return a.size() == b.size() && (a.empty() || !memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

// Runs launches with threads in order, in reverse and shuffled, with late copies and with early ones and warps that go ahead: every number of the result is written,
// with the same bits.
template <class T, class F>
void in_orders(const string& what, Buffer<T>& out, F run, bool whole = true) {
    vector<T> first;
    for (unsigned own : {5u, 1u, fs::EARLY | fs::GREEDY, 1u | fs::EARLY | fs::GREEDY, 0u}) {
        order = own;
        out.poison();
        run();
        bool written = true;
        for (size_t i = 0; whole && i < out.size(); ++i) written = written && !out.is_poisoned(i);
        expect(written, what + ": a number of the result is not written");
        vector<T> now = out.copy();
        if (!first.empty()) expect(same_bits(now, first), what + ": an order of threads changes the result");
        first = std::move(now);
    }
    order = 0;
}

// As `in_orders`, and compares with the numbers that are wanted.
template <class T, class F>
void compare(const string& what, Buffer<T>& out, const vector<double>& want, double most, F run) {
    in_orders(what, out, run);
    double d = distance(out, want);
    printf("%-64s distance to f64 %.1e\n", what.c_str(), d);
    expect(d <= most, what + ": too far");
}

// What changes when a NaN comes in: exactly the numbers for which `reached` says so become NaN, the others keep their bits.
template <class T, class F, class R>
void with_nan(const string& what, Buffer<T>& out, F run, R reached) {
    vector<T> before = out.copy();
    out.poison();
    run();
    bool spread = true, kept = true;
    for (size_t i = 0; i < out.size(); ++i) {
        if (reached(i)) spread = spread && std::isnan(out.get(i)) && !out.is_poisoned(i);
        else kept = kept && !memcmp(&out[i], &before[i], sizeof(T));
    }
    expect(spread, what + ": a NaN is lost");
    expect(kept, what + ": a NaN reaches what it should not");
}

// The checks, by file.
void functions();
void norms();
void activations();
void attentions();
void plain_attentions();
void products();
void weight_gradients();
void convolutions();
void sums();
void rows();
void cells();
void numbers();

// A few launches of the kernels whose warps share memory, for tools that take long.
void few_attentions();
void few_products();
void few_weight_gradients();

}  // namespace check
