// What the emulated driver and the checks use of the kernels, be they compiled from source, interpreted from PTX, or on a GPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fs {

struct Kernel;

// Added to an order: asynchronous copies happen as soon as they are begun, where otherwise they happen at their wait; and a warp goes on until it stands at a
// barrier, before another one has its turn, where otherwise all go on side by side. What is overwritten too early shows with both.
constexpr unsigned EARLY = 1 << 16, GREEDY = 1 << 17;

// Grid, threads of a block, bytes of dynamic shared memory; order of the threads: 0 in order, 1 in reverse (blocks too), else shuffled by it.
struct Launch {
    unsigned grid[3];
    unsigned threads;
    size_t shared = 0;
    unsigned order = 0;
};

struct Counters {
    uint64_t matrix_loads = 0, conflicts = 0, products = 0;
};

const Kernel* find(const char* name);
// The most threads of a block that the kernel was compiled for.
unsigned most_threads(const Kernel* kernel);
std::vector<std::string> names();
std::string name_of(const Kernel* kernel);
void launch(const Kernel* kernel, const Launch& launch, void** arguments);
// The same launch for later: the arguments are copied now.
std::function<void()> keep(const Kernel* kernel, const Launch& launch, void** arguments);
Counters count();
// Pages of the host that kernels read and write, from when they are taken until they are given back.
void show(void* begin, size_t bytes);
void hide(void* begin);

}  // namespace fs
