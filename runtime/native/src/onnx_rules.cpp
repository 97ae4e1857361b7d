// What operators that compute make of their inputs' shapes, and the rule for each kind of operator.
#include "onnx_rules.h"

#include <algorithm>
#include <cmath>

namespace blastscope::wire {
namespace {

int64_t floor_div(int64_t one, int64_t other) { return one / other - ((one % other != 0) && ((one < 0) != (other < 0))); }

Shapes same(const Call& call) { return {call.shape()}; }

Shapes elementwise(const Call& call) {
    Shapes all;
    for (size_t number = 0; number < call.inputs.size(); number++) all.push_back(call.shape(number));
    if (all.empty()) throw CannotBe("it has no input");
    return {broadcast(all)};
}

// The spatial sides that a window leaves.
Shape window(const Call& call, const std::vector<int64_t>& kernel, bool round_up) {
    const Shape& data = call.shape();
    const size_t count = kernel.size();
    const auto strides = call.integers("strides", std::vector<int64_t>(count, 1)), dilations = call.integers("dilations", std::vector<int64_t>(count, 1));
    const auto pads = call.integers("pads", std::vector<int64_t>(2 * count, 0));
    bool fits = data.size() == count + 2 && strides.size() == count && dilations.size() == count && pads.size() == 2 * count && count > 0;
    for (const auto* all : {&strides, &dilations, &kernel})
        for (int64_t one : *all) fits = fits && bounded(one) >= 1;
    if (!fits) throw CannotBe("its window doesn't fit");
    for (int64_t pad : pads)
        if (pad < 0 || pad > 4096) throw CannotBe("its padding can't be");
    const std::string automatic = call.word("auto_pad", "NOTSET");
    const bool border_counts = call.integer("count_include_pad", 0) != 0;
    const bool padded = std::any_of(pads.begin(), pads.end(), [](int64_t pad) { return pad != 0; });
    Shape found;
    for (size_t place = 0; place < count; place++) {
        const int64_t side = data[place + 2], stride = strides[place];
        if (automatic == "SAME_UPPER" || automatic == "SAME_LOWER") {
            found.push_back(ceil_div(side, stride));
            continue;
        }
        const Big reach = Big(dilations[place]) * (kernel[place] - 1) + 1;
        const int64_t before = automatic == "VALID" ? 0 : pads[place], behind = automatic == "VALID" ? 0 : pads[place + count];
        const Big room = Big(side) - reach + before + behind;
        if (room < -(Big(1) << 40)) throw CannotBe("its window is larger than what it slides over");
        const auto space = static_cast<int64_t>(room);
        const int64_t windows = (round_up ? ceil_div(space, stride) : floor_div(space, stride)) + 1;
        const bool begins_behind = round_up && Big(windows - 1) * stride >= Big(side) + before;
        if (begins_behind)  // ONNX leaves it out, OpenVINO 2026.4 makes a maximum of nothing, and padding by Pad would add it
            throw CannotBe("engines differ in whether a window counts that begins behind the picture: give it another padding");
        if (border_counts && padded && Big(windows - 1) * stride > room)  // ONNX by what lies in picture and padding, OpenVINO 2026.4 by the kernel
            throw CannotBe("engines differ in what a window is divided by that ends behind its padding: pad by an operator Pad instead");
        found.push_back(windows);
    }
    for (int64_t side : found)
        if (side < 1) throw CannotBe("its window is larger than what it slides over");
    return found;
}

Shapes prelu(const Call& call) {
    const Shape &data = call.shape(), &slope = call.shape(1);
    if (data.size() > 2 && slope.size() == 1 && slope[0] != 1)  // ONNX means columns, OpenVINO 2026.4 channels where both are as many
        throw CannotBe("engines differ in the axis of a slope of one dimension: give it as many as the data has");
    return {broadcast({data, slope})};
}

Shapes group_normalization(const Call&) {
    // ONNX Runtime 1.32 takes the variance as the mean of squares less the square of the mean, which may be negative
    throw CannotBe("its variance may be all rounding: export it as InstanceNormalization between two Reshapes, as 'export' does");
}

Shape with_window(const Shape& data, int64_t channels, const Shape& inner) {
    Shape found = {data.at(0), channels};
    found.insert(found.end(), inner.begin(), inner.end());
    return found;
}

Shapes conv(const Call& call) {
    const Shape &data = call.shape(), &weight = call.shape(1);
    const int64_t groups = call.integer("group", 1);
    if (data.size() < 3 || weight.size() != data.size() || groups < 1 || Big(weight[1]) * groups != data[1] || weight[0] % groups != 0)
        throw CannotBe("weights " + shown(weight) + " don't fit " + shown(data));
    return {with_window(data, weight[0], window(call, {weight.begin() + 2, weight.end()}, false))};
}

Shapes pool(const Call& call) {
    const Shape& data = call.shape();
    if (data.size() < 2) throw CannotBe("it has too few dimensions");
    if (call.integer("count_include_pad", 0) != 0 && call.word("auto_pad", "NOTSET").rfind("SAME", 0) == 0)
        throw CannotBe("a border that counts must be given in numbers, not by auto_pad");  // int8 pads it by an operator
    return {with_window(data, data[1], window(call, call.integers("kernel_shape"), call.integer("ceil_mode", 0) != 0))};
}

Shapes global_pool(const Call& call) {
    const Shape& data = call.shape();
    if (data.size() < 2) return {data};
    return {with_window(data, data[1], Shape(data.size() - 2, 1))};
}

Shapes gemm(const Call& call) {
    Shape left = call.shape(), right = call.shape(1);
    if (left.size() != 2 || right.size() != 2) throw CannotBe("it takes matrices");
    if (call.integer("transA", 0)) std::swap(left[0], left[1]);
    if (call.integer("transB", 0)) std::swap(right[0], right[1]);
    if (left[1] != right[0]) throw CannotBe("matrices " + shown(call.shape()) + " and " + shown(call.shape(1)) + " don't go together");
    return {{left[0], right[1]}};
}

Shapes matmul(const Call& call) {
    const Shape &left = call.shape(), &right = call.shape(1);
    if (left.size() < 2 || right.size() < 2 || left.back() != right[right.size() - 2])
        throw CannotBe("matrices " + shown(left) + " and " + shown(right) + " don't go together");
    Shape found = broadcast({Shape(left.begin(), left.end() - 2), Shape(right.begin(), right.end() - 2)});
    found.push_back(left[left.size() - 2]);
    found.push_back(right.back());
    return {found};
}

Shape without(const Shape& data, const std::vector<int64_t>& axes, bool keep) {
    const std::set<size_t> gone = axes_of(axes, data.size());
    Shape found;
    for (size_t at = 0; at < data.size(); at++)
        if (keep || !gone.count(at)) found.push_back(gone.count(at) ? 1 : data[at]);
    return found;
}

Shapes shape(const Call& call) { return {{static_cast<int64_t>(told_shape(call).size())}}; }

Shapes constant(const Call& call) {
    if (call.node.attributes.size() != 1) throw CannotBe("it holds not one value");
    const auto& [name, value] = *call.node.attributes.begin();
    if (const auto* tensor = std::get_if<Tensor>(&value)) return {tensor->dims};
    if (name == "value_int" || name == "value_float") return {{}};
    if (const auto* whole_numbers = std::get_if<std::vector<int64_t>>(&value); whole_numbers && name == "value_ints")
        return {{static_cast<int64_t>(whole_numbers->size())}};
    if (const auto* singles = std::get_if<std::vector<float>>(&value); singles && name == "value_floats")
        return {{static_cast<int64_t>(singles->size())}};
    throw CannotBe("its " + name + " isn't read");
}

Shapes reduce(const Call& call) {
    const Shape& data = call.shape();
    std::vector<int64_t> axes = call.axes(1).value_or(std::vector<int64_t>{});
    const bool over_none = axes.empty() && call.integer("noop_with_empty_axes", 0) != 0;
    if (over_none && (call.node.kind == "ReduceL1" || call.node.kind == "ReduceL2"))  // ONNX takes absolute values, OpenVINO 2026.4 none
        throw CannotBe("engines differ in what a norm over no axes is: put an operator Abs in its place");
    if (axes.empty() && !over_none) axes = count_to(data.size());
    return {without(data, axes, call.integer("keepdims", 1) != 0)};
}

Shapes arg(const Call& call) { return {without(call.shape(), {call.integer("axis", 0)}, call.integer("keepdims", 1) != 0)}; }

Shapes range(const Call& call) {
    Number parts[3];
    for (size_t number = 0; number < 3; number++) {
        const std::vector<Number> found = call.reals(number);
        if (found.size() != 1) throw CannotBe("it takes single numbers");
        parts[number] = found[0];
    }
    const Number count = std::ceil((parts[1] - parts[0]) / parts[2]);
    if (parts[2] == 0 || !(std::fabs(count) < 1e15L)) throw CannotBe("it has no end");
    return {{std::max<int64_t>(0, static_cast<int64_t>(count))}};
}

std::string without_spaces(std::string text) {
    text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
    return text;
}

Shapes einsum(const Call& call) {
    const std::map<char, int64_t> all = einsum_sides(call);
    const std::string equation = without_spaces(call.word("equation"));
    const std::string output = equation.substr(equation.find("->") + 2);
    Shape found;
    for (char letter : output.substr(0, output.find("->"))) {
        const auto side = all.find(letter);
        if (side == all.end()) throw CannotBe("its output has a letter of its own");
        found.push_back(side->second);
    }
    return {found};
}

const Rules& rules() {
    static const std::map<std::string, Rule> all = [] {
        Rules found = layout_rules();
        found.insert({{"Conv", conv}, {"MaxPool", pool}, {"AveragePool", pool}, {"GlobalAveragePool", global_pool},
                      {"GlobalMaxPool", global_pool}, {"Gemm", gemm}, {"MatMul", matmul}, {"Einsum", einsum}, {"Shape", shape},
                      {"Constant", constant}, {"ArgMax", arg}, {"ArgMin", arg}, {"Range", range}, {"PRelu", prelu},
                      {"GroupNormalization", group_normalization}});
        for (const char* kind : {"Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softmax", "LogSoftmax", "Sqrt", "Abs", "Neg",
                                 "Exp", "Log", "Erf", "Floor", "Ceil", "Round", "Reciprocal", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus",
                                 "Softsign", "Mish", "Gelu", "Not", "Sign", "Sin", "Cos", "ThresholdedRelu", "Identity", "Dropout", "Cast",
                                 "QuantizeLinear", "DequantizeLinear", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
                                 "LRN", "CumSum", "IsNaN", "IsInf", "Trilu", "LpNormalization"})
            found[kind] = same;
        for (const char* kind : {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "And", "Or", "Xor", "Equal", "Greater",
                                 "Less", "GreaterOrEqual", "LessOrEqual", "Where"})
            found[kind] = elementwise;
        for (const char* kind : {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                                 "ReduceLogSumExp"})
            found[kind] = reduce;
        return found;
    }();
    return all;
}

}  // namespace

int64_t ceil_div(int64_t one, int64_t other) { return -floor_div(-one, other); }

int64_t bounded(int64_t value) {
    if (std::abs(std::max(value, -INT64_MAX)) > int64_t(1) << 40) throw CannotBe("a number in it can't be");
    return value;
}

std::set<size_t> axes_of(const std::vector<int64_t>& axes, size_t rank) {
    std::set<size_t> found;
    for (int64_t axis : axes) found.insert(axis_of(axis, rank));
    return found;
}

std::map<char, int64_t> einsum_sides(const Call& call) {
    const std::string equation = without_spaces(call.word("equation"));
    const size_t arrow = equation.find("->");
    std::map<char, int64_t> found;
    size_t number = 0;
    const std::string left = equation.substr(0, arrow);
    for (size_t start = 0;; number++) {
        const size_t end = std::min(left.find(',', start), left.size());
        const std::string letters = left.substr(start, end - start);
        const Shape& data = call.shape(number);
        if (letters.size() != data.size()) throw CannotBe("its equation doesn't fit");
        for (size_t at = 0; at < letters.size(); at++) {
            const bool letter = (letters[at] >= 'a' && letters[at] <= 'z') || (letters[at] >= 'A' && letters[at] <= 'Z');
            if (!letter || found.emplace(letters[at], data[at]).first->second != data[at]) throw CannotBe("its equation doesn't fit");
        }
        if (end == left.size()) break;
        start = end + 1;
    }
    if (arrow == std::string::npos) throw CannotBe("its equation names no output");
    return found;
}

std::vector<Shape> shapes_of(const Call& call) {
    const auto rule = rules().find(call.node.kind);
    const std::string where = "'" + shown(call.node.name) + "' (" + shown(call.node.kind, 40) + ")";
    if (rule == rules().end()) throw UnfitGraph("has the operator " + where + ", which no exported network has");
    std::vector<Shape> found;
    try {
        found = rule->second(call);
    } catch (const CannotBe& error) {
        throw UnfitGraph("can't be computed at " + where + ": " + error.what());
    } catch (const std::out_of_range&) {
        throw UnfitGraph("can't be computed at " + where + ": an axis is missing");
    }
    const auto named = std::count_if(call.node.outputs.begin(), call.node.outputs.end(), [](const std::string& name) { return !name.empty(); });
    if (static_cast<ptrdiff_t>(found.size()) != named)
        throw UnfitGraph("takes " + std::to_string(call.node.outputs.size()) + " outputs of " + where);
    for (const Shape& one : found)
        if (one.size() > RANK_LIMIT || std::any_of(one.begin(), one.end(), [](int64_t side) { return side >= int64_t(1) << 31; }))
            throw UnfitGraph("gives " + where + " more dimensions, or larger ones, than a network has");
    return found;
}

}  // namespace blastscope::wire
