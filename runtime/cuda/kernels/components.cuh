// Components of a mask of bits, by union-find over segments.
//
// A segment is a maximal run of lit pixels within one word. Two segments of a word start at least two pixels apart, so
// `16 word + start / 2` is a slot of its own for each, and slots grow in raster order. Each slot has a parent that is no larger;
// a root is its own parent. Once all neighbours are joined, two segments have one root exactly if they are connected, and the
// root is the component's first segment in raster order, whatever the order in which threads ran:
//   - a parent changes only from a root to a smaller slot of a neighbour's tree (the CAS in `join_trees`), or from a slot that is
//     no root to its ancestor (`root_of`, `crop_tally`). An ancestor stays one, so trees only grow together, without circles;
//   - parents are no larger than their slots, so every walk ends.
#pragma once

#include "memory.cuh"

struct Segment {
    int start, end;  // bits, both lit
};

// The segment that holds the lowest lit bit of `lit`, among the lit bits of `word`; `lit` is a part of `word`, not 0.
__device__ inline Segment lowest_segment(u32 word, u32 lit) {
    const int low = __ffs((int)lit) - 1;
    const u32 dark_below = ~word & ((1u << low) - 1), dark_above = ~word & ~((1u << low) - 1);
    return {dark_below ? WORD - __clz((int)dark_below) : 0, dark_above ? __ffs((int)dark_above) - 2 : WORD - 1};
}

// The segment that ends at the last bit of `word`, which is lit.
__device__ inline Segment last_segment(u32 word) { return {word == ~0u ? 0 : WORD - __clz((int)~word), WORD - 1}; }

// `lit` without the bits up to `segment`'s end.
__device__ inline u32 after(u32 lit, Segment segment) { return segment.end == WORD - 1 ? 0 : lit & (~0u << (segment.end + 1)); }

__device__ inline u32 slot_of(u32 word, Segment segment) { return word * SLOTS + segment.start / 2; }

// Halves the path on its way, so that many threads on one long path need few steps.
__device__ inline u32 root_of(u32* parents, u32 slot) {
    u32 parent = peek(&parents[slot]);
    while (parent != slot) {
        const u32 next = peek(&parents[parent]);
        if (next == parent) return parent;
        poke(&parents[slot], next);
        slot = next;
        parent = peek(&parents[slot]);
    }
    return slot;
}

// The same where nobody changes parents any more.
__device__ inline u32 settled_root_of(const u32* parents, u32 slot) {
    for (u32 parent = parents[slot]; parent != slot; parent = parents[slot]) slot = parent;
    return slot;
}

__device__ inline void join_trees(u32* parents, u32 a, u32 b) {
    while ((a = root_of(parents, a)) != (b = root_of(parents, b))) {
        const u32 larger = a > b ? a : b, smaller = a > b ? b : a;
        if (atomicCAS(&parents[larger], larger, smaller) == larger) return;
        // another thread has hung `larger` elsewhere meanwhile: its new root is smaller, so this ends
    }
}

// Joins the segments of the word at `index` with their neighbours to the left and above; rows are `across` words.
__device__ inline void join_word(const u32* mask, u32* parents, int across, u32 index) {
    const u32 word = mask[index];
    if (word == 0) return;
    const int x = index % across;
    const bool has_above = index >= (u32)across, has_left = x > 0, has_right = x + 1 < across;
    if (has_left && (word & 1) && mask[index - 1] >> 31)
        join_trees(parents, index * SLOTS, slot_of(index - 1, last_segment(mask[index - 1])));
    if (!has_above) return;
    const u32 over = index - across;
    const u32 above = mask[over], left = has_left ? mask[over - 1] : 0, right = has_right ? mask[over + 1] : 0;
    for (u32 lit = word; lit;) {
        const Segment own = lowest_segment(word, lit);
        lit = after(lit, own);
        // columns start - 1 to end + 1 touch the segment; those in the words beside are looked at below
        const u32 from = ~0u << (own.start > 0 ? own.start - 1 : 0), to = own.end >= 30 ? ~0u : (4u << own.end) - 1;
        for (u32 touched = above & from & to; touched;) {
            const Segment other = lowest_segment(above, touched);
            touched = after(touched, other);
            join_trees(parents, slot_of(index, own), slot_of(over, other));
        }
        // where the bit straight above is lit it joins with the word beside it in its own row
        if (own.start == 0 && left >> 31 && !(above & 1))
            join_trees(parents, slot_of(index, own), slot_of(over - 1, last_segment(left)));
        if (own.end == WORD - 1 && (right & 1) && !(above >> 31)) join_trees(parents, slot_of(index, own), (over + 1) * SLOTS);
    }
}
