// Fibers: a thread of a block has a stack of its own, and runs until it gives way.
#pragma once
#include <cstddef>
#include <cstdint>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fs {

#if defined(__x86_64__)
struct Context {
    void* stack = nullptr;
};
extern "C" void fs_switch(void** from, void* to);

inline void swap(Context& from, Context& to) { fs_switch(&from.stack, to.stack); }
inline void begin(Context& context, char* stack, size_t bytes, void (*entry)()) {
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context.stack = top;
}
#else
struct Context {
    ucontext_t own;
};
inline void swap(Context& from, Context& to) { swapcontext(&from.own, &to.own); }
inline void begin(Context& context, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context.own);
    context.own.uc_stack.ss_sp = stack;
    context.own.uc_stack.ss_size = bytes;
    makecontext(&context.own, entry, 0);
}
#endif

}  // namespace fs
