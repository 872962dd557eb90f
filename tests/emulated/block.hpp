// A block of threads on the CPU, each a fiber: barriers, warp-wide instructions, shared memory, and the launch of a grid.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <tuple>
#include <vector>

#include "fibers.hpp"
#include "kernels.hpp"

namespace fs {

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};
enum class State { Ready, Warp, Barrier, Done };

// A copy to shared memory that happens when it is waited for; from nothing: zeros; to nothing: one that has happened.
struct Copy {
    unsigned char* to;
    const void* from;
};

struct Block;
struct Lane {
    Dim thread{0, 0, 0};
    Block* block = nullptr;
    int number = 0;
    State state = State::Ready;
    Context context;
    // Copies under way, oldest first, and how many of them each group that was committed ends at.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
};

// A warp-wide instruction: lanes leave their operands, the last one computes for all.
struct Warp {
    int arrived = 0, place = 0;
    const char* what = nullptr;
    // Lanes at a barrier of the block, and where in the code that is.
    int waiting = 0, barrier = 0;
    alignas(16) unsigned char in[32][48];
    alignas(16) unsigned char out[32][48];
};

struct Block {
    Dim index, threads, grid;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    std::vector<Lane> lanes;
    std::vector<Warp> warps;
    Context scheduler;
    int waiting = 0, done = 0;
    bool early = false;
    void (*run)(void**) = nullptr;
    void** arguments = nullptr;
};

extern thread_local Lane* lane;
// Where in the code the running lane is, as far as it is known: instructions that a whole warp must execute together must be the same one.
extern thread_local int place;
extern Counters counters;

// Reports what is wrong and where, and ends the program.
[[noreturn]] void fail(const char* what);
void yield(State state);
void barrier();
// Checks that 16 bytes at this address are whole and in the block's shared memory.
unsigned char* in_shared(const void* at);
// The last lane that comes to an instruction gets true, after which all may go on.
bool arrive(Warp& warp, const char* what, int place);

template <class In, class Out, class All>
Out warp_wide(const char* what, const In& in, All all, int place = 0) {
    static_assert(sizeof(In) <= 48 && sizeof(Out) <= 48);
    Lane* own = lane;
    Warp& warp = own->block->warps[own->number / 32];
    int at = own->number % 32;
    memcpy(warp.in[at], &in, sizeof in);
    if (arrive(warp, what, place)) {
        In ins[32];
        Out outs[32];
        for (int i = 0; i < 32; ++i) memcpy(static_cast<void*>(&ins[i]), warp.in[i], sizeof(In));
        all(ins, outs);
        for (int i = 0; i < 32; ++i) memcpy(warp.out[i], &outs[i], sizeof(Out));
    } else {
        yield(State::Warp);
    }
    Out out;
    memcpy(static_cast<void*>(&out), warp.out[at], sizeof out);
    return out;
}

// A kernel as a call with pointers to its arguments, as cuLaunchKernel passes them; `keep` copies them for a launch that runs later.
template <auto kernel>
struct Caller;
template <class... A, void (*kernel)(A...)>
struct Caller<kernel> {
    template <size_t... I>
    static void spread(void** a, std::index_sequence<I...>) {
        kernel(*static_cast<A*>(a[I])...);
    }
    static void call(void** arguments) { spread(arguments, std::index_sequence_for<A...>{}); }
    template <size_t... I>
    static std::shared_ptr<void> copy(void** a, std::vector<void*>& pointers, std::index_sequence<I...>) {
        auto own = std::make_shared<std::tuple<A...>>(*static_cast<A*>(a[I])...);
        pointers = {&std::get<I>(*own)...};
        return own;
    }
    static std::shared_ptr<void> keep(void** a, std::vector<void*>& pointers) {
        return copy(a, pointers, std::index_sequence_for<A...>{});
    }
};

// Enters a kernel into the table that `find` searches.
struct Registration {
    Registration(const char* name, unsigned threads, void (*call)(void**),
                 std::shared_ptr<void> (*keep)(void**, std::vector<void*>&));
};

// Runs a grid of blocks of this body.
void run_grid(void (*body)(void**), const Launch& launch, void** arguments);

}  // namespace fs
