// Gives an int8 graph's activations as uint8, which is what CPU engines compute in, as backends/uint8_activations.py does.
#pragma once

#include <string>

namespace blastscope {

// The bytes of the int8 ONNX file `path` with uint8 activations, for `device`. Throws Error: ENGINE where it is no ONNX file,
// DEVICE where its sums would overflow on this CPU.
std::string with_uint8_activations(const std::string& content, const std::string& path, const std::string& device);

}  // namespace blastscope
