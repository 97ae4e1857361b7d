// Partitions a fused graph into shared blocks, model A, model B and the combined head, as backends/openvino/partition.py does.
#pragma once

#include <memory>
#include <stdexcept>

#include <openvino/core/model.hpp>

namespace blastscope {

struct Partition {  // models in place of one; `stem` may be none
    std::shared_ptr<ov::Model> stem, a, b, rest, opinion;
};

class NotPartitionable : public std::runtime_error {  // the graph stays whole; the message says why
public:
    using std::runtime_error::runtime_error;
};

constexpr const char* STEM = "stem_";  // with a number: a part's input that takes the stem's output of that number

// The parts of `model`, which has fixed shapes and one output. Consumes it. Throws NotPartitionable.
Partition partition(const std::shared_ptr<ov::Model>& model);

}  // namespace blastscope
