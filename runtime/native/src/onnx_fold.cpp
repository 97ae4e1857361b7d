// The numbers that shapes depend on, followed through a graph, as runtime/bundle/graphs/limits.py follows them.
#include <algorithm>
#include <cmath>

#include "onnx_call.h"

namespace blastscope::wire {
namespace {

using Numbers = std::vector<Number>;
using Maybe = std::optional<Numbers>;

bool is_whole(int type) { return type == UINT8 || type == INT8 || type == INT32 || type == INT64 || type == BOOL; }

// Where element `index` of `shape` lies in an array of shape `own` that is broadcast to it.
size_t broadcast_place(size_t index, const Shape& shape, const Shape& own) {
    size_t place = 0, step = 1;
    for (size_t back = 1; back <= own.size(); back++) {
        const auto side = static_cast<size_t>(shape[shape.size() - back]), ours = static_cast<size_t>(own[own.size() - back]);
        if (ours != 1) place += index % side * step;
        step *= ours;
        index /= side;
    }
    return place;
}

Number computed(const std::string& kind, const Number* values, bool whole) {
    const Number a = values[0], b = values[1];
    if (kind == "Add") return a + b;
    if (kind == "Sub") return a - b;
    if (kind == "Mul") return a * b;
    if (kind == "Div") return whole ? (b == 0 ? static_cast<Number>(INT64_MIN) : std::trunc(static_cast<double>(a) / static_cast<double>(b))) : a / b;
    if (kind == "Mod") return b == 0 ? 0 : a - b * std::floor(a / b);
    if (kind == "Neg") return -a;
    if (kind == "Not") return a == 0;
    if (kind == "Floor") return std::floor(a);
    if (kind == "Ceil") return std::ceil(a);
    if (kind == "Sqrt") return std::sqrt(a);
    if (kind == "Equal") return a == b;
    if (kind == "Greater") return a > b;
    if (kind == "Less") return a < b;
    if (kind == "Where") return a != 0 ? b : values[2];
    if (kind == "Min") return std::isnan(a) || std::isnan(b) ? NAN : std::min(a, b);
    if (kind == "Max") return std::isnan(a) || std::isnan(b) ? NAN : std::max(a, b);
    if (kind == "And") return a != 0 && b != 0;
    if (kind == "Or") return a != 0 || b != 0;
    return a;  // Identity
}

size_t operands(const std::string& kind) {
    static const std::set<std::string> one = {"Neg", "Not", "Floor", "Ceil", "Sqrt", "Identity"},
                                       two = {"Add", "Sub", "Mul", "Div", "Mod", "Equal", "Greater", "Less", "Min", "Max", "And", "Or"};
    return one.count(kind) ? 1 : two.count(kind) ? 2 : kind == "Where" ? 3 : 0;
}

Maybe arithmetic(const Call& call, const Shape& shape) {
    const size_t count = call.inputs.size(), wanted = operands(call.node.kind);
    if (count > 3) return std::nullopt;
    if (count != wanted) throw CannotBe("it has " + std::to_string(count) + " inputs");
    const std::string& kind = call.node.kind;
    const int first = call.inputs[kind == "Where" ? 1 : 0]->numbers, second = call.inputs[count - 1]->numbers;
    const int type = is_whole(first) && !is_whole(second) ? second : first;
    static const std::set<std::string> comparing = {"Not", "Equal", "Greater", "Less", "And", "Or"};
    Numbers found(static_cast<size_t>(product(shape)));
    for (size_t index = 0; index < found.size(); index++) {
        Number values[3] = {};
        for (size_t place = 0; place < count; place++)
            values[place] = call.inputs[place]->values->at(broadcast_place(index, shape, call.inputs[place]->shape));
        found[index] = rounded(computed(kind, values, is_whole(type)), comparing.count(kind) ? BOOL : type);
    }
    return found;
}

Numbers strides_of(const Shape& shape) {
    Numbers found(shape.size(), 1);
    for (size_t axis = shape.size(); axis-- > 1;) found[axis - 1] = found[axis] * static_cast<Number>(shape[axis]);
    return found;
}

// An array of `shape` whose element at each place is that of `source` at `where(place)`.
template <class Where>
Numbers picked(const Shape& shape, const Numbers& source, Where where) {
    Numbers found(static_cast<size_t>(product(shape)));
    std::vector<int64_t> place(shape.size(), 0);
    for (Number& one : found) {
        one = source.at(where(place));
        for (size_t axis = shape.size(); axis-- > 0;) {
            if (++place[axis] < shape[axis]) break;
            place[axis] = 0;
        }
    }
    return found;
}

Numbers concatenated(const Call& call, const Shape& shape) {
    const size_t axis = axis_of(call.integer("axis", 0), shape.size());
    Numbers found(static_cast<size_t>(product(shape)));
    size_t outer = 1, inner = 1, at = 0;
    for (size_t i = 0; i < axis; i++) outer *= static_cast<size_t>(shape[i]);
    for (size_t i = axis + 1; i < shape.size(); i++) inner *= static_cast<size_t>(shape[i]);
    const size_t row = static_cast<size_t>(shape[axis]) * inner;
    for (const Known* part : call.inputs) {
        const size_t width = static_cast<size_t>(part->shape.at(axis)) * inner;
        for (size_t i = 0; i < outer; i++)
            std::copy_n(part->values->begin() + static_cast<ptrdiff_t>(i * width), width, found.begin() + static_cast<ptrdiff_t>(i * row + at));
        at += width;
    }
    return found;
}

Numbers gathered(const Call& call, const Shape& shape) {
    const Known &data = *call.inputs[0], &places = *call.inputs.at(1);
    const size_t axis = axis_of(call.integer("axis", 0), data.shape.size()), rank = places.shape.size();
    const Numbers steps = strides_of(data.shape), own = strides_of(places.shape);
    return picked(shape, *data.values, [&](const std::vector<int64_t>& place) {
        Number at = 0, which = 0;
        for (size_t i = 0; i < axis; i++) at += steps[i] * static_cast<Number>(place[i]);
        for (size_t i = 0; i < rank; i++) which += own[i] * static_cast<Number>(place[axis + i]);
        Number index = std::trunc(places.values->at(static_cast<size_t>(which)));
        if (index < 0) index += static_cast<Number>(data.shape[axis]);
        if (!(index >= 0 && index < static_cast<Number>(data.shape[axis]))) throw CannotBe("it reaches outside of its data");
        at += steps[axis] * index;
        for (size_t i = axis + 1; i < data.shape.size(); i++) at += steps[i] * static_cast<Number>(place[i - 1 + rank]);
        return static_cast<size_t>(at);
    });
}

Numbers cut(const Call& call, const Shape& shape) {
    const std::vector<Part> parts = sliced(call);
    const Numbers steps = strides_of(call.inputs[0]->shape);
    return picked(shape, *call.inputs[0]->values, [&](const std::vector<int64_t>& place) {
        Number at = 0;
        for (size_t i = 0; i < parts.size(); i++) at += steps[i] * static_cast<Number>(parts[i].start + place[i] * parts[i].step);
        return static_cast<size_t>(at);
    });
}

Numbers transposed(const Call& call, const Shape& shape) {
    std::vector<int64_t> order = count_to(shape.size());
    std::reverse(order.begin(), order.end());
    order = call.integers("perm", order);
    const Numbers steps = strides_of(call.inputs[0]->shape);
    return picked(shape, *call.inputs[0]->values, [&](const std::vector<int64_t>& place) {
        Number at = 0;
        for (size_t i = 0; i < place.size(); i++) at += steps[static_cast<size_t>(order[i])] * static_cast<Number>(place[i]);
        return static_cast<size_t>(at);
    });
}

Numbers filled(const Call& call, const Shape& shape) {
    const auto found = call.node.attributes.find("value");
    Number value = 0;
    if (found != call.node.attributes.end())
        if (const auto* tensor = std::get_if<Tensor>(&found->second)) value = tensor->values().at(0);
    return Numbers(static_cast<size_t>(product(shape)), value);
}

Maybe constant(const Node& node) {
    const Attribute& value = node.attributes.begin()->second;
    if (const auto* tensor = std::get_if<Tensor>(&value)) return tensor->size() <= FOLDED ? Maybe(tensor->values()) : std::nullopt;
    if (const auto* one = std::get_if<int64_t>(&value)) return Numbers{static_cast<Number>(*one)};
    if (const auto* one = std::get_if<float>(&value)) return Numbers{*one};
    if (const auto* all = std::get_if<std::vector<int64_t>>(&value)) return Numbers(all->begin(), all->end());
    if (const auto* all = std::get_if<std::vector<float>>(&value)) return Numbers(all->begin(), all->end());
    return std::nullopt;
}

Maybe result(const Call& call, const Shape& shape) {
    const std::string& kind = call.node.kind;
    if (operands(kind) > 0) return arithmetic(call, shape);
    const Known& first = *call.inputs.at(0);
    if (kind == "Reshape" || kind == "Squeeze" || kind == "Unsqueeze" || kind == "Flatten") return first.values;
    if (kind == "Cast") {
        const auto to = static_cast<int>(call.integer("to", 0));
        if (size_of(to) == 0) return std::nullopt;
        Numbers found = *first.values;
        for (Number& one : found) one = rounded(is_whole(to) && to != BOOL ? std::trunc(one) : one, to);
        return found;
    }
    if (kind == "Concat") return concatenated(call, shape);
    if (kind == "Gather") return gathered(call, shape);
    if (kind == "Slice") return cut(call, shape);
    if (kind == "Transpose") return transposed(call, shape);
    if (kind == "ReduceProd") {
        if (product(shape) != 1) return std::nullopt;
        Number all = 1;
        for (Number one : *first.values) all = rounded(all * one, first.numbers);
        return Numbers{all};
    }
    if (kind == "Expand") {
        Numbers found(static_cast<size_t>(product(shape)));
        for (size_t index = 0; index < found.size(); index++) found[index] = first.values->at(broadcast_place(index, shape, first.shape));
        return found;
    }
    if (kind == "Range") {
        Numbers found(static_cast<size_t>(product(shape)));
        for (size_t index = 0; index < found.size(); index++)
            found[index] = rounded(first.values->at(0) + static_cast<Number>(index) * call.inputs.at(2)->values->at(0), first.numbers);
        return found;
    }
    if (kind == "ConstantOfShape") return filled(call, shape);
    return std::nullopt;
}

}  // namespace

Number rounded(Number value, int type) {
    if (type == FLOAT || type == FLOAT16) return static_cast<float>(value);
    if (type == DOUBLE) return static_cast<double>(value);
    if (type == BOOL) return value != 0;
    if (!is_whole(type)) return value;
    if (!(std::fabs(value) < 0x1p100L)) return type == INT64 ? static_cast<Number>(INT64_MIN) : 0;
    const auto bits = static_cast<uint64_t>(static_cast<__int128>(value));
    switch (type) {
        case UINT8: return static_cast<uint8_t>(bits);
        case INT8: return static_cast<int8_t>(bits);
        case INT32: return static_cast<int32_t>(bits);
        default: return static_cast<Number>(static_cast<int64_t>(bits));
    }
}

std::optional<std::vector<Number>> fold(const Call& call, const Shape& shape) {
    if (product(shape) > FOLDED) return std::nullopt;
    const std::string where = "can't be computed at '" + shown(call.node.name) + "': ";
    try {
        if (call.node.kind == "Shape") {
            const Shape told = told_shape(call);
            return Numbers(told.begin(), told.end());
        }
        if (call.node.kind == "Constant") return constant(call.node);
        for (const Known* one : call.inputs)
            if (one == nullptr || !one->values) return std::nullopt;
        if (call.inputs.empty()) return std::nullopt;
        Maybe found = result(call, shape);
        if (found && static_cast<Big>(found->size()) != product(shape)) throw CannotBe("it gives another number of elements");
        return found;
    } catch (const CannotBe& error) {
        throw UnfitGraph(where + error.what());
    } catch (const std::out_of_range&) {
        throw UnfitGraph(where + "it reaches outside of its data");
    }
}

}  // namespace blastscope::wire
