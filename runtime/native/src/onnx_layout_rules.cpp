// What operators that move, take or repeat elements make of their inputs' shapes.
#include <algorithm>
#include <cmath>

#include "onnx_rules.h"

namespace blastscope::wire {
namespace {

Shape sides(std::vector<int64_t> found) {
    for (int64_t side : found)
        if (side < 0) throw CannotBe("a side is negative");
    return found;
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

Shapes squeeze(const Call& call) {
    const Shape& data = call.shape();
    std::set<size_t> gone;
    if (const auto axes = call.axes(1)) {
        gone = axes_of(*axes, data.size());
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

Shapes resize(const Call& call) {
    Shape data = call.shape();
    const std::vector<int64_t> axes = call.integers("axes", count_to(data.size()));
    std::vector<int64_t> wanted;
    const std::string policy = call.word("keep_aspect_ratio_policy", "stretch");
    if (call.has(3) && policy != "stretch")  // ONNX Runtime keeps the ratio, OpenVINO 2026.4 stretches
        throw CannotBe("engines differ in what '" + policy.substr(0, 40) + "' is: give it the sizes to stretch to");
    for (const char* name : {"antialias", "exclude_outside"})  // the weights that ONNX Runtime 1.32 takes and OpenVINO 2026.4 doesn't
        if (call.integer(name, 0)) throw CannotBe(std::string("engines differ in what ") + name + " is: leave it at 0");
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

Shapes gather_elements(const Call& call) { return {call.shape(1)}; }

Shapes blocks(const Call& call) {
    const Shape& data = call.shape();
    const int64_t size = call.integer("blocksize", 1);
    if (data.size() != 4 || size < 1 || size > 1 << 15) throw CannotBe("its blocks don't fit");
    if (call.node.kind == "DepthToSpace") return {{data[0], data[1] / (size * size), whole(times(data[2], size)), whole(times(data[3], size))}};
    return {{data[0], whole(times(data[1], Big(size) * size)), data[2] / size, data[3] / size}};
}

}  // namespace

Rules layout_rules() {
    return {{"Flatten", flatten}, {"Reshape", reshape}, {"Transpose", transpose}, {"Concat", concat}, {"Split", split}, {"Slice", slice},
            {"Gather", gather}, {"GatherElements", gather_elements}, {"Squeeze", squeeze}, {"Unsqueeze", unsqueeze},
            {"ConstantOfShape", of_shape}, {"Expand", expand}, {"Tile", tile}, {"Pad", pad}, {"Resize", resize},
            {"DepthToSpace", blocks}, {"SpaceToDepth", blocks}};
}

}  // namespace blastscope::wire
