// The golden set: a few crops with the trained networks' probabilities, which every engine must reproduce.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"

namespace blastscope {

struct Golden {
    int64_t count = 0;
    std::vector<uint8_t> crops;        // (count, S, S, 3) RGB
    std::vector<float> probabilities;  // (count, 3, 2)
    std::vector<float> novelty;        // (count,); empty: the graphs measure none
};

// The bundle's golden set, verified. Throws Error (BUNDLE, DIGEST_MISMATCH).
Golden read_golden(const Bundle& bundle);

// The golden set in the bytes of a safetensors file. Throws Error (BUNDLE).
Golden parse_golden(const std::string& data, const Manifest& manifest, const std::string& shown);

}  // namespace blastscope
