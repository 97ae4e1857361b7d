// The graph in an ONNX file, parsed strictly: what isn't known is refused, and no library of protocol buffers sees it.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace blastscope {

class UnfitGraph : public std::runtime_error {  // why a graph isn't given to a library
public:
    using std::runtime_error::runtime_error;
};

namespace wire {

// ONNX's numbers of the types
enum Type { UNKNOWN = 0, FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, BOOL = 9, FLOAT16 = 10, DOUBLE = 11 };

using Number = long double;  // holds every int64 and every double
using Shape = std::vector<int64_t>;
using Big = __int128;  // of counts: products stop at BIG

constexpr Big BIG = static_cast<Big>(1) << 100;
constexpr size_t RANK_LIMIT = 8;

Big product(const Shape& shape);
Big times(Big one, Big other);    // of numbers that are not negative
size_t size_of(int type);         // bytes; 0: no graph has it
std::string shown(const std::string& name, size_t most = 80);
std::string shown(const Shape& shape);

struct Tensor {  // an initialiser, or a constant in an attribute
    Shape dims;
    int type = UNKNOWN;
    const char* raw = nullptr;  // in the file; none: the elements stand in `numbers`
    std::vector<Number> numbers;

    Big size() const { return product(dims); }
    std::vector<Number> values() const;
};

using Attribute = std::variant<int64_t, float, std::string, Tensor, std::vector<int64_t>, std::vector<float>>;

struct Node {  // one operator
    std::string name, kind;
    std::vector<std::string> inputs, outputs;
    std::map<std::string, Attribute> attributes;
};

struct Value {  // an input or output of the graph, as it is declared; -1: a side that is free
    std::string name;
    int64_t type = UNKNOWN;
    Shape dims;
};

struct Graph {
    int64_t opset = 0;
    std::vector<Node> nodes;
    std::map<std::string, Tensor> tensors;
    std::vector<Value> inputs, outputs;
};

// The graph in the bytes of an ONNX file, which must outlive it. Throws UnfitGraph.
Graph parse(const std::string& content);

}  // namespace wire
}  // namespace blastscope
