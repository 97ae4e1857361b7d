// The zip that `blastscope pack` makes of a bundle.
#pragma once

#include <string>

#include "bundle.h"

namespace blastscope {

// Its sha256, in hex. Throws Error: DIGEST_MISMATCH where the bundle was changed since it was read, BUNDLE beyond 2 GB.
std::string packed_sha256(const Bundle& bundle);

}  // namespace blastscope
