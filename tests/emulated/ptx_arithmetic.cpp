// The arithmetic instructions of PTX that the kernels use.
#include "device.cuh"
#include "ptx.hpp"

namespace ptx {

namespace {

using u = uint64_t;

float f32(u bits) { return fs::from_bits(uint32_t(bits)); }
u bits(float x) { return fs::to_bits(x); }
double f64(u own) {
    double x;
    memcpy(&x, &own, 8);
    return x;
}
u bits(double x) {
    u own;
    memcpy(&own, &x, 8);
    return own;
}
// The largest float that is not above x.
float down(double x) {
    float y = float(x);
    return double(y) > x ? std::nextafter(y, -INFINITY) : y;
}

// Comparisons of operands as T; `how` is what stands between setp and the type.
template <class T, T (*as)(u)>
Function comparison(const std::string& how) {
    if (how == "lt") return [](u a, u b, u, u) -> u { return as(a) < as(b); };
    if (how == "le") return [](u a, u b, u, u) -> u { return as(a) <= as(b); };
    if (how == "gt") return [](u a, u b, u, u) -> u { return as(a) > as(b); };
    if (how == "ge") return [](u a, u b, u, u) -> u { return as(a) >= as(b); };
    if (how == "eq") return [](u a, u b, u, u) -> u { return as(a) == as(b); };
    if (how == "ne") return [](u a, u b, u, u) -> u { return as(a) < as(b) || as(a) > as(b); };
    // True also when one of them is a NaN.
    if (how == "ltu") return [](u a, u b, u, u) -> u { return !(as(a) >= as(b)); };
    if (how == "leu") return [](u a, u b, u, u) -> u { return !(as(a) > as(b)); };
    if (how == "gtu") return [](u a, u b, u, u) -> u { return !(as(a) <= as(b)); };
    if (how == "geu") return [](u a, u b, u, u) -> u { return !(as(a) < as(b)); };
    if (how == "neu") return [](u a, u b, u, u) -> u { return !(as(a) == as(b)); };
    return nullptr;
}
template <class T>
T whole(u x) {
    return T(x);
}

Function compare(const std::string& name) {
    size_t dot = name.find('.', 5);
    if (name.rfind("setp.", 0) != 0 || dot == std::string::npos) return nullptr;
    std::string how = name.substr(5, dot - 5), type = name.substr(dot + 1);
    if (type == "f32") return comparison<float, f32>(how);
    if (type == "s32") return comparison<int32_t, whole<int32_t>>(how);
    if (type == "u32" || type == "b32") return comparison<uint32_t, whole<uint32_t>>(how);
    if (type == "s64") return comparison<int64_t, whole<int64_t>>(how);
    if (type == "u64" || type == "b64") return comparison<u, whole<u>>(how);
    if (type == "s16") return comparison<int16_t, whole<int16_t>>(how);
    if (type == "u16" || type == "b16") return comparison<uint16_t, whole<uint16_t>>(how);
    return nullptr;
}

#define F32(name, value) {name, [](u x, u y, u z, u) -> u { float a = f32(x), b = f32(y), c = f32(z); (void)a, (void)b, (void)c; return bits(float(value)); }}
#define F64(name, value) {name, [](u x, u y, u z, u) -> u { double a = f64(x), b = f64(y), c = f64(z); (void)a, (void)b, (void)c; return bits(double(value)); }}
// Results are as wide as `value`'s type, without sign extension.
#define INT(name, T, value) {name, [](u x, u y, u z, u) -> u { T a = T(x), b = T(y), c = T(z); (void)a, (void)b, (void)c; return u(std::make_unsigned_t<std::decay_t<decltype(value)>>(value)); }}

const std::map<std::string, Function> table = {
    F32("fma.rn.f32", std::fma(a, b, c)), F32("fma.rm.f32", down(double(a) * b + c)), F32("add.f32", a + b), F32("add.rn.f32", a + b), F32("sub.f32", a - b),
    F32("mul.f32", a * b), F32("mul.rn.f32", a * b), F32("max.f32", std::fmax(a, b)), F32("min.f32", std::fmin(a, b)), F32("neg.f32", -a), F32("abs.f32", std::fabs(a)),
    F32("div.rn.f32", a / b), F32("rcp.rn.f32", 1.0f / a), F32("sqrt.rn.f32", std::sqrt(a)), F32("rsqrt.approx.f32", 1.0f / std::sqrt(a)),
    F32("ex2.approx.ftz.f32", exp2_fast(a)), F32("ex2.approx.f32", std::exp2(a)), F32("lg2.approx.f32", std::log2(a)), F32("copysign.f32", std::copysign(b, a)),
    F32("cvt.sat.f32.f32", a > 0 ? std::fmin(a, 1.0f) : 0.0f),
    F64("add.f64", a + b), F64("add.rn.f64", a + b), F64("sub.f64", a - b), F64("mul.f64", a * b), F64("fma.rn.f64", std::fma(a, b, c)),
    INT("add.s32", uint32_t, a + b), INT("sub.s32", uint32_t, a - b), INT("mul.lo.s32", uint32_t, a * b), INT("mad.lo.s32", uint32_t, a * b + c), INT("neg.s32", uint32_t, 0u - a),
    INT("add.s64", u, a + b), INT("sub.s64", u, a - b), INT("mul.lo.s64", u, a * b), INT("mad.lo.s64", u, a * b + c), INT("neg.s64", u, 0u - a),
    INT("sub.s16", uint16_t, uint16_t(a - b)), INT("add.s16", uint16_t, uint16_t(a + b)), INT("mul.lo.s16", uint16_t, uint16_t(a * b)),
    INT("mul.wide.s32", int32_t, int64_t(a) * int64_t(b)), INT("mul.wide.u32", uint32_t, u(a) * u(b)), INT("mul.wide.u16", uint16_t, uint32_t(a) * uint32_t(b)),
    INT("div.s32", int32_t, b ? a / b : -1), INT("rem.s32", int32_t, b ? a % b : a), INT("div.u32", uint32_t, b ? a / b : ~0u), INT("rem.u32", uint32_t, b ? a % b : a),
    INT("div.s64", int64_t, b ? a / b : -1), INT("rem.s64", int64_t, b ? a % b : a), INT("div.u64", u, b ? a / b : ~u(0)), INT("rem.u64", u, b ? a % b : a),
    INT("min.s32", int32_t, std::min(a, b)), INT("max.s32", int32_t, std::max(a, b)), INT("min.u32", uint32_t, std::min(a, b)), INT("max.u32", uint32_t, std::max(a, b)),
    INT("min.s64", int64_t, std::min(a, b)), INT("max.s64", int64_t, std::max(a, b)),
    INT("and.b16", uint16_t, uint16_t(a & b)), INT("or.b16", uint16_t, uint16_t(a | b)), INT("shr.u16", uint16_t, uint16_t(b > 15 ? 0 : a >> b)),
    INT("and.b32", uint32_t, a & b), INT("or.b32", uint32_t, a | b), INT("xor.b32", uint32_t, a ^ b), INT("not.b32", uint32_t, ~a),
    INT("and.b64", u, a & b), INT("or.b64", u, a | b), INT("xor.b64", u, a ^ b), INT("not.b64", u, ~a),
    INT("shl.b32", uint32_t, b > 31 ? 0u : a << b), INT("shr.u32", uint32_t, b > 31 ? 0u : a >> b), {"shr.s32", [](u a, u b, u, u) -> u { return uint32_t(int32_t(a) >> std::min<uint32_t>(uint32_t(b), 31)); }},
    {"shl.b64", [](u a, u b, u, u) -> u { return uint32_t(b) > 63 ? 0 : a << uint32_t(b); }}, {"shr.u64", [](u a, u b, u, u) -> u { return uint32_t(b) > 63 ? 0 : a >> uint32_t(b); }},
    {"shr.s64", [](u a, u b, u, u) -> u { return u(int64_t(a) >> std::min<uint32_t>(uint32_t(b), 63)); }},
    {"bfi.b32", [](u a, u b, u c, u d) -> u { u mask = ((u(1) << d) - 1) << c; return uint32_t((b & ~mask) | (a << c & mask)); }},
    {"and.pred", [](u a, u b, u, u) -> u { return a && b; }}, {"or.pred", [](u a, u b, u, u) -> u { return a || b; }},
    {"xor.pred", [](u a, u b, u, u) -> u { return !a != !b; }}, {"not.pred", [](u a, u, u, u) -> u { return !a; }}, {"mov.pred", [](u a, u, u, u) -> u { return a; }},
    // The first operand is the high half.
    {"cvt.rn.bf16x2.f32", [](u a, u b, u, u) -> u { return narrow2(f32(b), f32(a)); }},
    {"cvt.rn.f32.s32", [](u a, u, u, u) -> u { return bits(float(int32_t(a))); }}, {"cvt.f64.f32", [](u a, u, u, u) -> u { return bits(double(f32(a))); }},
    {"cvt.s64.s32", [](u a, u, u, u) -> u { return u(int64_t(int32_t(a))); }}, {"cvt.u64.u32", [](u a, u, u, u) -> u { return uint32_t(a); }},
    {"cvt.u32.u64", [](u a, u, u, u) -> u { return uint32_t(a); }}, {"cvt.u16.u32", [](u a, u, u, u) -> u { return uint16_t(a); }},
    {"cvt.u32.u16", [](u a, u, u, u) -> u { return uint16_t(a); }}, {"cvta.to.global.u64", [](u a, u, u, u) -> u { return a; }},
    {"mov.b32", [](u a, u, u, u) -> u { return uint32_t(a); }}, {"mov.u32", [](u a, u, u, u) -> u { return uint32_t(a); }}, {"mov.s32", [](u a, u, u, u) -> u { return uint32_t(a); }},
    {"mov.f32", [](u a, u, u, u) -> u { return uint32_t(a); }}, {"mov.u16", [](u a, u, u, u) -> u { return uint16_t(a); }}, {"mov.u64", [](u a, u, u, u) -> u { return a; }},
    {"mov.b64", [](u a, u, u, u) -> u { return a; }}, {"mov.f64", [](u a, u, u, u) -> u { return a; }},
    {"selp.f32", [](u a, u b, u c, u) -> u { return uint32_t(c ? a : b); }}, {"selp.b32", [](u a, u b, u c, u) -> u { return uint32_t(c ? a : b); }},
    {"selp.u32", [](u a, u b, u c, u) -> u { return uint32_t(c ? a : b); }}, {"selp.b64", [](u a, u b, u c, u) -> u { return c ? a : b; }},
};

}  // namespace

Function arithmetic(const std::string& name) {
    auto found = table.find(name);
    return found == table.end() ? compare(name) : found->second;
}

}  // namespace ptx
