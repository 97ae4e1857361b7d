// Runs launches of kernels: a fibre for each thread that waits, real barriers, and the order of threads as given or shuffled.
#include "host_shim.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

#include "kernel_table.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

Three thread, block, threads, blocks;

namespace {

constexpr std::size_t STACK = 128 * 1024;

struct Block {
    unsigned index;
    unsigned started = 0, ended = 0, waiting = 0;
    std::vector<unsigned> order;  // of its threads
    std::vector<std::pair<const void*, std::unique_ptr<char[]>>> memory;
    const char* file = nullptr;  // of the barrier where its threads wait
    int line = 0;
};

// A stack on which kernel threads run. In order, it takes one thread after the other until one has to wait.
struct Fibre {
    ucontext_t context{};
    std::jmp_buf place{};
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool begun = false, waiting = false;  // waiting: at a barrier
    Block* block = nullptr;               // null: between two threads
    unsigned thread = 0;
};

struct Run {
    const Kernel* kernel = nullptr;
    const std::uint64_t* arguments = nullptr;
    std::uint64_t random = 0;
    bool shuffled = false;
    std::string failure;
    std::vector<std::unique_ptr<Fibre>> ready, waiting, idle;  // waiting: at a barrier; idle: without a thread
} run;

Fibre* current = nullptr;


std::uint64_t next_random() {  // xorshift64*
    run.random ^= run.random >> 12;
    run.random ^= run.random << 25;
    run.random ^= run.random >> 27;
    return run.random * 2685821657736338717ull;
}

Three three_of(unsigned index, const Three& size) {
    return {index % size.x, index / size.x % size.y, index / size.x / size.y};
}

void stand(const Fibre& fibre) {
    thread = three_of(fibre.thread, threads);
    block = three_of(fibre.block->index, blocks);
}

// ---- switching: swapcontext where the sanitizer must be told, else longjmp, which asks the kernel for nothing

#if defined(__SANITIZE_ADDRESS__)
ucontext_t home;
const void* home_stack;
std::size_t home_size;

void suspend() {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, home_stack, home_size);
    swapcontext(&current->context, &home);
    __sanitizer_finish_switch_fiber(fake, &home_stack, &home_size);
}

void resume(Fibre& fibre) {
    current = &fibre;
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fibre.stack.get(), STACK);
    swapcontext(&home, &fibre.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
#else
std::jmp_buf home_place;

void suspend() {
    if (!_setjmp(current->place)) _longjmp(home_place, 1);
}

void resume(Fibre& fibre) {
    current = &fibre;
    if (_setjmp(home_place)) return;
    if (fibre.begun) _longjmp(fibre.place, 1);
    fibre.begun = true;
    setcontext(&fibre.context);
}
#endif

// ---- threads

bool take(Fibre& fibre, Block& block) {
    if (block.started == block.order.size()) return false;
    fibre.block = &block;
    fibre.thread = block.order[block.started++];
    stand(fibre);
    return true;
}

void live() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &home_stack, &home_size);
#endif
    for (;;) {
        do {
            run.kernel->call(run.arguments);
            current->block->ended++;
        } while (!run.shuffled && take(*current, *current->block));
        current->block = nullptr;
        suspend();
    }
}

// Lets another fibre take a thread of `block`; there must be one left.
void begin_thread(Block& block) {
    if (run.idle.empty()) {
        run.idle.emplace_back(new Fibre);
        Fibre& fibre = *run.idle.back();
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.get();
        // tops at different distances, or all stacks would share a few lines of the cache
        static std::size_t colour = 0;
        fibre.context.uc_stack.ss_size = STACK - 64 * 17 * (colour++ % 32);
        makecontext(&fibre.context, live, 0);
    }
    take(*run.idle.back(), block);
    run.ready.push_back(std::move(run.idle.back()));
    run.idle.pop_back();
}

// Runs a ready fibre until it waits, has no thread any more, or lets others run.
void go_on(std::size_t at) {
    Fibre& fibre = *run.ready[at];
    stand(fibre);
    resume(fibre);
    if (fibre.block && !fibre.waiting) return;
    std::swap(run.ready[at], run.ready.back());
    (fibre.block ? run.waiting : run.idle).push_back(std::move(run.ready.back()));
    run.ready.pop_back();
}

void fail(const std::string& text) {
    if (run.failure.empty()) run.failure = text;
}

// Lets the threads of `block` go on, all of which have come to one barrier or have ended.
void open_barrier(Block& block) {
    if (block.ended) {
        fail("barrier divergence: threads wait at " + std::string(block.file) + ":" + std::to_string(block.line) + " for " +
             std::to_string(block.ended) + " that have ended");
        return;
    }
    block.waiting = 0;
    block.file = nullptr;
    std::vector<std::unique_ptr<Fibre>> others;
    for (auto& fibre : run.waiting) {
        const bool own = fibre->block == &block;
        if (own) fibre->waiting = false;
        (own ? run.ready : others).push_back(std::move(fibre));
    }
    run.waiting.swap(others);
}

