// Lanes: one network's infer request, or those of a network's parts.
#pragma once

#include <optional>
#include <vector>

#include <openvino/runtime/compiled_model.hpp>

#include "engine.h"

namespace blastscope {

using Networks = std::vector<std::optional<ov::CompiledModel>>;  // one, or stem, a, b, rest, opinion; a stem may be missing

std::unique_ptr<Lane> make_lane(Networks& networks, bool together);

}  // namespace blastscope
