// libcublasLt.so for machines without a GPU: products as plain loops, refusing what the real library refuses. Error codes are cublasStatus_t's.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "driver.hpp"

using namespace driver;

namespace {

constexpr int F32 = 0, BF16 = 14, INVALID = 7, FAILED = 13, UNSUPPORTED = 15;
// Greatest of the library's codes.
constexpr int MOST = 16;
// Bits of an epilogue: none, a bias of each row.
constexpr int PLAIN = 1, BIAS = 4;

struct Desc {
    int compute, scale, transa = 0, transb = 0, epilogue = PLAIN, bias_type = -1;
    void* bias = nullptr;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t lead;
};

float get(const void* at, int type, size_t i) {
    if (type == F32) return static_cast<const float*>(at)[i];
    uint32_t bits = uint32_t(static_cast<const uint16_t*>(at)[i]) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
void put(void* at, int type, size_t i, float x) {
    if (type == F32) {
        static_cast<float*>(at)[i] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    static_cast<uint16_t*>(at)[i] = x != x ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The numbers of an operand, `count` lines along the sum of `length` numbers.
std::vector<float> lines(const void* at, const Layout& l, bool along, uint64_t count, uint64_t length) {
    std::vector<float> own(count * length);
    for (uint64_t i = 0; i < count; ++i)
        for (uint64_t p = 0; p < length; ++p) own[i * length + p] = get(at, l.type, along ? p + i * uint64_t(l.lead) : i + p * uint64_t(l.lead));
    return own;
}

// The same in floats, from the last number to the first: another plan.
double dot_backwards(const float* a, const float* b, uint64_t length) {
    float sum = 0.0f;
    for (uint64_t p = length; p-- > 0;) sum += a[p] * b[p];
    return sum;
}

// One number, in an order that depends on its length alone.
double dot(const float* a, const float* b, uint64_t length) {
    double sums[4] = {};
    for (uint64_t p = 0; p < length; ++p) sums[p % 4] += double(a[p]) * double(b[p]);
    return sums[0] + sums[1] + sums[2] + sums[3];
}

int refuse(const char* why, long what) {
    fprintf(stderr, "emulated cublasLt: %s %ld\n", why, what);
    return UNSUPPORTED;
}

// What the library says of an error of the driver's: a broken context shows as a product that failed.
int of_library(int code) { return code > MOST ? FAILED : code; }

bool is_misaligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 != 0; }

}  // namespace

// Begins a function of the library.
#undef ENTER
#define ENTER                                                   \
    std::lock_guard<std::recursive_mutex> guard(driver::order); \
    if (int code = driver::enter(__func__)) return of_library(code)

API cublasLtCreate(void** handle) { ENTER; *handle = reinterpret_cast<void*>(1); return 0; }
API cublasLtDestroy(void*) { return 0; }
extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130100; }
extern "C" __attribute__((visibility("default"))) size_t cublasLtGetCudartVersion() { return 13000; }

API cublasLtMatmulDescCreate(Desc** desc, int compute, int scale) { ENTER; *desc = new Desc{compute, scale}; return 0; }
API cublasLtMatmulDescDestroy(Desc* desc) { delete desc; return 0; }
API cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t) {
    ENTER;
    int number = 0;
    switch (attribute) {
        case 3: memcpy(&desc->transa, value, 4); return 0;
        case 4: memcpy(&desc->transb, value, 4); return 0;
        case 5: memcpy(&number, value, 4); return number ? refuse("transposed result", number) : 0;
        case 7: memcpy(&desc->epilogue, value, 4); return 0;
        case 8: memcpy(&desc->bias, value, 8); return 0;
        case 26: memcpy(&desc->bias_type, value, 4); return 0;
        default: return refuse("attribute", attribute);
    }
}
API cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t lead) {
    ENTER;
    if (type != F32 && type != BF16) return refuse("numbers of type", type);
    if (uint64_t(lead) < rows) return INVALID;
    *layout = new Layout{type, rows, columns, lead};
    return 0;
}
API cublasLtMatrixLayoutDestroy(Layout* layout) { delete layout; return 0; }
API cublasLtMatrixLayoutSetAttribute(Layout*, int attribute, const void*, size_t) { ENTER; return refuse("layout's attribute", attribute); }
API cublasLtMatmulPreferenceCreate(void** preference) { ENTER; *preference = reinterpret_cast<void*>(1); return 0; }
API cublasLtMatmulPreferenceDestroy(void*) { return 0; }
API cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { ENTER; return 0; }
// Plans that want no memory of their own: algorithm 64 bytes, of which the first is the plan's number, workspace 8, state 4, waves 4, reserved 16.
API cublasLtMatmulAlgoGetHeuristic(void*, Desc*, Layout*, Layout*, Layout*, Layout*, void*, int most, void* results, int* found) {
    ENTER;
    constexpr int SIZE = 64 + 8 + 4 + 4 + 16;
    *found = has_two_plans() && most > 1 ? 2 : 1;
    memset(results, 0, size_t(*found) * SIZE);
    for (int i = 0; i < *found; ++i) static_cast<char*>(results)[i * SIZE] = char(i);
    return 0;
}
// 0 is the plan's number, 2 the number of parts that a sum is cut into.
API cublasLtMatmulAlgoConfigGetAttribute(const void* plan, int attribute, void* value, size_t size, size_t* written) {
    ENTER;
    int number = attribute == 2 ? 1 : attribute == 0 ? *static_cast<const char*>(plan) : 0;
    if (size < sizeof number) return INVALID;
    memcpy(value, &number, sizeof number);
    if (written) *written = sizeof number;
    return 0;
}
// Column-major, as the library's: d = alpha · op(a) · op(b) + beta · c, then the bias of each row of d.
API cublasLtMatmul(void*, const Desc* desc, const float* alpha_at, const void* a, const Layout* la_at, const void* b, const Layout* lb_at, const float* beta_at, const void* c,
                   const Layout* lc_at, void* out, const Layout* lo_at, const void* plan, void*, size_t, void* stream) {
    ENTER;
    auto sum = plan && *static_cast<const char*>(plan) ? dot_backwards : dot;
    Desc d = *desc;
    Layout la = *la_at, lb = *lb_at, lc = *lc_at, lo = *lo_at;
    float alpha = *alpha_at, beta = *beta_at;
    if (is_planned("bias")) d.epilogue = PLAIN;
    if (is_planned("residual")) beta = 0;
    // Only of a square weight, whose sizes fit either way.
    if (is_planned("turned") && la.rows == la.columns) d.transa = !d.transa;
    uint64_t m = lo.rows, n = lo.columns, k = d.transa ? la.rows : la.columns;
    if ((d.transa ? la.columns : la.rows) != m || (d.transb ? lb.rows : lb.columns) != n || (d.transb ? lb.columns : lb.rows) != k) return INVALID;
    if (la.type != lb.type) return refuse("operands of two types", lb.type);
    // As the real one wants it for bfloat16: rows of whole 16 bytes.
    for (const Layout& l : {la, lb, lo})
        if (l.type == BF16 && l.lead % 8) return refuse("a row of", long(l.lead));
    if (is_misaligned(a) || is_misaligned(b) || is_misaligned(out) || (beta != 0 && is_misaligned(c))) return refuse("a misaligned operand of type", la.type);
    if (d.epilogue != PLAIN && d.epilogue != BIAS) return refuse("epilogue", d.epilogue);
    return enqueue(stream, [=] {
        std::vector<float> left = lines(a, la, d.transa, m, k), right = lines(b, lb, !d.transb, n, k);
        int bias_type = d.bias_type >= 0 ? d.bias_type : lo.type;
        for (uint64_t j = 0; j < n; ++j)
            for (uint64_t i = 0; i < m; ++i) {
                double y = alpha * sum(&left[i * k], &right[j * k], k);
                if (beta != 0) y += double(beta) * get(c, lc.type, i + j * uint64_t(lc.lead));
                if (d.epilogue & BIAS) y += get(d.bias, bias_type, i);
                put(out, lo.type, i + j * uint64_t(lo.lead), float(y));
            }
    });
}
