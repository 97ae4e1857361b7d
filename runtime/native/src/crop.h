// The crop of one cell on black, to the bit as runtime/crop/reference.py makes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "blastscope.h"

namespace blastscope {

struct CropSpecification {  // as in the manifest; runtime/crop/specification.py explains the fields
    int side_px = 299;
    int window_px = 0;  // 0: the box is stretched to the side
    int erosion_px = 1;
    bool grow_back = true;
    int64_t min_box_px = 24, max_box_px = 1024;
    int max_background = 24;
};

struct Refusal {
    blastscope_refusal code = BLASTSCOPE_NOT_REFUSED;
    std::string detail;
    explicit operator bool() const { return code != BLASTSCOPE_NOT_REFUSED; }
};

struct Box {
    int x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // half-open
};

// Throws Error (IMAGE) where `image` is none. Pixels are not read.
void check_image(const blastscope_image& image);

// Writes side x side RGB pixels to `crop` and the cell's place to `box`, or says why there is no crop.
Refusal crop_cell(const blastscope_image& image, const CropSpecification& spec, uint8_t* crop, Box& box);

// Otsu's threshold of a histogram that counts at least one pixel, exact; of equal thresholds the first.
int otsu_threshold(const std::vector<uint64_t>& histogram);

}  // namespace blastscope
