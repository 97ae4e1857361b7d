// Unpacks a zipped bundle into the user's cache, once for each zip. Neither the zip nor the cache is trusted.
#pragma once

#include <string>

#include "bundle.h"

namespace blastscope {

Bundle unpack(const std::string& path, const std::string& cache_dir);

}  // namespace blastscope
