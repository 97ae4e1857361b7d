// Options: the checked arguments of `blastscope_open`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "blastscope.h"

namespace blastscope {

struct Options {
    std::string device = "CPU";  // as OpenVINO calls it
    std::optional<std::string> precision, execution, layout;  // nothing: the library chooses
    std::string workload = "latency", cache_dir;
    std::optional<std::vector<std::string>> signers;  // public keys, one of which must have signed the bundle
    int threads = 1, queue = 64;
    bool allow_ungated = false, cascade = false, call_unlike_training = false, measure = true;
};

// Throws Error (USAGE, DEVICE). `given` may be NULL.
Options parse_options(const blastscope_options* given);

}  // namespace blastscope
