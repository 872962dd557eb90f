// Every kernel in one translation unit, for one module. Each file has a namespace of its own, so that its helpers' names are its own; kernels have C's names.
#include "activations.cuh"
#include "device.cuh"
#include "numbers.cuh"
#include "parts.cuh"
#include "runs.cuh"
#include "tile128.cuh"
#include "tile64.cuh"

namespace norm_kernels {
#include "norm.cu"
}
namespace norm_backward_kernels {
#include "norm_backward.cu"
}
namespace activation_kernels {
#include "activation.cu"
}
namespace attention_kernels {
#include "attention.cu"
}
namespace attention_backward_kernels {
#include "attention_backward.cu"
}
namespace attention_plain_kernels {
#include "attention_plain.cu"
}
namespace depthwise_kernels {
#include "depthwise.cu"
}
namespace grouped_kernels {
#include "grouped.cu"
}
namespace weight_gradient_kernels {
#include "weight_gradient.cu"
}
namespace exact_kernels {
#include "exact.cu"
}
namespace plain_kernels {
#include "plain.cu"
}
namespace sums_kernels {
#include "sums.cu"
}
namespace rows_kernels {
#include "rows.cu"
}
namespace cells_kernels {
#include "cells.cu"
}
namespace elementwise_kernels {
#include "elementwise.cu"
}
