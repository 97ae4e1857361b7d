#include "components.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace blastscope {
namespace {

using Word = uint64_t;
constexpr int BITS = 64;

// Bits of the pixels of a row that are brighter than `threshold`, which is below 255.
void threshold_row(const uint8_t* row, int width, int threshold, Word* words) {
    for (int start = 0; start < width; start += BITS) {
        Word word = 0;
        const int count = std::min(BITS, width - start);
        for (int k = 0; k < count; k++) word |= static_cast<Word>(row[start + k] > threshold) << k;
        words[start / BITS] = word;
    }
}

// One erosion by 3 pixels in a row; outside is dark.
void erode_row(Word* words, int across) {
    Word before = 0;
    for (int i = 0; i < across; i++) {
        const Word word = words[i], next = i + 1 < across ? words[i + 1] : 0;
        words[i] = word & (word << 1 | before >> (BITS - 1)) & (word >> 1 | next << (BITS - 1));
        before = word;
    }
}

std::vector<Word> eroded_mask(const uint8_t* gray, int width, const Box& lit, int threshold, int erosion_px) {
    const int columns = lit.x1 - lit.x0, rows = lit.y1 - lit.y0, across = (columns + BITS - 1) / BITS;
    std::vector<Word> mask(static_cast<size_t>(across) * rows);
    for (int y = 0; y < rows; y++) {
        Word* words = mask.data() + static_cast<size_t>(y) * across;
        threshold_row(gray + static_cast<size_t>(lit.y0 + y) * width + lit.x0, columns, threshold, words);
        for (int round = 0; round < erosion_px; round++) erode_row(words, across);
    }
    std::vector<Word> above(across), own(across);
    for (int round = 0; round < erosion_px && rows > 0; round++) {
        std::fill(above.begin(), above.end(), 0);
        for (int y = 0; y < rows; y++) {
            Word* words = mask.data() + static_cast<size_t>(y) * across;
            for (int i = 0; i < across; i++) {
                own[i] = words[i];
                words[i] &= above[i] & (y + 1 < rows ? words[i + across] : 0);
            }
            above.swap(own);
        }
    }
    return mask;
}

struct Run {  // lit pixels in a row, side by side
    int y, start, end;  // half-open
    uint32_t parent;    // a run that is no later; a root is its own
};

uint32_t root_of(std::vector<Run>& runs, uint32_t run) {
    while (runs[run].parent != run) {
        runs[run].parent = runs[runs[run].parent].parent;
        run = runs[run].parent;
    }
    return run;
}

void append_runs(const Word* words, int across, int y, std::vector<Run>& runs) {
    for (int i = 0; i < across; i++) {
        Word word = words[i];
        while (word) {
            const int start = __builtin_ctzll(word);
            const Word dark = ~(word >> start);
            const int length = dark ? __builtin_ctzll(dark) : BITS - start;
            const int from = i * BITS + start;
            // a run that goes on from the word before is one run
            if (start == 0 && !runs.empty() && runs.back().y == y && runs.back().end == from)
                runs.back().end += length;
            else
                runs.push_back({y, from, from + length, static_cast<uint32_t>(runs.size())});
            if (start + length >= BITS) break;
            word &= ~static_cast<Word>(0) << (start + length);
        }
    }
}

}  // namespace

Component largest_component(const uint8_t* gray, int width, const Box& lit, int threshold, int erosion_px) {
    const int rows = lit.y1 - lit.y0, across = (lit.x1 - lit.x0 + BITS - 1) / BITS;
    const std::vector<Word> mask = eroded_mask(gray, width, lit, threshold, erosion_px);
    std::vector<Run> runs;
    size_t above = 0, above_end = 0;  // the runs of the row above
    for (int y = 0; y < rows; y++) {
        const size_t begin = runs.size();
        append_runs(mask.data() + static_cast<size_t>(y) * across, across, y, runs);
        for (size_t run = begin; run < runs.size(); run++) {
            while (above < above_end && runs[above].end < runs[run].start) above++;
            for (size_t other = above; other < above_end && runs[other].start <= runs[run].end; other++) {
                const uint32_t one = root_of(runs, static_cast<uint32_t>(run)), two = root_of(runs, static_cast<uint32_t>(other));
                runs[std::max(one, two)].parent = std::min(one, two);
            }
        }
        above = begin;
        above_end = runs.size();
    }
    std::vector<Component> found(runs.size());
    Component best;
    for (size_t run = 0; run < runs.size(); run++) {
        const Run& own = runs[run];
        Component& component = found[root_of(runs, static_cast<uint32_t>(run))];
        const uint64_t count = own.end - own.start;
        const int x0 = lit.x0 + own.start, x1 = lit.x0 + own.end, y = lit.y0 + own.y;
        if (component.count == 0) component.box = {x0, y, x1, y + 1};
        component.count += count;
        component.sum_x += count * static_cast<uint64_t>(x0 + x1 - 1) / 2;
        component.sum_y += count * static_cast<uint64_t>(y);
        component.box = {std::min(component.box.x0, x0), component.box.y0, std::max(component.box.x1, x1), y + 1};
    }
    for (const Component& component : found)  // in the order of their first pixels
        if (component.count > best.count) best = component;
    return best;
}

}  // namespace blastscope
