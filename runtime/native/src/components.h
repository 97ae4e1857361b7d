// The largest 8-connected component of an eroded mask.
#pragma once

#include <cstdint>

#include "crop.h"

namespace blastscope {

struct Component {
    uint64_t count = 0, sum_x = 0, sum_y = 0;  // of its pixels, in the image's coordinates
    Box box;
};

// Of what is brighter than `threshold` within `lit` (outside all is 0), after `erosion_px` erosions by 3 x 3: the component with
// most pixels, of equals the first in raster order. `count` 0: nothing is left.
Component largest_component(const uint8_t* gray, int width, const Box& lit, int threshold, int erosion_px);

}  // namespace blastscope
