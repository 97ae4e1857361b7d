// Walks a graph once with the shapes of a small batch, and refuses what would take a library too much time or memory: the rules of
// runtime/bundle/graphs/limits.py.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "onnx_call.h"

namespace blastscope::wire {
namespace {

constexpr int64_t FIRST_OPSET = 13, LAST_OPSET = 23;  // versions of ONNX's operators whose rules are known here
constexpr Big HELD_LIMIT = 1 << 25, HELD_PER_PIXEL = 64;
constexpr Big WORK_LIMIT = Big(1) << 42;
constexpr Big AHEAD_LIMIT = 1 << 22, AHEAD_PER_WEIGHT = 4, WORK_AHEAD = 1 << 30;

Shape declared_sides(const Value& value) {
    Shape found;
    for (int64_t side : value.dims) found.push_back(side == -1 ? BATCH : side);
    for (int64_t side : found)
        if (side <= 0 || side >= 1 << 16) throw UnfitGraph("declares '" + shown(value.name) + "' as " + shown(value.dims));
    return found;
}

// The type of an operator's output, from those of its inputs.
int type_of(const Call& call, int Known::*type) {
    static const std::set<std::string> comparing = {"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor",
                                                    "Not",   "IsNaN",   "IsInf"};
    static const std::set<std::string> counting = {"Shape", "ArgMax", "ArgMin", "Size"};
    auto given = [&](size_t number) { return call.has(number) ? call.inputs[number]->*type : UNKNOWN; };
    const std::string& kind = call.node.kind;
    if (kind == "Cast") return static_cast<int>(std::clamp<int64_t>(call.integer("to", 0), 0, 1000));
    if (comparing.count(kind)) return BOOL;
    if (counting.count(kind)) return INT64;
    if (kind == "Where" || kind == "DequantizeLinear") return given(1);
    if (kind == "QuantizeLinear") return given(2);
    return given(0);
}

int type_of_numbers(const Call& call) {
    const auto& attributes = call.node.attributes;
    const bool filled = call.node.kind == "ConstantOfShape";
    if (call.node.kind != "Constant" && !filled) return type_of(call, &Known::numbers);
    const auto value = filled ? attributes.find("value") : attributes.begin();
    if (value == attributes.end()) return FLOAT;
    if (const auto* tensor = std::get_if<Tensor>(&value->second)) return tensor->type;
    return value->first.rfind("value_int", 0) == 0 ? INT64 : FLOAT;
}

// Multiply-adds that one output costs; of a layer that only moves or counts, its elements.
Big work_of(const Call& call, const Shape& shape) {
    const std::string& kind = call.node.kind;
    const Big made = product(shape);
    Big read = 0;
    for (const Known* one : call.inputs) read = one ? std::max(read, one->size()) : read;
    if (kind == "Conv") return times(made, product(Shape(call.shape(1).begin() + 1, call.shape(1).end())));
    if (kind == "Gemm") return times(made, call.shape().at(call.integer("transA", 0) ? 0 : 1));
    if (kind == "MatMul") return times(made, call.shape().back());
    if (kind == "Einsum") {
        Big all = 1;
        for (const auto& [letter, side] : einsum_sides(call)) all = times(all, side);
        return all;
    }
    if (kind == "MaxPool" || kind == "AveragePool") return times(made, product(call.integers("kernel_shape")));
    return kind == "Resize" ? times(made, 16) : made + read;
}

class Budget {  // what a graph may still take
public:
    Budget(const Graph& graph, Big weights, Big pixels)
        : kept_(graph.tensors), held_(pixels), held_limit_(HELD_LIMIT + HELD_PER_PIXEL * pixels), work_(WORK_LIMIT),
          ahead_(AHEAD_LIMIT + AHEAD_PER_WEIGHT * weights), work_ahead_(WORK_AHEAD + AHEAD_PER_WEIGHT * weights) {
        for (const Node& node : graph.nodes)
            for (const std::string& name : node.inputs) uses_[name]++;
        for (const Value& value : graph.outputs) uses_[value.name]++;
    }

