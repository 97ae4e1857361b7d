// What ONNX's operators make of their inputs' shapes: the rules of runtime/bundle/graphs/shape_rules.py.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "onnx_call.h"

namespace blastscope::wire {
namespace {

using Shapes = std::vector<Shape>;
using Rule = Shapes (*)(const Call&);

int64_t floor_div(int64_t one, int64_t other) { return one / other - ((one % other != 0) && ((one < 0) != (other < 0))); }
int64_t ceil_div(int64_t one, int64_t other) { return -floor_div(-one, other); }

Shape sides(std::vector<int64_t> found) {
    for (int64_t side : found)
        if (side < 0) throw CannotBe("a side is negative");
    return found;
}

int64_t bounded(int64_t value) {  // what may be added up and multiplied without a care
    if (std::abs(std::max(value, -INT64_MAX)) > int64_t(1) << 40) throw CannotBe("a number in it can't be");
    return value;
}

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

int64_t whole(Big count) {
    if (count >= Big(1) << 62) throw CannotBe("it has too many elements");
    return static_cast<int64_t>(count);
}

Shapes flatten(const Call& call) {
    const Shape& data = call.shape();
    int64_t axis = call.integer("axis", 1);
    if (axis < 0) axis += static_cast<int64_t>(data.size());
    if (axis < 0 || axis > static_cast<int64_t>(data.size())) throw CannotBe("it has no axis " + std::to_string(axis));
    return {{whole(product(Shape(data.begin(), data.begin() + axis))), whole(product(Shape(data.begin() + axis, data.end())))}};
}

Shapes reshape(const Call& call) {
    const Shape& data = call.shape();
    std::vector<int64_t> wanted = call.numbers(1);
    if (!call.integer("allowzero", 0))
        for (size_t place = 0; place < wanted.size(); place++)
            if (wanted[place] == 0) wanted[place] = data.at(place);
    Big known = 1;
    auto open = wanted.end();
    for (auto side = wanted.begin(); side != wanted.end(); ++side) {
        if (*side < -1) throw CannotBe("a side is negative");
        if (*side != -1) known = times(known, *side);
        else if (open == wanted.end()) open = side;
    }
    const Big all = product(data);
    if (open != wanted.end() && known) *open = whole(all / known);
    for (int64_t side : wanted)
        if (side < 0) throw CannotBe(shown(data) + " has no such shape");
    if (product(wanted) != all || all >= BIG) throw CannotBe(shown(data) + " has no shape " + shown(wanted));
    return {wanted};
}

Shapes transpose(const Call& call) {
    const Shape& data = call.shape();
    std::vector<int64_t> backwards = count_to(data.size());
    std::reverse(backwards.begin(), backwards.end());
    const std::vector<int64_t> order = call.integers("perm", backwards);
    std::vector<int64_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    if (sorted != count_to(data.size())) throw CannotBe("its axes can't be put so");
    Shape found;
    for (int64_t axis : order) found.push_back(data[static_cast<size_t>(axis)]);
    return {found};
}

Shapes concat(const Call& call) {
    Shapes parts;
    for (size_t number = 0; number < call.inputs.size(); number++) parts.push_back(call.shape(number));
    if (parts.empty()) throw CannotBe("it has no parts");
    const size_t axis = axis_of(call.integer("axis", 0), parts[0].size());
    int64_t total = 0;
    for (const Shape& part : parts) total += part.at(axis);
    for (Shape& part : parts) part[axis] = total;
    for (const Shape& part : parts)
        if (part != parts[0]) throw CannotBe("its parts don't fit each other");
    return {parts[0]};
}

Shapes split(const Call& call) {
    const Shape& data = call.shape();
    const auto count = static_cast<int64_t>(call.node.outputs.size());
    const size_t axis = axis_of(call.integer("axis", 0), data.size());
    if (count == 0) throw CannotBe("it has no outputs");
    std::vector<int64_t> sizes;
    if (call.has(1)) {
        sizes = call.numbers(1);
    } else {
        const int64_t part = ceil_div(data[axis], count);
        for (int64_t place = 0; place < count; place++) sizes.push_back(std::min(part, data[axis] - part * place));
    }
    Big total = 0;
    for (int64_t size : sizes) {
        if (size < 0) throw CannotBe("its parts don't make the whole");
        total += size;
    }
    if (total != data[axis] || static_cast<int64_t>(sizes.size()) != count) throw CannotBe("its parts don't make the whole");
    Shapes found(sizes.size(), data);
    for (size_t place = 0; place < sizes.size(); place++) found[place][axis] = sizes[place];
    return found;
}

Shapes slice(const Call& call) {
    Shape found;
    for (const Part& part : sliced(call)) found.push_back(part.count);
    return {found};
}

Shapes gather(const Call& call) {
    const Shape &data = call.shape(), &places = call.shape(1);
    const size_t axis = axis_of(call.integer("axis", 0), data.size());
    Shape found(data.begin(), data.begin() + static_cast<ptrdiff_t>(axis));
    found.insert(found.end(), places.begin(), places.end());
    found.insert(found.end(), data.begin() + static_cast<ptrdiff_t>(axis) + 1, data.end());
    return {found};
}

std::set<size_t> gone_of(const std::vector<int64_t>& axes, size_t rank) {
    std::set<size_t> gone;
    for (int64_t axis : axes) gone.insert(axis_of(axis, rank));
    return gone;
}

Shape without(const Shape& data, const std::vector<int64_t>& axes, bool keep) {
    const std::set<size_t> gone = gone_of(axes, data.size());
    Shape found;
    for (size_t at = 0; at < data.size(); at++)
        if (keep || !gone.count(at)) found.push_back(gone.count(at) ? 1 : data[at]);
    return found;
}

Shapes squeeze(const Call& call) {
    const Shape& data = call.shape();
    std::set<size_t> gone;
    if (const auto axes = call.axes(1)) {
        gone = gone_of(*axes, data.size());
    } else {
        for (size_t at = 0; at < data.size(); at++)
            if (data[at] == 1) gone.insert(at);
    }
    Shape found;
    for (size_t at = 0; at < data.size(); at++) {
        if (!gone.count(at)) found.push_back(data[at]);
        else if (data[at] != 1) throw CannotBe("it would lose elements");
    }
    return {found};
}

Shapes unsqueeze(const Call& call) {
    Shape found = call.shape();
    const std::vector<int64_t> axes = call.axes(1).value_or(std::vector<int64_t>{});
    std::vector<size_t> places;
    for (int64_t axis : axes) places.push_back(axis_of(axis, found.size() + axes.size()));
    std::sort(places.begin(), places.end());
    for (size_t place : places) found.insert(found.begin() + static_cast<ptrdiff_t>(std::min(place, found.size())), 1);
    return {found};
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

Shapes of_shape(const Call& call) { return {sides(call.numbers(0))}; }
Shapes expand(const Call& call) { return {broadcast({call.shape(), sides(call.numbers(1))})}; }

Shapes tile(const Call& call) {
    Shape found = call.shape();
    const Shape counts = sides(call.numbers(1));
    if (counts.size() != found.size()) throw CannotBe("its repeats don't fit");
    for (size_t at = 0; at < found.size(); at++) found[at] = whole(times(found[at], counts[at]));
    return {found};
}

Shapes pad(const Call& call) {
    Shape found = call.shape();
    const std::vector<int64_t> pads = call.numbers(1), axes = call.has(3) ? call.numbers(3) : count_to(found.size());
    if (pads.size() != 2 * axes.size()) throw CannotBe("its padding doesn't fit");
    for (size_t place = 0; place < axes.size(); place++)
        found[axis_of(axes[place], found.size())] += bounded(pads[place]) + bounded(pads[place + axes.size()]);
    return {sides(found)};
}

Shapes reduce(const Call& call) {
    const Shape& data = call.shape();
    std::vector<int64_t> axes = call.axes(1).value_or(std::vector<int64_t>{});
    if (axes.empty() && !call.integer("noop_with_empty_axes", 0)) axes = count_to(data.size());
    return {without(data, axes, call.integer("keepdims", 1) != 0)};
}

Shapes arg(const Call& call) { return {without(call.shape(), {call.integer("axis", 0)}, call.integer("keepdims", 1) != 0)}; }

Shapes resize(const Call& call) {
    Shape data = call.shape();
    const std::vector<int64_t> axes = call.integers("axes", count_to(data.size()));
    std::vector<int64_t> wanted;
    const std::string policy = call.word("keep_aspect_ratio_policy", "stretch");
    if (call.has(3) && policy != "stretch")  // ONNX Runtime keeps the ratio, OpenVINO 2026.4 stretches
        throw CannotBe("engines differ in what '" + policy.substr(0, 40) + "' is: give it the sizes to stretch to");
    if (call.has(3)) {
        wanted = call.numbers(3);
    } else {
        const std::vector<Number> scales = call.reals(2);
        if (scales.size() != axes.size()) throw CannotBe("its scales don't fit");
        for (size_t place = 0; place < axes.size(); place++) {
            const Number side = std::floor(static_cast<double>(data.at(axis_of(axes[place], data.size()))) * static_cast<double>(scales[place]));
            if (!(std::fabs(side) < 1e15L)) throw CannotBe("its scales can't be");
            wanted.push_back(static_cast<int64_t>(side));
        }
    }
    if (wanted.size() != axes.size()) throw CannotBe("its sizes don't fit");
    for (size_t place = 0; place < axes.size(); place++) data[axis_of(axes[place], data.size())] = wanted[place];
    return {sides(data)};
}

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

Shapes gather_elements(const Call& call) { return {call.shape(1)}; }

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

Shapes blocks(const Call& call) {
    const Shape& data = call.shape();
    const int64_t size = call.integer("blocksize", 1);
    if (data.size() != 4 || size < 1 || size > 1 << 15) throw CannotBe("its blocks don't fit");
    if (call.node.kind == "DepthToSpace") return {{data[0], data[1] / (size * size), whole(times(data[2], size)), whole(times(data[3], size))}};
    return {{data[0], whole(times(data[1], Big(size) * size)), data[2] / size, data[3] / size}};
}

const std::map<std::string, Rule>& rules() {
    static const std::map<std::string, Rule> all = [] {
        std::map<std::string, Rule> found = {
            {"Conv", conv}, {"MaxPool", pool}, {"AveragePool", pool}, {"GlobalAveragePool", global_pool}, {"GlobalMaxPool", global_pool},
            {"Gemm", gemm}, {"MatMul", matmul}, {"Einsum", einsum}, {"Flatten", flatten}, {"Reshape", reshape}, {"Transpose", transpose},
            {"Concat", concat}, {"Split", split}, {"Slice", slice}, {"Gather", gather}, {"GatherElements", gather_elements},
            {"Squeeze", squeeze}, {"Unsqueeze", unsqueeze}, {"Shape", shape}, {"Constant", constant}, {"ConstantOfShape", of_shape},
            {"Expand", expand}, {"Tile", tile}, {"Pad", pad}, {"ArgMax", arg}, {"ArgMin", arg}, {"Resize", resize}, {"Range", range},
            {"DepthToSpace", blocks}, {"SpaceToDepth", blocks}, {"PRelu", prelu}, {"GroupNormalization", group_normalization}};
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
