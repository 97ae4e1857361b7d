// The crop of runtime/crop/reference.py for a batch of cells, to the byte: gray and histogram, Otsu, threshold and erosion,
// largest 8-connected component and its box, verdict, patch and resize. All integer.
//
// Launching. Six kernels, one after the other on one stream, blocks of 256 threads, grid (blocks that share an image, images),
// no dynamic shared memory; `CropPlan.launches` in plan.py has the numbers. Images are read where `ImageRow` says, with any
// strides. Nothing need be cleared before, and nothing comes back to the host but the rows of `VerdictRow`: every number that one
// kernel leaves for the next stays in the workspace. Shapes depend on the plan alone, so the six fit a CUDA graph.
//
// Why six and not one. Between two kernels everything is written, so there is no barrier between blocks to get wrong, none that
// needs them all resident, and one cell of 450 x 450 gets 27 to 175 blocks instead of one. Within a kernel every pixel, word or
// segment is on its own. What blocks add up goes through integer atomics, whose order can't matter; histograms are kept apart
// for each block and added up by whoever needs them, so there is nothing to clear and no last block to find. A further kernel in
// a graph should cost a microsecond or two (not measured here), a barrier across blocks about as much.
//
// Masks are bits, 32 pixels to a word, so erosion and neighbourhood are shifts, and components are joined by segments of a row
// (components.cuh): a cell of C-NMC has 1,300 of them on average, where it has 34,000 pixels.
#include "components.cuh"
#include "memory.cuh"
#include "otsu.cuh"
#include "resize.cuh"

constexpr int MOST_EROSION = 16;  // as in CropSpec
constexpr int TILE = 16;          // rows, and words, of a mask that a block makes at a time
constexpr u32 NONE = ~0u;
constexpr int FAR = 0x7fffffff;

// ---- gray values, histogram, bright pixels of the border

struct GrayShared {
    u32 counts[BINS];
};

__device__ inline u32 gray_of(const ImageRow& image, int x, int y) {
    const u32 red = channel_of(image, x, y, 0), green = channel_of(image, x, y, 1), blue = channel_of(image, x, y, 2);
    return (9798 * red + 19235 * green + 3735 * blue + 16384) >> 15;
}

// Blocks leave gray values in rows of whole words, 0 beyond the image's width, and one histogram each.
extern "C" __global__ void __launch_bounds__(THREADS)
    crop_gray(const ImageRow* images, u8* grays, u32* histograms, State* states, int largest_px, int max_background) {
    const ImageRow image = images[blockIdx.y];
    const bool planned = is_planned(image, largest_px);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        const int status = planned ? OK : image.height > 0 && image.width > 0 ? UNPLANNED : NO_PIXELS;
        states[blockIdx.y] = {0, 0, 0, 0, FAR, FAR, 0, 0, status, 0, 0, 0};
    }
    if (!planned) return;
    SHARED(GrayShared, shared);
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) shared.counts[bin] = 0;
    __syncthreads();

    const u32 fours_across = words_across(image.width) * (WORD / 4), fours = fours_across * image.height;
    u32* gray = (u32*)(grays + blockIdx.y * planned_words(largest_px) * WORD);
    u32 black = 0, bright = 0;
    for (u32 four = blockIdx.x * THREADS + threadIdx.x; four < fours; four += gridDim.x * THREADS) {
        const int y = four / fours_across, left = 4 * (four % fours_across);
        u32 packed = 0;
        for (int k = 0; k < 4; k++)
            if (left + k < image.width) packed |= gray_of(image, left + k, y) << 8 * k;
        gray[four] = packed;
        for (int k = 0; k < 4 && left + k < image.width; k++) {  // apart from the above: loads don't wait for atomics
            const int x = left + k;
            const u32 value = packed >> 8 * k & 255;
            if (value == 0) {
                black++;  // most pixels: one counter that all would wait for
            } else {
                atomicAdd(&shared.counts[value], 1u);
                const u32 edges = (y == 0) + (y == image.height - 1) + (x == 0) + (x == image.width - 1);
                if ((int)value > max_background) bright += edges;
            }
        }
    }
    if (black) atomicAdd(&shared.counts[0], black);
    if (bright) atomicAdd(&shared.counts[256], bright);
    __syncthreads();
    u32* own = histograms + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * BINS;
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) own[bin] = shared.counts[bin];
}

