// Runs grids of blocks whose threads are fibers.
#include "block.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <sys/mman.h>

#if defined(__x86_64__)
asm(R"(
.text
.globl fs_switch
.hidden fs_switch
.type fs_switch,@function
fs_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size fs_switch, .-fs_switch
)");
#endif

namespace fs {

thread_local Lane* lane = nullptr;
thread_local int place = 0;
Counters counters;
Counters count() { return counters; }
// The emulated device reads the host's memory as it is.
void show(void*, size_t) {}
void hide(void*) {}

void fail(const char* what) {
    if (const Lane* l = lane) {
        const Dim& at = l->block->index;
        fprintf(stderr, "emulated device: %s (block %u,%u,%u thread %d)\n", what, at.x, at.y, at.z, l->number);
    } else {
        fprintf(stderr, "emulated device: %s\n", what);
    }
    abort();
}

void yield(State state) {
    Lane* own = lane;
    own->state = state;
    swap(own->context, own->block->scheduler);
}

static void release(Block& block) {
    if (block.waiting == 0 || block.waiting + block.done != int(block.lanes.size())) return;
    block.waiting = 0;
    for (Warp& warp : block.warps) warp.waiting = 0;
    for (Lane& l : block.lanes)
        if (l.state == State::Barrier) l.state = State::Ready;
}

void barrier() {
    Block& block = *lane->block;
    Warp& warp = block.warps[size_t(lane->number) / 32];
    if (warp.waiting++ == 0) warp.barrier = place;
    else if (warp.barrier != place) fail("lanes of a warp are at different barriers");
    block.waiting += 1;
    lane->state = State::Barrier;
    release(block);
    if (lane->state == State::Barrier) yield(State::Barrier);
}

bool arrive(Warp& warp, const char* what, int place) {
    if (warp.arrived == 0) warp.what = what, warp.place = place;
    else if (warp.what != what || warp.place != place) fail("lanes of a warp are at different instructions");
    if (++warp.arrived < 32) return false;
    warp.arrived = 0;
    Lane* first = &lane->block->lanes[lane->number / 32 * 32];
    for (int i = 0; i < 32; ++i) first[i].state = State::Ready;
    return true;
}

unsigned char* in_shared(const void* at) {
    auto* own = static_cast<unsigned char*>(const_cast<void*>(at));
    const Block& block = *lane->block;
    if (own < block.shared || own + 16 > block.shared + block.shared_bytes) fail("an address outside shared memory");
    if (reinterpret_cast<uintptr_t>(own) % 16) fail("a misaligned address of shared memory");
    return own;
}

static void enter() {
    Block* block = lane->block;
    block->run(block->arguments);
    Lane* own = lane;
    if (!own->copies.empty()) fail("a thread ends with copies that nobody waited for");
    block->done += 1;
    own->state = State::Done;
    release(*block);
    for (;;) swap(lane->context, lane->block->scheduler);
}

namespace {

constexpr size_t STACK = 64 << 10, MOST_THREADS = 1024, PAGE = 4096, SHARED = 256 << 10;

char* reserve(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) fail("no memory for stacks");
    return static_cast<char*>(at);
}

// Stacks and shared memory of the block that this thread of the program runs; the latter ends at a page that cannot be touched.
struct Arena {
    char* stacks = reserve(STACK * MOST_THREADS);
    char* shared = reserve(SHARED + PAGE);
    Block block;
    Arena() { mprotect(shared + SHARED, PAGE, PROT_NONE); }
    ~Arena() {
        munmap(stacks, STACK * MOST_THREADS);
        munmap(shared, SHARED + PAGE);
    }
};

// Gives each lane of a list that can go on a turn. Returns whether there was one.
bool turn(Block& block, const std::vector<int>& order, size_t begin, size_t end) {
    bool ran = false;
    for (size_t i = begin; i < end; ++i) {
        Lane& own = block.lanes[size_t(order[i])];
        if (own.state != State::Ready) continue;
        ran = true;
        lane = &own;
        swap(block.scheduler, lane->context);
    }
    lane = nullptr;
    return ran;
}

// Greedy: `order` has the lanes of a warp one after another, and a warp goes on as long as it can.
void run_block(Arena& arena, const std::vector<int>& order, bool greedy) {
    Block& block = arena.block;
    int count = int(block.lanes.size());
    for (int i = 0; i < count; ++i) {
        Lane& own = block.lanes[size_t(i)];
        own.state = State::Ready;
        own.copies.clear();
        own.groups.clear();
        begin(own.context, arena.stacks + size_t(i) * STACK, STACK, enter);
    }
    block.waiting = block.done = 0;
    for (Warp& warp : block.warps) warp.arrived = warp.waiting = 0;
    if (block.shared_bytes) memset(block.shared, 0xff, block.shared_bytes);
    while (block.done < count) {
        bool ran = false;
        if (!greedy) ran = turn(block, order, 0, order.size());
        for (size_t warp = 0; greedy && warp < order.size(); warp += 32)
            while (turn(block, order, warp, warp + 32)) ran = true;
        if (!ran) fail("a deadlock: some threads wait for others that never come");
    }
}

}  // namespace

void run_grid(void (*body)(void**), const Launch& launch, void** arguments) {
    static thread_local std::unique_ptr<Arena> own;
    if (!own) own = std::make_unique<Arena>();
    if (launch.threads % 32 || launch.threads == 0 || launch.threads > MOST_THREADS) fail("a block of other than whole warps");
    if (launch.shared > SHARED) fail("more shared memory than there is");
    Block& block = own->block;
    block.grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
    block.threads = {launch.threads, 1, 1};
    block.shared_bytes = launch.shared;
    block.shared = reinterpret_cast<unsigned char*>(own->shared + SHARED - (launch.shared + 15) / 16 * 16);
    block.run = body;
    block.arguments = arguments;
    block.lanes.resize(launch.threads);
    block.warps.resize(launch.threads / 32);
    for (unsigned i = 0; i < launch.threads; ++i) {
        block.lanes[i].thread = {i, 0, 0};
        block.lanes[i].number = int(i);
        block.lanes[i].block = &block;
    }
    std::vector<int> order(launch.threads);
    std::iota(order.begin(), order.end(), 0);
    unsigned kind = launch.order & (EARLY - 1);
    block.early = launch.order & EARLY;
    bool greedy = launch.order & GREEDY;
    std::mt19937 random(kind);
    if (kind == 1) std::reverse(order.begin(), order.end());
    if (kind > 1) std::shuffle(order.begin(), order.end(), random);
    // Warps in the order of their first lanes.
    if (greedy && kind > 1) {
        std::vector<int> first(launch.threads / 32, -1);
        for (size_t i = 0; i < order.size(); ++i)
            if (int& at = first[size_t(order[i]) / 32]; at < 0) at = int(i);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return first[size_t(a) / 32] < first[size_t(b) / 32]; });
    }
    uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    for (uint64_t i = 0; i < blocks; ++i) {
        uint64_t at = kind == 1 ? blocks - 1 - i : i;
        block.index = {unsigned(at % launch.grid[0]), unsigned(at / launch.grid[0] % launch.grid[1]),
                       unsigned(at / launch.grid[0] / launch.grid[1])};
        run_block(*own, order, greedy);
    }
}

}  // namespace fs
