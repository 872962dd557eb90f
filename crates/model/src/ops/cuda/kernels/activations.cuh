// QuickGELU and GELU with the error function, and their derivatives: what kernels of their own and the ends of products apply to a number.
#pragma once
#include "device.cuh"

namespace {

constexpr float QUICK = 1.702f, ROOT_HALF = 0.70710678f, DENSITY = 0.3989423f;

// x · σ(1.702 x)
struct Quick {
    static __device__ __forceinline__ float value(float x) { return x / (1.0f + expf(-QUICK * x)); }
    static __device__ __forceinline__ float slope(float x) {
        float s = 1.0f / (1.0f + expf(-QUICK * x));
        return s + QUICK * x * s * (1.0f - s);
    }
};
// x · Φ(x)
struct Exact {
    static __device__ __forceinline__ float value(float x) { return 0.5f * x * (1.0f + erff(x * ROOT_HALF)); }
    static __device__ __forceinline__ float slope(float x) {
        return 0.5f * (1.0f + erff(x * ROOT_HALF)) + x * DENSITY * expf(-0.5f * x * x);
    }
};

}  // namespace
