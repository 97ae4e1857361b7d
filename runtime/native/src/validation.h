// Holds an engine to the golden set, and remembers that it passed: runtime/inference/validation.py has the rules.
#pragma once

#include <string>

#include "engine.h"
#include "golden.h"

namespace blastscope {

struct GoldenCheck {
    double difference = 0;  // largest absolute difference of a probability; infinite where the answers are none
    int64_t flips = 0;      // crops whose call changed
    bool passed = false;
};

// All of the golden set, or one crop where the same engine passed before.
GoldenCheck validate(Engine& engine, const Golden& golden, double tolerance, const std::string& cache_dir);

}  // namespace blastscope
