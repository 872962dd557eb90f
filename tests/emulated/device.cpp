// The kernels on a GPU, for the same checks: images that nvcc made, launched through the driver's library, which is loaded at run time. Buffers are pages of
// the host that the device is given access to at the same address, so that a read or write beyond their end is an error there as well.
//
// FS_IMAGES names the images (fat binaries), separated by colons, FS_KERNELS a file with a line "name: …" for each kernel.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace fs {

struct Kernel {
    std::string name;
    void* function;
    unsigned threads;
};

namespace {

[[noreturn]] void stop(const std::string& what) {
    fprintf(stderr, "device: %s\n", what.c_str());
    exit(1);
}

// The driver's functions that are called, by CUDA's names.
struct Driver {
    void* library = nullptr;

    Driver() {
        for (const char* name : {"libcuda.so.1", "libcuda.so"})
            if (!library) library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
        if (!library) stop("there is no libcuda.so.1: no driver of NVIDIA's is installed");
        call<int(unsigned)>("cuInit", 0u);
        int device = 0, major = 0, minor = 0;
        void* context = nullptr;
        char model[128] = {};
        call<int(int*, int)>("cuDeviceGet", &device, 0);
        call<int(char*, int, int)>("cuDeviceGetName", model, int(sizeof model), device);
        call<int(int*, int, int)>("cuDeviceGetAttribute", &major, 75, device);
        call<int(int*, int, int)>("cuDeviceGetAttribute", &minor, 76, device);
        call<int(void**, int)>("cuDevicePrimaryCtxRetain", &context, device);
        call<int(void*)>("cuCtxSetCurrent", context);
        // The checks give kernels the host's addresses.
        for (int attribute : {91, 99}) {
            int is_there = 0;
            call<int(int*, int, int)>("cuDeviceGetAttribute", &is_there, attribute, device);
            if (!is_there) stop("this device cannot use the addresses of the host's memory, which the checks need");
        }
        printf("%s, compute capability %d.%d\n", model, major, minor);
    }

    template <class F, class... A>
    void call(const char* name, A... arguments) {
        if (int code = ask<F>(name, arguments...)) {
            const char* text = nullptr;
            ask<int(int, const char**)>("cuGetErrorName", code, &text);
            stop(std::string(name) + " returns " + std::to_string(code) + (text ? std::string(", ") + text : ""));
        }
    }
    template <class F, class... A>
    int ask(const char* name, A... arguments) {
        auto* function = reinterpret_cast<F*>(dlsym(library, name));
        if (!function) stop(std::string("the driver has no ") + name);
        return function(arguments...);
    }
};

Driver& driver() {
    static Driver own;
    return own;
}

const char* setting(const char* name) {
    const char* value = getenv(name);
    if (!value) stop(std::string(name) + " is not set");
    return value;
}

// The images, loaded once. Their bytes stay: a driver may read them later.
const std::vector<void*>& modules() {
    static std::vector<std::string> bytes;
    static const std::vector<void*> all = [] {
        std::vector<void*> loaded;
        std::istringstream paths(setting("FS_IMAGES"));
        for (std::string path; std::getline(paths, path, ':');) {
            std::ifstream file(path, std::ios::binary);
            if (!file) stop("cannot read " + path);
            bytes.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        }
        for (const std::string& image : bytes) {
            void* module = nullptr;
            driver().call<int(void**, const void*)>("cuModuleLoadData", &module, image.data());
            loaded.push_back(module);
        }
        return loaded;
    }();
    return all;
}

}  // namespace

const Kernel* find(const char* name) {
    static std::map<std::string, Kernel> known;
    auto found = known.find(name);
    if (found != known.end()) return &found->second;
    for (void* module : modules()) {
        void* function = nullptr;
        if (driver().ask<int(void**, void*, const char*)>("cuModuleGetFunction", &function, module, name)) continue;
        int threads = 0;
        // 0 is the attribute for the most threads of a block.
        driver().call<int(int*, int, void*)>("cuFuncGetAttribute", &threads, 0, function);
        return &(known[name] = {name, function, unsigned(threads)});
    }
    return nullptr;
}

unsigned most_threads(const Kernel* kernel) { return kernel->threads; }

std::vector<std::string> names() {
    std::ifstream file(setting("FS_KERNELS"));
    if (!file) stop(std::string("cannot read ") + setting("FS_KERNELS"));
    std::vector<std::string> all;
    for (std::string line; std::getline(file, line);) all.push_back(line.substr(0, line.find(':')));
    return all;
}

// The order is the device's own.
void launch(const Kernel* kernel, const Launch& launch, void** arguments) {
    // 8 is the attribute for more than 48 KiB of dynamic shared memory.
    if (launch.shared > 48 * 1024) driver().call<int(void*, int, int)>("cuFuncSetAttribute", kernel->function, 8, int(launch.shared));
    using Call = int(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
    driver().call<Call>("cuLaunchKernel", kernel->function, launch.grid[0], launch.grid[1], launch.grid[2], launch.threads, 1u, 1u, unsigned(launch.shared), nullptr,
                        arguments, nullptr);
    if (int code = driver().ask<int()>("cuCtxSynchronize")) stop(kernel->name + " fails with code " + std::to_string(code));
}

Counters count() { return {}; }

// 3: for all contexts, and mapped into the device's addresses.
void show(void* begin, size_t bytes) { driver().call<int(void*, size_t, unsigned)>("cuMemHostRegister_v2", begin, bytes, 3u); }
void hide(void* begin) { driver().call<int(void*)>("cuMemHostUnregister", begin); }

}  // namespace fs
