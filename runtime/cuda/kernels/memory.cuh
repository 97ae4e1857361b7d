// What the kernels read and write, and the one way in which they look at memory that others are changing.
// No header of the C library: NVRTC has none.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// The host shim of the tests defines these before: there, shared memory is an allocation of its own with poisoned ends, and
// another thread may get its turn wherever OTHERS_MAY_RUN stands.
#ifndef SHARED
#define SHARED(Kind, name) __shared__ Kind name
#endif
#ifndef OTHERS_MAY_RUN
#define OTHERS_MAY_RUN()
#endif

constexpr int THREADS = 256;   // of every block; crop_launch_plan.py launches as many
constexpr int WORD = 32;       // pixels in a word of a mask; bit k of word w is column 32 w + k
constexpr int SLOTS = 16;      // segments that a word may hold: they start at least two pixels apart
constexpr int BINS = 257;      // a histogram's 256 counts and the bright pixels of the border

// The order is that of STATUSES in crop_launch_plan.py.
enum Status { OK, NO_PIXELS, DARK, NOT_ON_BLACK, NOTHING_LEFT, TOUCHES_BORDER, TOO_SMALL, TOO_LARGE, UNPLANNED };

struct ImageRow {  // strides in bytes, of any sign
    u64 address;
    i64 row_stride, pixel_stride, channel_stride;
    int height, width;
};

struct VerdictRow {
    int status, threshold;
    int box[4];
    int brightest, bright_border;
};

struct State {  // of one image, from kernel to kernel
    u64 best;                  // (pixels << 32 | ~root) of the component that leads
    u64 count, sum_x, sum_y;   // of the largest component's pixels
    int x0, y0, x1, y1;        // its box
    int status, threshold, brightest, bright_border;
};

static_assert(sizeof(ImageRow) == 40 && sizeof(VerdictRow) == 32 && sizeof(State) == 64, "crop_launch_plan.py has these sizes");

// Words of 32 pixels in a row, and in the largest image of the plan: the distance between two images' parts of an array.
__device__ inline int words_across(int width) { return (width + WORD - 1) / WORD; }
__device__ inline u64 planned_words(int largest_px) { return (u64)largest_px * words_across(largest_px); }

// Whether the image has pixels and fits the plan. Every kernel asks this of the table and not of a state that another block may
// be changing, so that all threads of a block go the same way.
__device__ inline bool is_planned(const ImageRow& image, int largest_px) {
    return image.height > 0 && image.width > 0 && image.height <= largest_px && image.width <= largest_px;
}

// The value that is there now, and not one from a register or from a cache that other blocks' writes pass by.
template <class Value>
__device__ inline Value peek(const Value* place) {
    OTHERS_MAY_RUN();
    return *(const volatile Value*)place;
}

template <class Value>
__device__ inline void poke(Value* place, Value value) {
    OTHERS_MAY_RUN();
    *(volatile Value*)place = value;
}

__device__ inline u8 channel_of(const ImageRow& image, int x, int y, int channel) {
    const u8* first = (const u8*)image.address;
    return first[y * image.row_stride + x * image.pixel_stride + channel * image.channel_stride];
}
