// libcuda.so for machines without a GPU: the device, its context, modules and launches. Only what the program calls; a symbol that is missing here is an
// error at its first use, in cudarc's loader. Error codes are CUresult's.
//
// Settings, as environment variables or through `fs_emulated_set`:
// FS_EMULATED_LATE=1      a stream does nothing until somebody waits for it, then exactly as far as needed: a forgotten event shows as NaN
// FS_EMULATED_ORDER=N     the order of a block's threads: 0 in order, 1 in reverse, else shuffled
// FS_EMULATED_MEMORY=N    bytes of memory, 4 GiB unless given
// FS_EMULATED_FAIL=F:N:C  the N-th call of function F from now on returns C, with :K after it that and K - 1 more calls; final codes break the context for good
// FS_EMULATED_FAIL_FROM=P calls count from the time on at which the file P is there
// FS_EMULATED_PLANS=N     plans that the product library proposes: 1, or 2, of which the second adds in another order and seems the faster
// FS_EMULATED_FAULT=KIND  what a program would do wrong, done here in its place: grid:K (kernels whose name begins with K lose their last block), swap:K:I:J
//                         (two of their arguments change places), shared:K (a quarter of their shared memory is missing), skip:K (they are not launched),
//                         wait (a stream waits for no event), record (an event is there at once), free (memory is freed at once), clear and copy (nothing is set,
//                         or copied on the device), bias, residual and turned (products without a bias or a residual, or of the transposed weight)
#include "driver.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "../kernels.hpp"

namespace driver {

std::recursive_mutex order;
thread_local void* context = nullptr;

namespace {

auto& settings = immortal<std::map<std::string, std::string>>();
auto& most_shared = immortal<std::map<const fs::Kernel*, int>>();
int broken = 0;
// A planned failure: of which function, after how many more calls, with what.
struct Failure {
    std::string call;
    long left = 0;
    int code = 0;
    long times = 1;
};
auto& failure = immortal<Failure>();

void plan_failure(const char* text) {
    char call[64] = {};
    failure = {};
    if (text && sscanf(text, "%63[^:]:%ld:%d:%ld", call, &failure.left, &failure.code, &failure.times) >= 3) failure.call = call;
}

// A fault of launches: its kind and the begin of the kernels' names, with two arguments of `swap`.
struct Fault {
    std::string kind, kernel;
    int first = 0, second = 0;
};

Fault planned_fault() {
    Fault fault;
    const char* text = setting("FS_EMULATED_FAULT");
    char kind[32] = {}, kernel[64] = {};
    if (text && sscanf(text, "%31[^:]:%63[^:]:%d:%d", kind, kernel, &fault.first, &fault.second) >= 1) fault.kind = kind, fault.kernel = kernel;
    return fault;
}

}  // namespace

bool is_planned(const char* kind) { return planned_fault().kind == kind; }

bool has_two_plans() {
    const char* plans = setting("FS_EMULATED_PLANS");
    return plans && atoi(plans) == 2;
}

const char* setting(const char* name) {
    auto found = settings.find(name);
    return found == settings.end() ? getenv(name) : found->second.c_str();
}

// Errors of a driver after which a process has to be started again.
bool is_final(int code) {
    for (int own : {214, 220, 226, 721, 810, 911})
        if (code == own) return true;
    return code >= 700 && code <= 719 && code != 701;
}

// Whether calls count.
bool counts() {
    static bool does = false;
    const char* file = does ? nullptr : setting("FS_EMULATED_FAIL_FROM");
    return does = does || !file || access(file, F_OK) == 0;
}

int enter(const char* call) {
    static bool planned = (plan_failure(setting("FS_EMULATED_FAIL")), true);
    (void)planned;
    if (broken) return broken;
    if (failure.left == 0 || failure.call != call || !counts()) return 0;
    if (failure.left > 1) {
        --failure.left;
        return 0;
    }
    if (--failure.times == 0) failure.left = 0;
    if (is_final(failure.code)) broken = failure.code;
    return failure.code;
}

}  // namespace driver

using namespace driver;

