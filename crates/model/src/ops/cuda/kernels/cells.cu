// The class token and the means of a grid of cells of each frame, and their gradients. Cells of neighbours overlap where their number does not divide the grid.
// A mean is summed in the order of its patches, and a gradient in the order of the cells, as on the host.
#include "numbers.cuh"

namespace {

// The patches of cell `cell` of `side` along one side of a grid.
__device__ __forceinline__ int cell_begin(int cell, int grid, int side) { return cell * grid / side; }
__device__ __forceinline__ int cell_end(int cell, int grid, int side) { return ((cell + 1) * grid + side - 1) / side; }

}  // namespace

// A thread one number of the result [n, 1 + side², c].
FS_KERNEL(256, cell_means, const float* x, float* y, int n, int grid, int side, int c) {
    int unit = blockIdx.x * blockDim.x + threadIdx.x, rows = 1 + side * side;
    if (unit >= n * rows * c) return;
    int channel = unit % c, row = unit / c % rows, frame = unit / c / rows;
    const float* tokens = x + size_t(frame) * (1 + grid * grid) * c + channel;
    if (row == 0) {
        y[unit] = tokens[0];
        return;
    }
    int top = cell_begin((row - 1) / side, grid, side), bottom = cell_end((row - 1) / side, grid, side);
    int left = cell_begin((row - 1) % side, grid, side), right = cell_end((row - 1) % side, grid, side);
    float sum = 0.0f;
    for (int i = top; i < bottom; ++i)
        for (int j = left; j < right; ++j) sum += tokens[size_t(1 + i * grid + j) * c];
    y[unit] = sum / float((bottom - top) * (right - left));
}

// A thread one number of the result [n, 1 + grid², c].
FS_KERNEL(256, cell_spread, const float* dy, float* dx, int n, int grid, int side, int c) {
    int unit = blockIdx.x * blockDim.x + threadIdx.x, tokens = 1 + grid * grid;
    if (unit >= n * tokens * c) return;
    int channel = unit % c, token = unit / c % tokens, frame = unit / c / tokens;
    const float* rows = dy + size_t(frame) * (1 + side * side) * c + channel;
    if (token == 0) {
        dx[unit] = rows[0];
        return;
    }
    int row = (token - 1) / grid, column = (token - 1) % grid;
    float sum = 0.0f;
    for (int i = 0; i < side; ++i) {
        int top = cell_begin(i, grid, side), bottom = cell_end(i, grid, side);
        if (row < top || row >= bottom) continue;
        for (int j = 0; j < side; ++j) {
            int left = cell_begin(j, grid, side), right = cell_end(j, grid, side);
            if (column < left || column >= right) continue;
            sum += rows[size_t(1 + i * side + j) * c] / float((bottom - top) * (right - left));
        }
    }
    dx[unit] = sum;
}
