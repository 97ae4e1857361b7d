// libFuzzer: any image, in a buffer of just its size, is cropped or refused; the header's 16 bytes choose size, strides and rules.
#include <cstring>
#include <memory>

#include "crop.h"
#include "errors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 16) return 0;
    blastscope_image image{};
    image.width = data[0] + (data[1] & 1) * 256;
    image.height = data[2];
    image.format = data[3] % 4;
    const int64_t bytes = image.format < 2 ? 3 : 4;
    image.pixel_stride = data[4] % 3 ? 0 : bytes + data[4] / 64;
    const int64_t step = image.pixel_stride ? image.pixel_stride : bytes;
    const int64_t pitch = step * image.width + data[5] % 16;
    image.row_stride = data[6] & 1 ? -pitch : pitch;
    blastscope::CropSpecification spec;
    spec.side_px = 8 + data[7] % 64;
    spec.window_px = data[8] & 1 ? 8 + data[9] : 0;
    spec.erosion_px = data[10] % 17;
    spec.grow_back = data[11] & 1;
    spec.min_box_px = 1 + data[12];
    spec.max_box_px = 8 + data[13];
    spec.max_background = data[14] % 255;
    // no byte more than the last pixel's third
    const size_t room = image.width && image.height ? static_cast<size_t>(pitch * (image.height - 1) + step * (image.width - 1) + 3) : 0;
    const std::unique_ptr<uint8_t[]> pixels(new uint8_t[room]);
    for (size_t i = 0; i < room; i++) pixels[i] = size > 16 ? data[16 + i % (size - 16)] : 0;
    image.pixels = pixels.get() + (data[6] & 1 && image.height ? pitch * (image.height - 1) : 0);
    std::unique_ptr<uint8_t[]> crop(new uint8_t[static_cast<size_t>(spec.side_px) * spec.side_px * 3]);
    blastscope::Box box;
    try {
        blastscope::crop_cell(image, spec, crop.get(), box);
    } catch (const blastscope::Error&) {
    }
    return 0;
}
