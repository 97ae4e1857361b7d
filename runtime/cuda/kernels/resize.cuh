// From the largest component to a verdict, and from a box to pixels.
#pragma once

#include "memory.cuh"
#include "otsu.cuh"

struct CropRules {  // the fields of CropSpec
    int side_px, window_px, erosion_px, grow_back, min_box_px, max_box_px;
};

// Whether the image's edge cuts the cell: the rule of `_is_cut` in reference.py. Distances are of the middle of the component's
// pixels from an edge, times 2 count. For 2^28 pixels and 2^14 px sides 5 far^2 and 16 count^3 are below 2^90.
__device__ inline bool is_cut(const State& state, const int* grown, const ImageRow& image) {
    const bool reached[4] = {grown[0] == 0, grown[1] == 0, grown[2] == image.width, grown[3] == image.height};
    if ((reached[0] && reached[2]) || (reached[1] && reached[3])) return true;
    const u64 left = 2 * state.sum_x + state.count, top = 2 * state.sum_y + state.count;
    const u64 distances[4] = {left, top, 2 * state.count * image.width - left, 2 * state.count * image.height - top};
    const Wide near = square_times(state.count, 16 * state.count);
    for (int side = 0; side < 4; side++)
        if (reached[side] && is_less(square_times(distances[side], 5), near)) return true;
    return false;
}

__device__ inline VerdictRow verdict_of(const State& state, const ImageRow& image, const CropRules& rules) {
    VerdictRow row = {state.status, state.threshold, {0, 0, 0, 0}, state.brightest, state.bright_border};
    if (row.status != OK) return row;
    if (state.count == 0) {
        row.status = NOTHING_LEFT;
        return row;
    }
    const int grown = rules.erosion_px;  // stays in the image: an eroded pixel has mask pixels on every side
    const int box[4] = {state.x0 - grown, state.y0 - grown, state.x1 + grown, state.y1 + grown};
    const bool cut = is_cut(state, box, image);
    const int back = cut || rules.grow_back ? 0 : grown;  // that refusal always speaks of the grown box
    row.box[0] = box[0] + back;
    row.box[1] = box[1] + back;
    row.box[2] = box[2] - back;
    row.box[3] = box[3] - back;
    const int across = row.box[2] - row.box[0], down = row.box[3] - row.box[1];
    if (cut)
        row.status = TOUCHES_BORDER;
    else if (across < rules.min_box_px || down < rules.min_box_px)
        row.status = TOO_SMALL;
    else if (across > rules.max_box_px || down > rules.max_box_px)
        row.status = TOO_LARGE;
    return row;
}

struct Patch {  // what is resized: the box, or the window at its middle, which may leave the image
    int left, top, width, height;
};

__device__ inline Patch patch_of(const int* box, int window_px) {
    if (window_px == 0) return {box[0], box[1], box[2] - box[0], box[3] - box[1]};
    return {(box[0] + box[2]) / 2 - window_px / 2, (box[1] + box[3]) / 2 - window_px / 2, window_px, window_px};
}

struct Place {  // between the pixels `first` and `second`, the weights adding up to 256
    int first, second, first_weight, second_weight;
};

// Where pixel `index` of `fresh` lies among `old` pixels that begin at `start`: half-pixel centres, the fraction rounded to
// 256ths, ties to even.
__device__ inline Place place_of(int index, int start, int old, int fresh) {
    const int twice = 2 * fresh, numerator = (2 * index + 1) * old - fresh;  // below 2^12 2^14
    if (numerator < 0) return {start, start, 256, 0};
    const int first = numerator / twice;
    if (first >= old - 1) return {start + old - 1, start + old - 1, 256, 0};
    const int scaled = 256 * (numerator - first * twice);
    int weight = scaled / twice;
    const int rest = 2 * (scaled - weight * twice);
    if (rest > twice || (rest == twice && weight % 2)) weight++;
    return {start + first, start + first + 1, 256 - weight, weight};
}

__device__ inline int pixel_of(const ImageRow& image, int x, int y, int channel) {
    return x >= 0 && y >= 0 && x < image.width && y < image.height ? channel_of(image, x, y, channel) : 0;
}

__device__ inline u8 blend(const ImageRow& image, const Place& across, const Place& down, int channel) {
    const int upper = pixel_of(image, across.first, down.first, channel) * across.first_weight +
                      pixel_of(image, across.second, down.first, channel) * across.second_weight;
    const int lower = pixel_of(image, across.first, down.second, channel) * across.first_weight +
                      pixel_of(image, across.second, down.second, channel) * across.second_weight;
    return (u8)((upper * down.first_weight + lower * down.second_weight + 32768) >> 16);
}