// ---- refusals by brightness, threshold, erosion

struct MaskShared {
    OtsuShared otsu;
    int brightest;
    u32 bright_border;
    u32 lit[TILE + 2 * MOST_EROSION][TILE + 2];   // brighter than the threshold, with a margin on each side
    u32 wide[TILE + 2 * MOST_EROSION][TILE];      // eroded within rows
};

// The bits of the word at (x, y) of words that are brighter than `threshold`; 0 outside.
__device__ inline u32 threshold_word(const u32* gray, const ImageRow& image, int threshold, int x, int y) {
    const int across = words_across(image.width);
    if (x < 0 || y < 0 || x >= across || y >= image.height) return 0;
    const u32* fours = gray + ((u64)y * across + x) * (WORD / 4);
    u32 word = 0;
    for (int four = 0; four < WORD / 4; four++) {
        const u32 packed = fours[four];
        for (int k = 0; k < 4; k++) word |= (u32)((int)(packed >> 8 * k & 255) > threshold) << (4 * four + k);
    }
    return word;
}

// A pixel stays when all within `reach` columns are lit.
__device__ inline u32 erode_word(u32 left, u32 word, u32 right, int reach) {
    u32 kept = word;
    for (int by = 1; by <= reach; by++) kept &= (word >> by | right << (WORD - by)) & (word << by | left >> (WORD - by));
    return kept;
}

// r erosions by 3 x 3 are one by (2 r + 1) x (2 r + 1), done in rows, then in columns. Each block finds the threshold anew.
extern "C" __global__ void __launch_bounds__(THREADS)
    crop_mask(const ImageRow* images, const u8* grays, const u32* histograms, u32* masks, u32* parents, u32* pixels,
              State* states, int largest_px, int gray_blocks, int erosion_px, int max_background) {
    const ImageRow image = images[blockIdx.y];
    if (!is_planned(image, largest_px)) return;
    SHARED(MaskShared, shared);
    const u32* partial = histograms + (u64)blockIdx.y * gray_blocks * BINS;
    u32 count = 0, border = 0;
#pragma unroll 16
    for (int block = 0; block < gray_blocks; block++) count += partial[block * BINS + threadIdx.x];
    if (threadIdx.x == 0) {
        shared.brightest = 0;
        shared.bright_border = 0;
    }
    __syncthreads();
    for (int block = threadIdx.x; block < gray_blocks; block += THREADS) border += partial[block * BINS + 256];
    if (border) atomicAdd(&shared.bright_border, border);
    if (count) atomicMax(&shared.brightest, (int)threadIdx.x);
    const int threshold = otsu_threshold(shared.otsu, count);  // its barriers make the two above known to all

    const int brightest = shared.brightest, bright_border = (int)shared.bright_border;
    int status = OK;
    if (brightest <= max_background)
        status = DARK;
    else if (bright_border > image.height + image.width)  // more than half of 2 (height + width)
        status = NOT_ON_BLACK;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        State& state = states[blockIdx.y];
        state.status = status;
        state.threshold = threshold;
        state.brightest = brightest;
        state.bright_border = bright_border;
    }
    if (status != OK) return;

    const u64 first = blockIdx.y * planned_words(largest_px);
    const u32* gray = (const u32*)(grays + first * WORD);
    const int across = words_across(image.width), tiles_across = (across + TILE - 1) / TILE;
    const int tiles = tiles_across * ((image.height + TILE - 1) / TILE), rows = TILE + 2 * erosion_px;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int left = tile % tiles_across * TILE, top = tile / tiles_across * TILE;
        for (int i = threadIdx.x; i < rows * (TILE + 2); i += THREADS) {
            const int row = i / (TILE + 2), column = i % (TILE + 2);
            shared.lit[row][column] = threshold_word(gray, image, threshold, left + column - 1, top + row - erosion_px);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < rows * TILE; i += THREADS) {
            const int row = i / TILE, column = i % TILE;
            const u32* lit = &shared.lit[row][column];
            shared.wide[row][column] = erode_word(lit[0], lit[1], lit[2], erosion_px);
        }
        __syncthreads();
        const int row = threadIdx.x / TILE, column = threadIdx.x % TILE, x = left + column, y = top + row;
        if (x >= across || y >= image.height) continue;  // no barrier until the next tile's, which all threads reach
        u32 word = shared.wide[row][column];
        for (int by = 1; by <= 2 * erosion_px; by++) word &= shared.wide[row + by][column];
        const u32 index = (u32)y * across + x;
        masks[first + index] = word;
        for (u32 lit = word; lit;) {
            const Segment segment = lowest_segment(word, lit);
            lit = after(lit, segment);
            const u32 slot = slot_of(index, segment);
            parents[first * SLOTS + slot] = slot;
            pixels[first * SLOTS + slot] = 0;
        }
    }
}