    void take(const Node& node, const Shape& shape, Big work, bool fixed) {
        const Big size = product(shape);
        work_ -= work;
        if (fixed) {
            ahead_ -= size;
            work_ahead_ -= work;
        } else {
            held_ += size;
        }
        const std::string where = "at '" + shown(node.name) + "' (" + shown(node.kind) + "), which makes " + shown(shape) + " numbers";
        if (held_ > held_limit_ || ahead_ < 0) throw UnfitGraph("takes too much memory " + where);
        if (work_ < 0 || work_ahead_ < 0) throw UnfitGraph("takes too long " + where);
    }

    // Counts what nobody needs after `node`.
    void release(const Node& node, const std::map<std::string, Known>& known) {
        for (const std::string& name : node.outputs)
            if (!name.empty() && uses_[name] == 0 && !known.at(name).fixed) held_ -= known.at(name).size();
        for (const std::string& name : node.inputs)
            if (--uses_[name] == 0 && !name.empty() && !known.at(name).fixed && !kept_.count(name)) held_ -= known.at(name).size();
    }

private:
    std::map<std::string, int64_t> uses_;
    const std::map<std::string, Tensor>& kept_;
    Big held_, held_limit_, work_, ahead_, work_ahead_;
};

}  // namespace

const Known& Call::given(size_t number) const {
    if (!has(number)) throw CannotBe("its input " + std::to_string(number) + " is missing");
    return *inputs[number];
}
std::vector<Number> Call::reals(size_t number) const {
    const Known& found = given(number);
    if (!found.values) throw CannotBe("a shape depends on what the network computes");
    return *found.values;
}
std::vector<int64_t> Call::numbers(size_t number) const {
    std::vector<int64_t> found;
    for (Number one : reals(number)) {
        if (!(std::fabs(one) < 0x1p63L)) {
            if (one == -0x1p63L) {
                found.push_back(INT64_MIN);
                continue;
            }
            throw CannotBe("a shape depends on a number that can't be");
        }
        found.push_back(static_cast<int64_t>(one));
    }
    return found;
}
int64_t Call::integer(const std::string& name, int64_t missing) const {
    const auto found = node.attributes.find(name);
    if (found == node.attributes.end()) return missing;
    const auto* value = std::get_if<int64_t>(&found->second);
    if (value == nullptr) throw CannotBe("its " + name + " is no whole number");
    return *value;
}
std::vector<int64_t> Call::integers(const std::string& name, std::vector<int64_t> missing) const {
    const auto found = node.attributes.find(name);
    if (found == node.attributes.end()) return missing;
    const auto* value = std::get_if<std::vector<int64_t>>(&found->second);
    if (value == nullptr) throw CannotBe("its " + name + " are no whole numbers");
    return *value;
}
std::string Call::word(const std::string& name, const std::string& missing) const {
    const auto found = node.attributes.find(name);
    if (found == node.attributes.end()) return missing;
    const auto* value = std::get_if<std::string>(&found->second);
    if (value == nullptr) throw CannotBe("its " + name + " is no text");
    return *value;
}
std::optional<std::vector<int64_t>> Call::axes(size_t number) const {
    if (has(number)) return numbers(number);
    if (node.attributes.count("axes")) return integers("axes");
    return std::nullopt;
}

size_t axis_of(int64_t axis, size_t rank) {
    const auto count = static_cast<int64_t>(rank);
    if (axis < -count || axis >= count) throw CannotBe("it has no axis " + std::to_string(axis));
    return static_cast<size_t>(axis < 0 ? axis + count : axis);
}
std::vector<int64_t> count_to(size_t count) {
    std::vector<int64_t> all(count);
    std::iota(all.begin(), all.end(), 0);
    return all;
}
Shape broadcast(const std::vector<Shape>& shapes) {
    Shape found;
    for (const Shape& shape : shapes) {
        if (shape.size() > found.size()) found.insert(found.begin(), shape.size() - found.size(), 1);
        for (size_t back = 1; back <= shape.size(); back++) {
            int64_t &side = found[found.size() - back], other = shape[shape.size() - back];
            if (side == 1) side = other;
            else if (other != 1 && other != side) throw CannotBe("shapes " + shown(found) + " and " + shown(shape) + " don't go together");
        }
    }
    return found;
}

// `at` as Python's slice takes an end of a range of `side`; `low` and `high` are where it is cut off.
static int64_t clipped(int64_t at, int64_t side, int64_t low, int64_t high) {
    if (at < 0) at = at < -side ? -1 - side : at + side;  // no overflow
    return std::clamp(at, low, high);
}

Shape told_shape(const Call& call) {
    const Shape& shape = call.shape();
    const auto side = static_cast<int64_t>(shape.size());
    const int64_t start = clipped(call.integer("start", 0), side, 0, side), end = clipped(call.integer("end", side), side, 0, side);
    return start < end ? Shape(shape.begin() + start, shape.begin() + end) : Shape();
}

std::vector<Part> sliced(const Call& call) {
    const Shape& data = call.shape();
    const std::vector<int64_t> starts = call.numbers(1), ends = call.numbers(2);
    const std::vector<int64_t> axes = call.has(3) ? call.numbers(3) : count_to(starts.size());
    const std::vector<int64_t> steps = call.has(4) ? call.numbers(4) : std::vector<int64_t>(starts.size(), 1);
    if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size()) throw CannotBe("its ends don't fit");
    std::vector<Part> found;
    for (int64_t side : data) found.push_back({0, 1, side});
    for (size_t place = 0; place < starts.size(); place++) {
        const size_t axis = axis_of(axes[place], data.size());
        const int64_t side = data[axis], step = steps[place];
        if (step == 0 || step == INT64_MIN) throw CannotBe("its step can't be");
        Part part;
        part.step = step;
        const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? side - 1 : side;
        part.start = clipped(starts[place], side, low, high);
        const int64_t end = step < 0 && ends[place] < -side ? -1 : clipped(ends[place], side, low, high);
        const int64_t way = step < 0 ? part.start - end : end - part.start, stride = step < 0 ? -step : step;
        part.count = way > 0 ? (way - 1) / stride + 1 : 0;
        found[axis] = part;
    }
    return found;
}

