// The emulated driver itself: what it refuses, what fails on request, and what late streams show. Run in order, with shuffled threads, and late.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

using Pointer = unsigned long long;
extern "C" {
int fs_emulated_set(const char*, const char*);
int cuMemAllocAsync(Pointer*, size_t, void*);
int cuMemFreeAsync(Pointer, void*);
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemPoolGetAttribute(void*, int, void*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuMemcpyHtoDAsync_v2(Pointer, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, Pointer, size_t, void*);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuInit(unsigned);
int cuCtxSetCurrent(void*);
}

static int failures = 0;
static void expect(bool ok, const char* what) {
    printf("%s: %s\n", ok ? "ok" : "FAILED", what);
    failures += !ok;
}

static void* function(const char* name) {
    void *module, *found = nullptr;
    cuModuleLoadData(&module, "");
    cuModuleGetFunction(&found, module, name);
    return found;
}

// y = a + b on a stream; the call's answer.
static int add(Pointer a, Pointer b, Pointer y, long long count, void* stream, unsigned threads = 256, unsigned shared = 0) {
    void* arguments[] = {&a, &b, &y, &count};
    return cuLaunchKernel(function("add_f32"), unsigned((count + threads - 1) / threads), 1, 1, threads, 1, 1, shared, stream, arguments, nullptr);
}

static Pointer memory(size_t bytes, void* stream) {
    Pointer at = 0;
    if (cuMemAllocAsync(&at, bytes, stream)) exit(2);
    return at;
}

// Numbers come on one stream and are added on another, which waits for them or forgets to. Whether the sum is right.
static bool added(bool waits) {
    const size_t count = 1000;
    void *copies, *compute, *arrived, *block;
    cuStreamCreate(&copies, 1);
    cuStreamCreate(&compute, 1);
    cuEventCreate(&arrived, 0);
    cuMemHostAlloc(&block, count * 4, 0);
    auto* numbers = static_cast<float*>(block);
    for (size_t i = 0; i < count; ++i) numbers[i] = float(i);
    Pointer x = memory(count * 4, copies), y = memory(count * 4, compute);
    cuMemcpyHtoDAsync_v2(x, block, count * 4, copies);
    cuEventRecord(arrived, copies);
    if (waits) cuStreamWaitEvent(compute, arrived, 0);
    add(x, x, y, count, compute);
    std::vector<float> got(count);
    cuMemcpyDtoHAsync_v2(got.data(), y, count * 4, compute);
    bool right = true;
    for (size_t i = 0; i < count; ++i) right = right && got[i] == 2 * float(i);
    cuStreamSynchronize(copies);
    cuMemFreeAsync(x, copies);
    cuMemFreeAsync(y, compute);
    cuStreamSynchronize(copies);
    cuStreamSynchronize(compute);
    cuMemFreeHost(block);
    return right;
}

static void refusals() {
    Pointer x = memory(4096, nullptr);
    expect(function("no_such_kernel") == nullptr, "a kernel that is not there is not found");
    expect(add(x, x, x, 0, nullptr) == 1, "an empty grid is refused");
    expect(add(x, x, x, 8, nullptr, 512) == 701, "a block of more threads than the kernel's bound is refused");
    expect(add(x, x, x, 8, nullptr, 256, 50 * 1024) == 1, "more than 48 KiB of shared memory are refused without the attribute");
    expect(cuFuncSetAttribute(function("add_f32"), 8, 60 * 1024) == 0, "the attribute is taken");
    expect(add(x, x, x, 8, nullptr, 256, 50 * 1024) == 0, "more than 48 KiB are granted with it");
    expect(cuFuncSetAttribute(function("add_f32"), 8, 300 * 1024) == 1, "more than the chip has is refused");
    cuMemFreeAsync(x, nullptr);
    cuStreamSynchronize(nullptr);
}

static void limits() {
    size_t free = 0, total = 0;
    uint64_t used = 0, reserved = 0;
    fs_emulated_set("FS_EMULATED_MEMORY", "10000");
    Pointer x = memory(6000, nullptr), y = 0;
    expect(cuMemAllocAsync(&y, 6000, nullptr) == 2, "memory beyond the limit is refused");
    cuMemGetInfo_v2(&free, &total);
    expect(free == 4000 && total == 10000, "the rest is told");
    cuMemFreeAsync(x, nullptr);
    cuStreamSynchronize(nullptr);
    cuMemPoolGetAttribute(nullptr, 7, &used);
    cuMemPoolGetAttribute(nullptr, 5, &reserved);
    expect(used == 0 && reserved >= 6000, "the pool keeps what is freed");
    fs_emulated_set("FS_EMULATED_MEMORY", "");
}

static void planned() {
    Pointer x = memory(64, nullptr), y = 0;
    fs_emulated_set("FS_EMULATED_FAIL", "cuMemAllocAsync:2:2");
    expect(cuMemAllocAsync(&y, 64, nullptr) == 0, "the call before the planned one succeeds");
    cuMemFreeAsync(y, nullptr);
    expect(cuMemAllocAsync(&y, 64, nullptr) == 2, "the planned call fails");
    expect(cuMemAllocAsync(&y, 64, nullptr) == 0, "the call after it succeeds");
    cuMemFreeAsync(y, nullptr);
    fs_emulated_set("FS_EMULATED_FAIL", "cuLaunchKernel:1:719");
    expect(add(x, x, x, 8, nullptr) == 719, "the planned launch fails");
    expect(add(x, x, x, 8, nullptr) == 719 && cuStreamSynchronize(nullptr) == 719, "the context is broken from then on");
    fs_emulated_set("FS_EMULATED_FAIL", "");
    expect(add(x, x, x, 8, nullptr) == 0, "and whole again when the plan is taken back");
    cuMemFreeAsync(x, nullptr);
    cuStreamSynchronize(nullptr);
}

int main() {
    bool late = getenv("FS_EMULATED_LATE") != nullptr;
    expect(cuInit(0) == 0, "the driver starts");
    Pointer at = 0;
    expect(cuMemAllocAsync(&at, 16, nullptr) == 201, "a thread without a context is refused");
    expect(cuCtxSetCurrent(reinterpret_cast<void*>(1)) == 0, "a thread chooses a context");
    expect(added(true), "a stream that waits for an event has the numbers");
    expect(added(false) != late, late ? "a forgotten event is seen when streams are late" : "streams are in time");
    refusals();
    limits();
    planned();
    return failures != 0;
}