// ---- the largest component

extern "C" __global__ void __launch_bounds__(THREADS)
    crop_join(const ImageRow* images, const u32* masks, u32* parents, const State* states, int largest_px) {
    const ImageRow image = images[blockIdx.y];
    if (states[blockIdx.y].status != OK) return;
    const u64 first = blockIdx.y * planned_words(largest_px);
    const u32 across = words_across(image.width), words = across * image.height;
    for (u32 index = blockIdx.x * THREADS + threadIdx.x; index < words; index += gridDim.x * THREADS)
        join_word(masks + first, parents + first * SLOTS, across, index);
}

// The leader is the component of most pixels and, of equals, of the smallest root. Counts only grow, so the largest of all keys
// ever seen is that of the final counts.
__device__ inline void add_pixels(u32* pixels, State* state, u32 root, u32 count) {
    const u64 key = (u64)(atomicAdd(&pixels[root], count) + count) << 32 | (u32)~root;
    if (key > peek(&state->best)) atomicMax(&state->best, key);
}

struct TallyShared {
    u32 root, count;
};

// Most segments belong to one component: a block counts the one that it meets first in shared memory.
extern "C" __global__ void __launch_bounds__(THREADS)
    crop_tally(const ImageRow* images, const u32* masks, u32* parents, u32* pixels, State* states, int largest_px) {
    const ImageRow image = images[blockIdx.y];
    State* state = &states[blockIdx.y];
    if (state->status != OK) return;
    SHARED(TallyShared, shared);
    if (threadIdx.x == 0) {
        shared.root = NONE;
        shared.count = 0;
    }
    __syncthreads();
    const u64 first = blockIdx.y * planned_words(largest_px);
    const u32 words = words_across(image.width) * image.height;
    u32 *parent = parents + first * SLOTS, *counts = pixels + first * SLOTS;
    for (u32 index = blockIdx.x * THREADS + threadIdx.x; index < words; index += gridDim.x * THREADS) {
        const u32 word = masks[first + index];
        for (u32 lit = word; lit;) {
            const Segment segment = lowest_segment(word, lit);
            lit = after(lit, segment);
            const u32 slot = slot_of(index, segment), root = root_of(parent, slot);
            poke(&parent[slot], root);  // spares crop_measure the walk, unless another thread's halving comes later
            const u32 met = atomicCAS(&shared.root, NONE, root);
            if (met == NONE || met == root)
                atomicAdd(&shared.count, (u32)(segment.end - segment.start + 1));
            else
                add_pixels(counts, state, root, segment.end - segment.start + 1);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0 && shared.count) add_pixels(counts, state, shared.root, shared.count);
}

struct MeasureShared {
    u64 count, sum_x, sum_y;
    int x0, y0, x1, y1;
};

// Box, count and sums of the leader's pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    crop_measure(const ImageRow* images, const u32* masks, const u32* parents, State* states, int largest_px) {
    const ImageRow image = images[blockIdx.y];
    State* state = &states[blockIdx.y];
    if (state->status != OK || state->best == 0) return;
    SHARED(MeasureShared, shared);
    if (threadIdx.x == 0) shared = {0, 0, 0, FAR, FAR, 0, 0};
    __syncthreads();
    const u32 leader = ~(u32)state->best;
    const u64 first = blockIdx.y * planned_words(largest_px);
    const u32 across = words_across(image.width), words = across * image.height;
    MeasureShared own = {0, 0, 0, FAR, FAR, 0, 0};
    for (u32 index = blockIdx.x * THREADS + threadIdx.x; index < words; index += gridDim.x * THREADS) {
        const u32 word = masks[first + index];
        for (u32 lit = word; lit;) {
            const Segment segment = lowest_segment(word, lit);
            lit = after(lit, segment);
            if (settled_root_of(parents + first * SLOTS, slot_of(index, segment)) != leader) continue;
            const int x = index % across * WORD, y = index / across, count = segment.end - segment.start + 1;
            own.count += count;
            own.sum_x += (u64)count * x + (u64)count * (segment.start + segment.end) / 2;
            own.sum_y += (u64)count * y;
            own.x0 = min(own.x0, x + segment.start);
            own.y0 = min(own.y0, y);
            own.x1 = max(own.x1, x + segment.end + 1);
            own.y1 = max(own.y1, y + 1);
        }
    }
    if (own.count) {
        atomicAdd(&shared.count, own.count);
        atomicAdd(&shared.sum_x, own.sum_x);
        atomicAdd(&shared.sum_y, own.sum_y);
        atomicMin(&shared.x0, own.x0);
        atomicMin(&shared.y0, own.y0);
        atomicMax(&shared.x1, own.x1);
        atomicMax(&shared.y1, own.y1);
    }
    __syncthreads();
    if (threadIdx.x == 0 && shared.count) {
        atomicAdd(&state->count, shared.count);
        atomicAdd(&state->sum_x, shared.sum_x);
        atomicAdd(&state->sum_y, shared.sum_y);
        atomicMin(&state->x0, shared.x0);
        atomicMin(&state->y0, shared.y0);
        atomicMax(&state->x1, shared.x1);
        atomicMax(&state->y1, shared.y1);
    }
}

