// Otsu's threshold and other comparisons of fractions, exact: 192 bits hold every product that is compared.
#pragma once

#include "memory.cuh"

struct Wide {
    u64 low, middle, high;
};

// a a b
__device__ inline Wide square_times(u64 a, u64 b) {
    const u64 low = a * a, high = __umul64hi(a, a);
    const u64 middle = __umul64hi(low, b) + high * b;
    return {low * b, middle, __umul64hi(high, b) + (middle < high * b)};
}

__device__ inline bool is_less(const Wide& a, const Wide& b) {
    if (a.high != b.high) return a.high < b.high;
    if (a.middle != b.middle) return a.middle < b.middle;
    return a.low < b.low;
}

// The variance between the classes gray <= value and gray > value is distance^2 / spread. With N pixels, spread is at most N^2 / 4
// and distance 255 N^2 / 4; so for N = 2^28, the largest image, the products compared are below 2^(2 * 62 + 54) = 2^178.
struct Candidate {
    u64 distance, spread;  // spread 0: one class is empty, which is no threshold
    int value;
};

// Of equals the first: an order without ties, so that candidates may be compared in any order.
__device__ inline bool is_better(const Candidate& a, const Candidate& b) {
    if (a.spread == 0 || b.spread == 0) return a.spread != 0;
    const Wide ours = square_times(a.distance, b.spread), theirs = square_times(b.distance, a.spread);
    if (is_less(ours, theirs)) return false;
    return is_less(theirs, ours) || a.value < b.value;
}

struct OtsuShared {
    u64 below[THREADS], sums[THREADS];  // count and sum of the pixels up to a value
    Candidate candidates[THREADS];
};

// The threshold of a histogram of which each thread brings its own value's count. All threads of the block must call it.
__device__ inline int otsu_threshold(OtsuShared& shared, u32 count) {
    const int value = threadIdx.x;
    u64 below = count, sum = (u64)count * value;
    for (int reach = 1; reach < THREADS; reach *= 2) {
        shared.below[value] = below;
        shared.sums[value] = sum;
        __syncthreads();
        if (value >= reach) {
            below += shared.below[value - reach];
            sum += shared.sums[value - reach];
        }
        __syncthreads();
    }
    shared.below[value] = below;
    shared.sums[value] = sum;
    __syncthreads();
    const u64 all = shared.below[THREADS - 1], total = shared.sums[THREADS - 1];
    // the two products may overflow; their difference is below 2^63, so it is exact modulo 2^64
    const i64 difference = (i64)(all * sum - below * total);
    Candidate own = {(u64)(difference < 0 ? -difference : difference), below * (all - below), value};
    shared.candidates[value] = own;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (value < half && is_better(shared.candidates[value + half], shared.candidates[value]))
            shared.candidates[value] = shared.candidates[value + half];
        __syncthreads();
    }
    return shared.candidates[0].value;
}
