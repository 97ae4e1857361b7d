// CUDA's words in plain C++, so that a kernel file compiles and runs on a machine without a GPU. Include it before the kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace shim {

struct Three {
    unsigned x, y, z;
};

// Where the thread that runs now stands.
extern Three thread, block, threads, blocks;

// A scheduling point: in shuffled runs another thread may go on from here.
void others_may_run();

// Returns when every thread of the block has come to the same barrier. Threads at different ones, or gone, break the launch off.
void barrier(const char* file, int line);

// This block's memory for the SHARED at `site`: an allocation of its own, full of garbage.
void* shared_memory(const void* site, std::size_t size);

template <class Kind>
Kind& shared() {
    static const char site = 0;
    return *static_cast<Kind*>(shared_memory(&site, sizeof(Kind)));
}

}  // namespace shim

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define SHARED(Kind, name) Kind& name = shim::shared<Kind>()
#define OTHERS_MAY_RUN() shim::others_may_run()
#define __syncthreads() shim::barrier(__FILE__, __LINE__)
#define threadIdx shim::thread
#define blockIdx shim::block
#define blockDim shim::threads
#define gridDim shim::blocks

using std::max;
using std::min;

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// One thread runs at a time and changes only at scheduling points, so plain code between two of them is atomic.
template <class Value>
Value atomicAdd(Value* place, Value value) {
    shim::others_may_run();
    const Value old = *place;
    *place = old + value;
    return old;
}

template <class Value>
Value atomicMin(Value* place, Value value) {
    shim::others_may_run();
    const Value old = *place;
    *place = std::min(old, value);
    return old;
}

template <class Value>
Value atomicMax(Value* place, Value value) {
    shim::others_may_run();
    const Value old = *place;
    *place = std::max(old, value);
    return old;
}

template <class Value>
Value atomicCAS(Value* place, Value expected, Value value) {
    shim::others_may_run();
    const Value old = *place;
    if (old == expected) *place = value;
    return old;
}