// Changes a setting of the running program; an empty value takes it back. A context that is broken is whole again.
API fs_emulated_set(const char* name, const char* value) {
    std::lock_guard<std::recursive_mutex> guard(order);
    if (*value) settings[name] = value;
    else settings.erase(name);
    if (!strcmp(name, "FS_EMULATED_FAIL")) plan_failure(*value ? value : nullptr);
    broken = 0;
    return 0;
}

API cuInit(unsigned) { ENTER; return 0; }
API cuDriverGetVersion(int* version) { *version = 13000; return 0; }
API cuDeviceGet(int* device, int ordinal) { ENTER; *device = 0; return ordinal == 0 ? 0 : 101; }
API cuDeviceGetCount(int* count) { ENTER; *count = 1; return 0; }
API cuDeviceGetName(char* name, int size, int) { ENTER; snprintf(name, size_t(size), "emulated"); return 0; }
API cuDeviceGetUuid_v2(char* uuid, int) { ENTER; memset(uuid, 1, 16); return 0; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    ENTER;
    // 115 memory pools, 75 and 76 compute capability, 16 multiprocessors. It calls itself 8.0, so that plans for Hopper are no candidates.
    // 97 is the shared memory that a block may have; 91 and 99: memory of the host has the same addresses.
    if (attribute == 91 || attribute == 99) return *value = 1, 0;
    *value = attribute == 115 ? 1 : attribute == 75 ? 8 : attribute == 76 ? 0 : attribute == 16 ? 2 : attribute == 97 ? 163 * 1024 : 0;
    return 0;
}
API cuDevicePrimaryCtxRetain(void** context, int) { ENTER; *context = reinterpret_cast<void*>(1); return 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
// A context is a thread's.
API cuCtxSetCurrent(void* own) { ENTER; context = own; return 0; }
API cuCtxGetCurrent(void** own) { ENTER; *own = context; return 0; }
API cuCtxSynchronize() { ENTER; drain_all(); return 0; }
API cuGetErrorName(int code, const char** text) {
    *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
API cuGetErrorString(int, const char** text) { *text = "the emulated device was told to fail, or refuses the call"; return 0; }

// The image is not read: kernels go by name.
API cuModuleLoadData(void** module, const void*) { ENTER; *module = reinterpret_cast<void*>(1); return 0; }
API cuModuleUnload(void*) { return 0; }
API cuModuleGetFunction(void** function, void*, const char* name) {
    ENTER;
    *function = const_cast<fs::Kernel*>(fs::find(name));
    return *function ? 0 : 500;
}
// 8 is the attribute for more than 48 KiB of dynamic shared memory.
API cuFuncSetAttribute(void* function, int attribute, int value) {
    ENTER_CONTEXT;
    if (attribute != 8) return 0;
    if (value > 163 * 1024) return 1;
    most_shared[static_cast<fs::Kernel*>(function)] = value;
    return 0;
}
// 0 is the attribute for the most threads of a block.
API cuFuncGetAttribute(int* value, int attribute, void* function) {
    ENTER;
    *value = attribute == 0 ? int(fs::most_threads(static_cast<fs::Kernel*>(function))) : 0;
    return 0;
}
API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** arguments, void**) {
    ENTER_CONTEXT;
    auto* kernel = static_cast<fs::Kernel*>(function);
    // What the chip would refuse.
    auto granted = most_shared.find(kernel);
    unsigned room = granted == most_shared.end() ? 48 * 1024 : unsigned(granted->second);
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || by != 1 || bz != 1 || bx > 1024 || shared > room) return 1;
    if (bx > fs::most_threads(kernel)) return 701;
    Fault fault = planned_fault();
    if (!fault.kernel.empty() && fs::name_of(kernel).rfind(fault.kernel, 0) == 0) {
        if (fault.kind == "skip" || (fault.kind == "grid" && gx == 1)) return 0;
        if (fault.kind == "grid") gx -= 1;
        if (fault.kind == "shared") shared -= shared / 4;
    } else {
        fault = {};
    }
    const char* own = setting("FS_EMULATED_ORDER");
    auto swap = [&] {
        if (fault.kind == "swap") std::swap(arguments[fault.first], arguments[fault.second]);
    };
    swap();
    auto work = fs::keep(kernel, {{gx, gy, gz}, bx, shared, own ? unsigned(atoi(own)) : 0}, arguments);
    swap();
    return enqueue(stream, work);
}
