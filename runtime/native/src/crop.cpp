#include "crop.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

#include "components.h"
#include "errors.h"
#include "pixels.h"

namespace blastscope {
namespace {

constexpr int64_t MOST_PIXELS = 380'000'000;  // beyond, Python's sums aren't exact
using Wide = unsigned __int128;

struct Gray {  // of the whole image; what lies outside of `lit` is 0
    std::vector<uint8_t> values;
    int width = 0, height = 0;
    Box lit;
    uint8_t at(int x, int y) const { return values[static_cast<size_t>(y) * width + x]; }
};

inline uint8_t gray_of(const uint8_t* pixel, int red, int blue) {
    return static_cast<uint8_t>((9798u * pixel[red] + 19235u * pixel[1] + 3735u * pixel[blue] + 16384u) >> 15);
}

// One row in gray; `Step` is the distance of pixels where it is known when this is compiled, else 0.
template <int Step>
void gray_row(const uint8_t* from, const Pixels& pixels, uint8_t* to) {
    const int64_t step = Step ? Step : pixels.step;
    int x = 0;
    if (Step) {  // most of an image is black: eight pixels of zeros are told at a glance
        for (; x + 8 <= pixels.width; x += 8, from += 8 * step) {
            uint64_t words[Step ? Step : 1];
            std::memcpy(words, from, sizeof words);
            uint64_t any = 0;
            for (uint64_t word : words) any |= word;
            if (any == 0) {
                std::memset(to + x, 0, 8);
                continue;
            }
            for (int k = 0; k < 8; k++) to[x + k] = gray_of(from + k * step, pixels.red, pixels.blue);
        }
    }
    for (; x < pixels.width; x++, from += step) to[x] = gray_of(from, pixels.red, pixels.blue);
}

bool lit_span(const uint8_t* row, int width, int& first, int& last) {
    int low = 0, high = width;
    uint64_t word;
    while (low + 8 <= high && (std::memcpy(&word, row + low, 8), word == 0)) low += 8;
    while (low < high && row[low] == 0) low++;
    if (low == high) return false;
    while (high - 8 >= low && (std::memcpy(&word, row + high - 8, 8), word == 0)) high -= 8;
    while (row[high - 1] == 0) high--;
    first = low;
    last = high;
    return true;
}

// In the first or last row the last pixel's fourth byte may lie outside of the buffer, so it isn't read there.
Gray make_gray(const Pixels& pixels) {
    Gray gray;
    gray.width = pixels.width;
    gray.height = pixels.height;
    gray.values.resize(static_cast<size_t>(pixels.width) * pixels.height);
    gray.lit = {pixels.width, pixels.height, 0, 0};
    for (int y = 0; y < pixels.height; y++) {
        uint8_t* to = gray.values.data() + static_cast<size_t>(y) * pixels.width;
        if (pixels.step == 3)
            gray_row<3>(pixels.row(y), pixels, to);
        else if (pixels.step == 4 && y > 0 && y + 1 < pixels.height && std::abs(pixels.pitch) >= 4 * int64_t(pixels.width))
            gray_row<4>(pixels.row(y), pixels, to);
        else
            gray_row<0>(pixels.row(y), pixels, to);
        int first, last;
        if (lit_span(to, pixels.width, first, last)) {
            gray.lit.x0 = std::min(gray.lit.x0, first);
            gray.lit.x1 = std::max(gray.lit.x1, last);
            gray.lit.y0 = std::min(gray.lit.y0, y);
            gray.lit.y1 = y + 1;
        }
    }
    if (gray.lit.x1 == 0) gray.lit = {};
    return gray;
}

std::vector<uint64_t> histogram_of(const Gray& gray) {
    std::array<std::array<uint32_t, 256>, 4> parts{};  // four, so that equal neighbours don't wait for each other
    std::vector<uint64_t> counts(256, 0);
    uint64_t rows = 0;
    auto flush = [&] {
        for (auto& part : parts)
            for (int value = 0; value < 256; value++) counts[value] += std::exchange(part[value], 0);
    };
    for (int y = gray.lit.y0; y < gray.lit.y1; y++) {
        const uint8_t* row = gray.values.data() + static_cast<size_t>(y) * gray.width;
        for (int x = gray.lit.x0; x < gray.lit.x1; x++) parts[x & 3][row[x]]++;
        if ((rows += gray.lit.x1 - gray.lit.x0) > UINT32_MAX / 2) flush(), rows = 0;
    }
    flush();
    const uint64_t inside = static_cast<uint64_t>(gray.lit.x1 - gray.lit.x0) * (gray.lit.y1 - gray.lit.y0);
    counts[0] += gray.values.size() - inside;
    return counts;
}

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
    char buffer[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

Refusal not_a_cell(const Gray& gray, const std::vector<uint64_t>& histogram, const CropSpecification& spec) {
    int brightest = 255;
    while (histogram[brightest] == 0) brightest--;
    if (brightest <= spec.max_background)
        return {BLASTSCOPE_EMPTY, text("nothing is brighter than background: the brightest gray is %d", brightest)};
    int64_t bright = 0;
    auto count = [&](int x, int y) { bright += gray.at(x, y) > spec.max_background; };
    for (int x = 0; x < gray.width; x++) count(x, 0), count(x, gray.height - 1);
    for (int y = 0; y < gray.height; y++) count(0, y), count(gray.width - 1, y);
    const double share = static_cast<double>(bright) / (2.0 * (static_cast<double>(gray.width) + gray.height));
    if (share > 0.5)
        return {BLASTSCOPE_NOT_ON_BLACK,
                text("%.0f%% of the border is brighter than gray %d", share * 100, spec.max_background)};
    return {};
}

// Whether the image's edge cuts the cell, and not just a thread that hangs on it: the rule of `_is_cut` in reference.py.
bool is_cut(const Box& box, const Component& found, const Gray& gray) {
    const bool reached[4] = {box.x0 == 0, box.y0 == 0, box.x1 == gray.width, box.y1 == gray.height};
    if ((reached[0] && reached[2]) || (reached[1] && reached[3])) return true;
    const Wide count = found.count, left = 2 * Wide(found.sum_x) + count, top = 2 * Wide(found.sum_y) + count;
    const Wide distances[4] = {left, top, 2 * count * gray.width - left, 2 * count * gray.height - top};
    for (int side = 0; side < 4; side++)
        if (reached[side] && 5 * distances[side] * distances[side] < 16 * count * count * count) return true;
    return false;
}

Refusal wrong_size(const Box& box, const CropSpecification& spec) {
    const int width = box.x1 - box.x0, height = box.y1 - box.y0;
    if (std::min(width, height) < spec.min_box_px)
        return {BLASTSCOPE_TOO_SMALL,
                text("the cell is %d x %d px, less than %lld px", width, height, static_cast<long long>(spec.min_box_px))};
    if (std::max(width, height) > spec.max_box_px)
        return {BLASTSCOPE_TOO_LARGE,
                text("the cell is %d x %d px, more than %lld px", width, height, static_cast<long long>(spec.max_box_px))};
    return {};
}

struct Place {  // between the pixels `first` and `second`, the weights adding up to 256
    int first, second, first_weight, second_weight;
};

// Where pixel `index` of `fresh` lies among `old` pixels: half-pixel centres, the fraction rounded to 256ths, ties to even.
Place place_of(int index, int old, int fresh) {
    const int64_t twice = 2 * static_cast<int64_t>(fresh), numerator = (2 * static_cast<int64_t>(index) + 1) * old - fresh;
    if (numerator < 0) return {0, 0, 256, 0};
    const int first = static_cast<int>(numerator / twice);
    if (first >= old - 1) return {old - 1, old - 1, 256, 0};
    const int64_t scaled = 256 * (numerator - first * twice);
    int weight = static_cast<int>(scaled / twice);
    const int64_t rest = 2 * (scaled - weight * twice);
    if (rest > twice || (rest == twice && weight % 2)) weight++;
    return {first, first + 1, 256 - weight, weight};
}

struct Patch {  // what is resized: the box, or the window at its middle, which may leave the image
    int left, top, width, height;
};

// A row of the patch as RGB; black outside of the image.
void patch_row(const Pixels& pixels, const Patch& patch, int row, uint8_t* rgb) {
    const int y = patch.top + row;
    const int from = std::max(patch.left, 0), to = std::min(patch.left + patch.width, pixels.width);
    if (y < 0 || y >= pixels.height || from >= to) {
        std::memset(rgb, 0, static_cast<size_t>(patch.width) * 3);
        return;
    }
    const size_t before = static_cast<size_t>(from - patch.left) * 3, inside = static_cast<size_t>(to - from) * 3;
    std::memset(rgb, 0, before);
    pixels.copy(from, y, to - from, rgb + before);
    std::memset(rgb + before + inside, 0, static_cast<size_t>(patch.width) * 3 - before - inside);
}

void resize(const Pixels& pixels, const Patch& patch, int side, uint8_t* crop) {
    const size_t line = static_cast<size_t>(side) * 3;
    if (patch.width == side && patch.height == side) {
        for (int y = 0; y < side; y++) patch_row(pixels, patch, y, crop + y * line);
        return;
    }
    std::vector<Place> across(side);
    for (int x = 0; x < side; x++) across[x] = place_of(x, patch.width, side);
    std::vector<uint8_t> source(static_cast<size_t>(patch.width) * 3);
    std::vector<uint32_t> lines[2] = {std::vector<uint32_t>(line), std::vector<uint32_t>(line)};  // two rows, resized across
    int held[2] = {-1, -1};
    auto fetch = [&](int row, int other) {  // which of `lines` holds that row; the row `other` stays
        for (int place = 0; place < 2; place++)
            if (held[place] == row) return place;
        const int place = held[0] == other ? 1 : 0;
        patch_row(pixels, patch, row, source.data());
        for (int x = 0; x < side; x++)
            for (int channel = 0; channel < 3; channel++)
                lines[place][3 * x + channel] = source[3 * across[x].first + channel] * across[x].first_weight +
                                                source[3 * across[x].second + channel] * across[x].second_weight;
        held[place] = row;
        return place;
    };
    for (int y = 0; y < side; y++) {
        const Place down = place_of(y, patch.height, side);
        const uint32_t* upper = lines[fetch(down.first, down.second)].data();
        const uint32_t* lower = lines[fetch(down.second, down.first)].data();
        const uint32_t upper_weight = down.first_weight, lower_weight = down.second_weight;
        uint8_t* to = crop + y * line;
        for (size_t i = 0; i < line; i++)
            to[i] = static_cast<uint8_t>((upper[i] * upper_weight + lower[i] * lower_weight + 32768) >> 16);
    }
}

// a / b < c / d for numbers below 2^124 and 2^58
bool is_less(Wide a, uint64_t b, Wide c, uint64_t d) {
    auto times = [](Wide large, uint64_t small, uint64_t& high) {
        const Wide low = (large & UINT64_MAX) * small, rest = (large >> 64) * small + (low >> 64);
        high = static_cast<uint64_t>(rest >> 64);
        return (rest << 64) | (low & UINT64_MAX);
    };
    uint64_t left_high, right_high;
    const Wide left = times(a, d, left_high), right = times(c, b, right_high);
    return left_high != right_high ? left_high < right_high : left < right;
}

}  // namespace

int otsu_threshold(const std::vector<uint64_t>& histogram) {
    uint64_t total = 0, all = 0;
    for (int value = 0; value < 256; value++) total += histogram[value], all += histogram[value] * value;
    uint64_t below = 0, sum = 0, best_spread = 0;
    Wide best_square = 0;
    int best = 0;
    while (histogram[best] == 0) best++;
    for (int value = 0; value < 256; value++) {
        if (histogram[value] == 0) continue;  // an empty bin repeats its predecessor's variance
        below += histogram[value];
        sum += histogram[value] * value;
        if (below == total) break;
        const __int128 difference = static_cast<__int128>(total) * sum - static_cast<__int128>(below) * all;
        const Wide distance = difference < 0 ? -difference : difference;
        const uint64_t spread = below * (total - below);
        if (best_spread == 0 || is_less(best_square, best_spread, distance * distance, spread)) {
            best_square = distance * distance;
            best_spread = spread;
            best = value;
        }
    }
    return best;
}

void check_image(const blastscope_image& image) {
    auto wrong = [](const std::string& problem) { fail(BLASTSCOPE_IMAGE, "an image " + problem); };
    if (image.format < BLASTSCOPE_RGB || image.format > BLASTSCOPE_BGRA)
        wrong("has the format " + std::to_string(image.format) + ": say BLASTSCOPE_RGB, BGR, RGBA or BGRA");
    if (image.width < 0 || image.height < 0)
        wrong("can't be " + std::to_string(image.width) + " x " + std::to_string(image.height) + " pixels");
    const int64_t pixels = static_cast<int64_t>(image.width) * image.height;
    if (pixels > MOST_PIXELS)
        wrong("of " + std::to_string(pixels) + " pixels is no single cell's: at most " + std::to_string(MOST_PIXELS) + " are read");
    if (pixels > 0 && image.pixels == nullptr) wrong("has no pixels: the pointer is NULL");
    const int64_t step = std::abs(std::max(image.pixel_stride, -INT64_MAX)), pitch = std::abs(std::max(image.row_stride, -INT64_MAX));
    if (step > INT64_MAX / (4 * std::max<int64_t>(image.width, 1)) || pitch > INT64_MAX / (4 * std::max<int64_t>(image.height, 1)))
        wrong("has strides that reach out of memory");
}

Refusal crop_cell(const blastscope_image& image, const CropSpecification& spec, uint8_t* crop, Box& box) {
    check_image(image);
    if (image.width == 0 || image.height == 0)
        return {BLASTSCOPE_EMPTY, text("the image has no pixels: %d x %d", image.width, image.height)};
    const Pixels pixels(image);
    const Gray gray = make_gray(pixels);
    const std::vector<uint64_t> histogram = histogram_of(gray);
    if (Refusal refusal = not_a_cell(gray, histogram, spec)) return refusal;
    const int threshold = otsu_threshold(histogram);
    const Component found = largest_component(gray.values.data(), gray.width, gray.lit, threshold, spec.erosion_px);
    if (found.count == 0)
        return {BLASTSCOPE_TOO_SMALL,
                text("nothing is left of what is brighter than gray %d after erosion", threshold)};
    const int grown = spec.erosion_px;  // an eroded pixel has mask pixels on every side, so the grown box stays in the image
    box = {found.box.x0 - grown, found.box.y0 - grown, found.box.x1 + grown, found.box.y1 + grown};
    if (is_cut(box, found, gray))
        return {BLASTSCOPE_TOUCHES_BORDER, text("the cell's box (%d, %d, %d, %d) reaches the edge of the %d x %d image", box.x0,
                                                box.y0, box.x1, box.y1, gray.width, gray.height)};
    if (!spec.grow_back) box = found.box;
    if (Refusal refusal = wrong_size(box, spec)) return refusal;
    const int size = spec.window_px;
    const Patch patch = size == 0 ? Patch{box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0}
                                  : Patch{(box.x0 + box.x1) / 2 - size / 2, (box.y0 + box.y1) / 2 - size / 2, size, size};
    resize(pixels, patch, spec.side_px, crop);
    return {};
}

}  // namespace blastscope