void run_in_order(Block& block) {
    while (run.failure.empty() && block.ended < block.order.size()) {
        while (block.started < block.order.size()) {
            begin_thread(block);
            go_on(0);
        }
        if (block.waiting) open_barrier(block);
        std::vector<std::unique_ptr<Fibre>> round;
        round.swap(run.ready);
        for (auto& fibre : round) {
            run.ready.push_back(std::move(fibre));
            go_on(0);
        }
    }
}

// One step: a thread of any active block begins or goes on, or a barrier opens.
void run_shuffled(std::vector<std::unique_ptr<Block>>& active) {
    for (auto& block : active) {
        const unsigned begun = block->started - block->ended;
        if (block->started < block->order.size() && (begun == 0 || next_random() % 8 == 0)) begin_thread(*block);
        if (block->waiting && block->waiting + block->ended == block->order.size()) open_barrier(*block);
    }
    if (!run.ready.empty()) go_on(next_random() % run.ready.size());
}

std::vector<unsigned> order_of(unsigned count) {
    std::vector<unsigned> order(count);
    for (unsigned at = 0; at < count; at++) order[at] = at;
    if (run.shuffled)
        for (unsigned at = count; at > 1; at--) std::swap(order[at - 1], order[next_random() % at]);
    return order;
}

void run_blocks(unsigned block_count, unsigned thread_count, unsigned at_once) {
    std::vector<std::unique_ptr<Block>> active;
    const std::vector<unsigned> order = order_of(block_count);
    std::size_t next = 0;
    while (run.failure.empty() && (next < order.size() || !active.empty())) {
        while (active.size() < at_once && next < order.size()) {
            active.emplace_back(new Block);
            active.back()->index = order[next++];
            active.back()->order = order_of(thread_count);
        }
        if (run.shuffled)
            run_shuffled(active);
        else
            run_in_order(*active[0]);
        for (std::size_t at = active.size(); at-- > 0;)
            if (active[at]->ended == active[at]->order.size()) active.erase(active.begin() + static_cast<std::ptrdiff_t>(at));
    }
}

}  // namespace

void others_may_run() {
    if (run.shuffled && next_random() % 4 == 0) suspend();
}

void barrier(const char* file, int line) {
    Block& own = *current->block;
    if (own.file && (own.file != file || own.line != line))
        fail("barrier divergence: threads of one block wait at line " + std::to_string(own.line) + " and " + std::to_string(line) +
             " of " + file);
    own.file = file;
    own.line = line;
    own.waiting++;
    current->waiting = true;
    suspend();
}

void* shared_memory(const void* site, std::size_t size) {
    auto& memory = current->block->memory;
    for (auto& [known, place] : memory)
        if (known == site) return place.get();
    memory.emplace_back(site, new char[size]);
    for (std::size_t at = 0; at < size; at++) memory.back().second[at] = static_cast<char>(0xA5 + 29 * at);
    return memory.back().second.get();
}

}  // namespace shim

// Runs one launch; null, or what went wrong. `kinds` says of each argument whether it is an address ('a') or an int ('i'). Seed 0
// runs blocks and threads in order; any other shuffles them, with several blocks under way at a time.
extern "C" const char* shim_launch(const char* name, const unsigned* grid, const unsigned* threads, const char* kinds,
                                   const std::uint64_t* arguments, std::uint64_t seed) {
    using namespace shim;
    static std::mutex mutex;
    thread_local std::string failure;  // the caller reads it after the lock is gone
    const std::lock_guard<std::mutex> guard(mutex);
    failure.clear();
    const Kernel* kernel = kernel_named(name);
    if (!kernel || kernel->kinds != kinds) {
        failure = kernel ? std::string(name) + " takes " + kernel->kinds + ", not " + kinds : std::string("no kernel ") + name;
        return failure.c_str();
    }
    run.kernel = kernel;
    run.arguments = arguments;
    run.shuffled = seed != 0;
    run.random = seed;
    run.failure.clear();
    blocks = {grid[0], grid[1], grid[2]};
    shim::threads = {threads[0], threads[1], threads[2]};
    run_blocks(grid[0] * grid[1] * grid[2], threads[0] * threads[1] * threads[2], run.shuffled ? 3 : 1);
    run.ready.clear();  // of a launch that broke off; else there are none
    run.waiting.clear();
    failure = run.failure;
    return failure.empty() ? nullptr : failure.c_str();
}
