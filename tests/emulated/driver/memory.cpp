// Memory of the emulated device: host memory that begins as NaN and ends at a page that cannot be touched, so that a read or write beyond it stops the
// program; pools; pinned memory; copies.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "driver.hpp"

using namespace driver;

namespace {

constexpr size_t PAGE = 4096;
auto& allocations = immortal<std::map<Pointer, size_t>>();
auto& pinned = immortal<std::map<const char*, size_t>>();
size_t used = 0, reserved = 0;

size_t total() {
    const char* limit = setting("FS_EMULATED_MEMORY");
    return limit ? strtoull(limit, nullptr, 10) : size_t(4) << 30;
}

size_t pages_of(size_t bytes) { return ((bytes + 15) / 16 * 16 + PAGE - 1) / PAGE * PAGE; }

int allocate(Pointer* out, size_t bytes) {
    if (bytes == 0) return 1;
    if (used + bytes > total()) return 2;
    size_t own = (bytes + 15) / 16 * 16, pages = pages_of(bytes);
    void* at = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return 2;
    char* begin = static_cast<char*>(at);
    mprotect(begin + pages, PAGE, PROT_NONE);
    memset(begin, 0xff, pages);
    *out = reinterpret_cast<Pointer>(begin + pages - own);
    allocations[*out] = bytes;
    used += bytes;
    reserved = std::max(reserved, used);
    return 0;
}

int release(Pointer at) {
    auto found = allocations.find(at);
    if (found == allocations.end()) {
        fprintf(stderr, "emulated driver: freed what was not allocated\n");
        abort();
    }
    size_t own = (found->second + 15) / 16 * 16, pages = pages_of(found->second);
    munmap(reinterpret_cast<char*>(at) + own - pages, pages + PAGE);
    used -= found->second;
    allocations.erase(found);
    return 0;
}

void* host(Pointer at) { return reinterpret_cast<void*>(at); }

}  // namespace

bool driver::is_pinned(const void* at) {
    auto next = pinned.upper_bound(static_cast<const char*>(at));
    return next != pinned.begin() && at < (--next)->first + next->second;
}

// What is asked of the device or of a pool, without a context, does not tell that the context is broken.
API cuDeviceTotalMem_v2(size_t* bytes, int) { ENTER_ALWAYS; *bytes = total(); return 0; }
API cuMemGetInfo_v2(size_t* free, size_t* all) { ENTER; *all = total(); *free = total() - std::min(used, total()); return 0; }
API cuMemAlloc_v2(Pointer* at, size_t bytes) { ENTER_CONTEXT; return allocate(at, bytes); }
API cuMemAllocAsync(Pointer* at, size_t bytes, void*) { ENTER_CONTEXT; return allocate(at, bytes); }
API cuMemFree_v2(Pointer at) { ENTER; drain_all(); return release(at); }
API cuMemFreeAsync(Pointer at, void* stream) { ENTER; return is_planned("free") ? release(at) : enqueue(stream, [=] { release(at); }); }

// 4 is the release threshold, 5 what is reserved, 6 and 8 the highest values, 7 what is used.
API cuDeviceGetDefaultMemPool(void** pool, int) { ENTER; *pool = reinterpret_cast<void*>(1); return 0; }
API cuMemPoolSetAttribute(void*, int, void*) { ENTER; return 0; }
API cuMemPoolGetAttribute(void*, int attribute, void* value) {
    ENTER_ALWAYS;
    *static_cast<uint64_t*>(value) = attribute == 7 ? used : reserved;
    return 0;
}
API cuMemPoolTrimTo(void*, size_t keep) { ENTER; reserved = std::max(used, keep); return 0; }

API cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    ENTER_CONTEXT;
    *at = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!*at) return 2;
    pinned[static_cast<char*>(*at)] = bytes;
    return 0;
}
API cuMemFreeHost(void* at) { ENTER; drain_all(); pinned.erase(static_cast<char*>(at)); free(at); return 0; }

// Memory of the host has the same addresses on this device.
API cuMemHostRegister_v2(void*, size_t, unsigned) { ENTER; return 0; }
API cuMemHostUnregister(void*) { ENTER; return 0; }

API cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    ENTER_CONTEXT;
    if (is_pinned(from)) return enqueue(stream, [=] { memcpy(host(to), from, bytes); });
    // Pageable memory is read at once.
    auto own = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return enqueue(stream, [=] { memcpy(host(to), own->data(), bytes); });
}
API cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) { ENTER; drain(nullptr); memcpy(host(to), from, bytes); return 0; }
API cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    ENTER_CONTEXT;
    bool waits = !is_pinned(to);
    enqueue(stream, [=] { memcpy(to, host(from), bytes); });
    if (waits) drain(stream);
    return 0;
}
API cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) { ENTER; drain(nullptr); memcpy(to, host(from), bytes); return 0; }
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) { ENTER_CONTEXT; return is_planned("copy") ? 0 : enqueue(stream, [=] { memmove(host(to), host(from), bytes); }); }
API cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void* stream) { ENTER_CONTEXT; return is_planned("clear") ? 0 : enqueue(stream, [=] { memset(host(to), value, bytes); }); }
