// How a caller's pixels are read: any strides, four orders of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blastscope.h"

namespace blastscope {

struct Pixels {
    explicit Pixels(const blastscope_image& image)
        : first(image.pixels), width(image.width), height(image.height),
          step(image.pixel_stride ? image.pixel_stride : image.format >= BLASTSCOPE_RGBA ? 4 : 3),
          pitch(image.row_stride ? image.row_stride : step * image.width),
          red(image.format == BLASTSCOPE_BGR || image.format == BLASTSCOPE_BGRA ? 2 : 0), blue(2 - red) {}

    const uint8_t* row(int y) const { return first + static_cast<ptrdiff_t>(y) * static_cast<ptrdiff_t>(pitch); }

    // `count` pixels from (x, y) on, as RGB without gaps.
    void copy(int x, int y, int count, uint8_t* rgb) const {
        const uint8_t* from = row(y) + static_cast<ptrdiff_t>(x) * static_cast<ptrdiff_t>(step);
        if (step == 3 && red == 0) {
            std::memcpy(rgb, from, static_cast<size_t>(count) * 3);
            return;
        }
        for (int i = 0; i < count; i++, from += step, rgb += 3) {
            rgb[0] = from[red];
            rgb[1] = from[1];
            rgb[2] = from[blue];
        }
    }

    const uint8_t* first;
    int width, height;
    int64_t step, pitch;
    int red, blue;
};

}  // namespace blastscope
