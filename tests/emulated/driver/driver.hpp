// What the parts of the emulated driver share: the order of work on streams, and faults on request.
#pragma once
#include <functional>
#include <mutex>

#define API extern "C" __attribute__((visibility("default"))) int
using Pointer = unsigned long long;

namespace driver {

// Every call of the driver holds it.
extern std::recursive_mutex order;

// A value that is never destroyed: threads that still run while the process ends may use it.
template <class T>
T& immortal() {
    return *new T;
}

// Begins a call: an error that it shall return, or 0. An error that a context does not survive is returned by every call from then on.
int enter(const char* call);
// The value of a setting: `FS_EMULATED_…` of the environment, or what `fs_emulated_set` said since. Null when there is none.
const char* setting(const char* name);

// Puts work at the end of a stream: done at once, or, when streams are late, as soon as somebody waits for it.
int enqueue(void* stream, std::function<void()> work);
void drain(void* stream);
void drain_all();
// Whether the planned fault is of this kind; see FS_EMULATED_FAULT.
bool is_planned(const char* kind);
// Whether the product library proposes a second plan; see FS_EMULATED_PLANS.
bool has_two_plans();
// Whether an address lies in pinned memory.
bool is_pinned(const void* at);

}  // namespace driver

namespace driver {
// The context of the calling thread, which it has to choose.
extern thread_local void* context;
}  // namespace driver

// Begins a function of the interface that needs a context.
#define ENTER_CONTEXT \
    ENTER;            \
    if (!driver::context) return 201
// Begins a function of the interface that no planned failure and no broken context keeps from answering.
#define ENTER_ALWAYS std::lock_guard<std::recursive_mutex> guard(driver::order)
// Begins a function of the interface.
#define ENTER                                                         \
    std::lock_guard<std::recursive_mutex> guard(driver::order);       \
    if (int code = driver::enter(__func__)) return code
