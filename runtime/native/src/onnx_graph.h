// OnnxGraph: the graph of an ONNX model with the maker and the readers of each value, to be changed in place.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "onnx_subset.pb.h"

namespace blastscope {

enum OnnxType { ONNX_FLOAT = 1, ONNX_UINT8 = 2, ONNX_INT8 = 3, ONNX_INT64 = 7 };

class OnnxGraph {
public:
    explicit OnnxGraph(onnx::Model& model);

    onnx::Graph& graph;
    std::vector<onnx::Node*> nodes;  // as they were when it was read
    std::map<std::string, const onnx::Tensor*> constants;
    std::map<std::string, onnx::Node*> maker;
    std::map<std::string, std::vector<onnx::Node*>> readers;
    std::set<std::string> results;

    // Whether all constants are in the file, and no graphs within read values unseen.
    bool self_contained() const;
    // The numbers of a constant of that type; nothing where there is none, or another one.
    std::optional<std::vector<double>> array(const std::string& name, OnnxType type) const;
    std::optional<double> scalar(const std::string& name, OnnxType type) const;
    // The name of a constant with that value, which is added where it was not yet.
    std::string constant(double value, OnnxType type);
    std::string add_constant(const std::vector<int64_t>& values);
    // Puts an operator of one output before `reader`, and gives the output's name.
    std::string insert_before(const onnx::Node* reader, const std::string& kind, const std::vector<std::string>& inputs);
    void drop(const std::set<std::string>& outputs);  // takes away the operators that give these

private:
    std::string fresh(const std::string& what);

    int numbers_ = 0;
    std::map<std::pair<double, int>, std::string> added_;
};

const onnx::Attribute* attribute_of(const onnx::Node& node, const std::string& name);
// The whole number or numbers in an attribute; none where it is missing.
std::vector<int64_t> whole_numbers(const onnx::Node& node, const std::string& name);
std::string input_of(const onnx::Node& node, int place);  // "" where there is none

}  // namespace blastscope
