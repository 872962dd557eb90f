// Products with an activation, or its slope, in their epilogue, on Hopper's matrix instructions through CUTLASS: bfloat16 operands, sums in floats.
//   FS_WAY 0: y[rows, columns] = act(x[rows, inner] · W[columns, inner]ᵀ + bias)
//   FS_WAY 1: dx[rows, columns] = (dy[rows, inner] · W[inner, columns]) · act'(before[rows, columns])
// Compiled once for each way, with NDEBUG: a call inside an assertion makes ptxas serialise the matrix instructions (C7510).
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include "../kernels/activations.cuh"

namespace products {

using namespace cute;
using Half = cutlass::bfloat16_t;

// act(x), of one number and of several.
template <class Act>
struct Forward {
    template <class T>
    struct Of {
        CUTLASS_DEVICE T operator()(T const& x) const { return T(Act::value(float(x))); }
    };
    template <class T, int N>
    struct Of<cutlass::Array<T, N>> {
        CUTLASS_DEVICE cutlass::Array<T, N> operator()(cutlass::Array<T, N> const& x) const {
            cutlass::Array<T, N> y;
            CUTLASS_PRAGMA_UNROLL
            for (int i = 0; i < N; ++i) y[i] = T(Act::value(float(x[i])));
            return y;
        }
    };
};

// dy · act'(x)
template <class Act>
struct Backward {
    template <class T>
    struct Of {
        CUTLASS_DEVICE T operator()(T const& dy, T const& x) const { return dy * T(Act::slope(float(x))); }
    };
    template <class T, int N>
    struct Of<cutlass::Array<T, N>> {
        CUTLASS_DEVICE cutlass::Array<T, N> operator()(cutlass::Array<T, N> const& dy, cutlass::Array<T, N> const& x) const {
            cutlass::Array<T, N> dx;
            CUTLASS_PRAGMA_UNROLL
            for (int i = 0; i < N; ++i) dx[i] = dy[i] * T(Act::slope(float(x[i])));
            return dx;
        }
    };
};

// A tile of 128 × 256 numbers, the two halves of its rows by two groups of warps. No source is read beside what the epilogue names.
template <class Fusion, class LayoutW>
struct Product {
    using Tile = Shape<_128, _256, _64>;
    using One = Shape<_1, _1, _1>;
    using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, One, cutlass::epilogue::collective::EpilogueTileAuto, float, float, void,
        cutlass::layout::RowMajor, 8, Half, cutlass::layout::RowMajor, 8, cutlass::epilogue::TmaWarpSpecializedCooperative, Fusion>::CollectiveOp;
    using Main = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Half, cutlass::layout::RowMajor, 8, Half, LayoutW, 8, float, Tile, One,
        cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
        cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
    using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Main, Epilogue>;
    using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

// What a call is about, as `Call` in `cutlass.rs`.
struct Call {
    const void *input, *weight, *beside;
    void *output, *stream;
    int rows, columns, inner, device, processors;
};

template <class P, class Fill>
static int run(const Call& call, Fill fill) {
    using Kernel = typename P::Kernel;
    auto pack = [](auto stride, int high, int wide) { return cutlass::make_cute_packed_stride(stride, {high, wide, 1}); };
    typename P::Device::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {call.rows, call.columns, call.inner, 1},
        {static_cast<const Half*>(call.input), pack(typename Kernel::StrideA{}, call.rows, call.inner), static_cast<const Half*>(call.weight),
         pack(typename Kernel::StrideB{}, call.columns, call.inner)},
        {{}, nullptr, pack(typename Kernel::StrideC{}, call.rows, call.columns), static_cast<Half*>(call.output),
         pack(typename Kernel::StrideD{}, call.rows, call.columns)}};
    arguments.epilogue.thread.alpha = 1.0f;
    arguments.epilogue.thread.beta = 0.0f;
    arguments.hw_info.device_id = call.device;
    arguments.hw_info.sm_count = call.processors;
    fill(arguments.epilogue.thread);
    typename P::Device product;
    if (auto status = product.can_implement(arguments); status != cutlass::Status::kSuccess) return int(status);
    auto stream = static_cast<cudaStream_t>(call.stream);
    if (auto status = product.initialize(arguments, nullptr, stream); status != cutlass::Status::kSuccess) return int(status);
    return int(product.run(stream));
}

#if FS_WAY == 0
template <class Act>
static int forward(const Call& call) {
    using Fusion = cutlass::epilogue::fusion::LinCombPerColBiasEltAct<Forward<Act>::template Of, Half, float, float, Half, float>;
    return run<Product<Fusion, cutlass::layout::ColumnMajor>>(
        call, [&](auto& thread) { thread.bias_ptr = static_cast<const float*>(call.beside); });
}
// 0, or the number of CUTLASS's status.
extern "C" int frameshift_product_active(const Call* call) { return forward<Exact>(*call); }
extern "C" int frameshift_product_active_quick(const Call* call) { return forward<Quick>(*call); }
#else
template <class Act>
static int backward(const Call& call) {
    using Fusion = cutlass::epilogue::fusion::LinCombDeEltAct<cutlass::layout::RowMajor, Backward<Act>::template Of, Half, float, Half, Half, float, 8>;
    return run<Product<Fusion, cutlass::layout::RowMajor>>(call, [&](auto& thread) {
        thread.aux_ptr = static_cast<const Half*>(call.beside);
        thread.dAux = cutlass::make_cute_packed_stride(decltype(thread.dAux){}, {call.rows, call.columns, 1});
    });
}
extern "C" int frameshift_product_slope(const Call* call) { return backward<Exact>(*call); }
extern "C" int frameshift_product_slope_quick(const Call* call) { return backward<Quick>(*call); }
#endif

}  // namespace products
