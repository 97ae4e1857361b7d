// An operator, and what is known of its inputs before the graph runs.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "onnx_wire.h"

namespace blastscope::wire {

constexpr int64_t FOLDED = 4096;  // elements of the largest array that is followed by its numbers

class CannotBe : public std::runtime_error {  // why an operator can't be computed
public:
    using std::runtime_error::runtime_error;
};

struct Known {  // what is known of a tensor before the graph runs
    Shape shape;
    std::optional<std::vector<Number>> values;  // its numbers, where it is small and depends on no crop
    bool fixed = false;                         // depends on no crop: libraries compute it at loading
    int type = UNKNOWN;     // where it can be told without its numbers
    int numbers = UNKNOWN;  // the type of `values`
    Big size() const { return product(shape); }
};

struct Call {
    const Node& node;
    std::vector<const Known*> inputs;  // none: the input is left out
    int64_t opset;

    const Known& given(size_t number) const;
    const Shape& shape(size_t number = 0) const { return given(number).shape; }
    bool has(size_t number) const { return number < inputs.size() && inputs[number] != nullptr; }
    std::vector<Number> reals(size_t number) const;      // numbers in an input that a shape depends on
    std::vector<int64_t> numbers(size_t number) const;   // the same, whole
    int64_t integer(const std::string& name, int64_t missing) const;
    std::vector<int64_t> integers(const std::string& name, std::vector<int64_t> missing = {}) const;
    std::string word(const std::string& name, const std::string& missing = "") const;
    std::optional<std::vector<int64_t>> axes(size_t number) const;  // from an input, or from the attribute
};

size_t axis_of(int64_t axis, size_t rank);  // counted from the front
std::vector<int64_t> count_to(size_t count);
Shape broadcast(const std::vector<Shape>& shapes);
Shape told_shape(const Call& call);         // the sides that `Shape` tells

struct Part {  // which part of an axis `Slice` takes
    int64_t start = 0, step = 1, count = 0;
};
std::vector<Part> sliced(const Call& call);

std::map<char, int64_t> einsum_sides(const Call& call);  // the side of each letter in the equation
// The shapes of the operator's outputs. Throws UnfitGraph.
std::vector<Shape> shapes_of(const Call& call);
// The numbers that the operator gives, of this shape; nothing where they aren't followed. Throws UnfitGraph.
std::optional<std::vector<Number>> fold(const Call& call, const Shape& shape);
Number rounded(Number value, int type);     // as the type holds it

// What is known of every tensor for two crops. Throws UnfitGraph where it would take too much memory or time.
std::map<std::string, Known> check_limits(const Graph& graph);
constexpr int64_t BATCH = 2;  // with one crop a batch that is written into the graph would pass for a free one

}  // namespace blastscope::wire
