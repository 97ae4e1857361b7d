// Rules: which shapes an operator gives, by its kind. Those of runtime/bundle/graphs/shape_rules.py.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "onnx_call.h"

namespace blastscope::wire {

using Shapes = std::vector<Shape>;
using Rule = Shapes (*)(const Call&);  // throws CannotBe
using Rules = std::map<std::string, Rule>;

Rules layout_rules();  // of operators that move, take or repeat elements

int64_t ceil_div(int64_t one, int64_t other);
int64_t bounded(int64_t value);  // what may be added up and multiplied without a care; throws CannotBe
std::set<size_t> axes_of(const std::vector<int64_t>& axes, size_t rank);  // counted from the front; throws CannotBe

}  // namespace blastscope::wire