std::map<std::string, Known> check_limits(const Graph& graph) {
    if (graph.opset < FIRST_OPSET || graph.opset > LAST_OPSET)
        throw UnfitGraph("is of version " + std::to_string(graph.opset) + " of ONNX's operators, 13 to 23 are read: export it anew");
    std::map<std::string, Known> known;
    Big weights = 0, pixels = 0;
    for (const auto& [name, tensor] : graph.tensors) {
        Known& one = known[name] = {tensor.dims, std::nullopt, true, tensor.type, tensor.type};
        if (tensor.size() <= FOLDED) one.values = tensor.values();
        weights += tensor.size();
    }
    for (const Node& node : graph.nodes)
        for (const auto& [name, value] : node.attributes)
            if (const auto* tensor = std::get_if<Tensor>(&value)) weights += tensor->size();
    for (const Value& value : graph.inputs) {
        if (known.count(value.name)) throw UnfitGraph("gives '" + shown(value.name) + "' both as an input and as a weight");
        known[value.name] = {declared_sides(value), std::nullopt, false, static_cast<int>(std::clamp<int64_t>(value.type, 0, 1000)), UNKNOWN};
        pixels = std::min(pixels + known[value.name].size(), BIG);
    }
    Budget budget(graph, weights, pixels);
    for (const Node& node : graph.nodes) {
        Call call{node, {}, graph.opset};
        bool fixed = true;
        for (const std::string& name : node.inputs) {
            const auto found = known.find(name);
            if (!name.empty() && found == known.end())
                throw UnfitGraph("uses '" + shown(name) + "' in '" + shown(node.name) + "' before anything makes it");
            call.inputs.push_back(name.empty() ? nullptr : &found->second);
            fixed = fixed && (name.empty() || found->second.fixed);
        }
        const std::vector<Shape> shapes = shapes_of(call);
        size_t place = 0;
        for (const std::string& name : node.outputs) {
            if (name.empty()) continue;
            if (known.count(name)) throw UnfitGraph("makes '" + shown(name) + "' twice");
            const Shape& shape = shapes[place++];
            try {
                budget.take(node, shape, work_of(call, shape), fixed);  // before numbers of that shape are made here
                std::optional<std::vector<Number>> numbers = fold(call, shape);
                const bool told = fixed || numbers.has_value();
                known[name] = {shape, std::move(numbers), told, type_of(call, &Known::type), type_of_numbers(call)};
            } catch (const CannotBe& error) {
                throw UnfitGraph("can't be computed at '" + shown(node.name) + "': " + error.what());
            }
        }
        budget.release(node, known);
    }
    return known;
}

}  // namespace blastscope::wire