// ---- the verdict and the pixels

// A pixel of the crop at a time; a refused image's are black. Each block finds the verdict anew.
extern "C" __global__ void __launch_bounds__(THREADS)
    crop_resize(const ImageRow* images, const State* states, u8* crops, VerdictRow* verdicts, int side_px, int window_px,
                int erosion_px, int grow_back, int min_box_px, int max_box_px) {
    const ImageRow image = images[blockIdx.y];
    SHARED(VerdictRow, shared);
    if (threadIdx.x == 0) {
        shared = verdict_of(states[blockIdx.y], image, {side_px, window_px, erosion_px, grow_back, min_box_px, max_box_px});
        if (blockIdx.x == 0) verdicts[blockIdx.y] = shared;
    }
    __syncthreads();
    const bool refused = shared.status != OK;
    const Patch patch = patch_of(shared.box, window_px);
    const int pixels = side_px * side_px;
    u8* crop = crops + (u64)blockIdx.y * pixels * 3;
    for (int index = blockIdx.x * THREADS + threadIdx.x; index < pixels; index += gridDim.x * THREADS) {
        u8* pixel = crop + 3 * index;
        if (refused) {
            pixel[0] = pixel[1] = pixel[2] = 0;
            continue;
        }
        const Place across = place_of(index % side_px, patch.left, patch.width, side_px);
        const Place down = place_of(index / side_px, patch.top, patch.height, side_px);
        for (int channel = 0; channel < 3; channel++) pixel[channel] = blend(image, across, down, channel);
    }
}
