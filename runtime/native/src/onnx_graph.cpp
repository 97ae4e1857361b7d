#include "onnx_graph.h"

#include <cmath>
#include <cstring>

namespace blastscope {
namespace {

size_t size_of(OnnxType type) { return type == ONNX_FLOAT ? 4 : type == ONNX_INT64 ? 8 : 1; }

double value_at(const std::string& raw, size_t place, OnnxType type) {
    const char* at = raw.data() + place * size_of(type);
    if (type == ONNX_FLOAT) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    if (type == ONNX_INT64) {
        int64_t value;
        std::memcpy(&value, at, 8);
        return static_cast<double>(value);
    }
    return type == ONNX_INT8 ? static_cast<double>(static_cast<int8_t>(*at)) : static_cast<double>(static_cast<uint8_t>(*at));
}

}  // namespace

OnnxGraph::OnnxGraph(onnx::Model& model) : graph(*model.mutable_graph()) {
    for (const onnx::Tensor& tensor : graph.initializer()) constants[tensor.name()] = &tensor;
    for (onnx::Node& node : *graph.mutable_node()) {
        nodes.push_back(&node);
        for (const std::string& name : node.output()) maker[name] = &node;
        for (const std::string& name : std::set<std::string>(node.input().begin(), node.input().end())) readers[name].push_back(&node);
        if (node.op_type() == "Constant" && node.output_size() > 0)
            if (const onnx::Attribute* value = attribute_of(node, "value")) constants[node.output(0)] = &value->t();
    }
    for (const onnx::ValueInfo& value : graph.output()) results.insert(value.name());
}

bool OnnxGraph::self_contained() const {
    for (const onnx::Node* node : nodes)
        for (const onnx::Attribute& attribute : node->attribute())
            if (attribute.type() == 5 || attribute.type() == 10) return false;  // a graph, or several
    for (const auto& [name, tensor] : constants)
        if (tensor->data_location() == 1) return false;  // in another file
    return true;
}

std::optional<std::vector<double>> OnnxGraph::array(const std::string& name, OnnxType type) const {
    const auto found = constants.find(name);
    if (found == constants.end() || found->second->data_type() != type) return std::nullopt;
    const onnx::Tensor& tensor = *found->second;
    std::vector<double> values;
    if (!tensor.raw_data().empty()) {
        values.resize(tensor.raw_data().size() / size_of(type));
        for (size_t place = 0; place < values.size(); place++) values[place] = value_at(tensor.raw_data(), place, type);
    } else if (type == ONNX_FLOAT) {
        values.assign(tensor.float_data().begin(), tensor.float_data().end());
    } else {
        values.assign(tensor.int32_data().begin(), tensor.int32_data().end());
    }
    double count = 1;
    for (int64_t side : tensor.dims()) count *= static_cast<double>(side);
    if (static_cast<double>(values.size()) != count) return std::nullopt;
    return values;
}

std::optional<double> OnnxGraph::scalar(const std::string& name, OnnxType type) const {
    const auto found = constants.find(name);
    if (found == constants.end()) return std::nullopt;
    double count = 1;  // looked at first: large weights aren't read for this
    for (int64_t side : found->second->dims()) count *= static_cast<double>(side);
    if (count != 1) return std::nullopt;
    const auto values = array(name, type);
    return values && values->size() == 1 ? std::optional((*values)[0]) : std::nullopt;
}

std::string OnnxGraph::constant(double value, OnnxType type) {
    std::string& name = added_[{value, type}];
    if (!name.empty()) return name;
    name = fresh("constant");
    onnx::Tensor* tensor = graph.add_initializer();
    tensor->set_name(name);
    tensor->set_data_type(type);
    if (type == ONNX_FLOAT) {
        const float single = static_cast<float>(value);
        tensor->set_raw_data(&single, sizeof single);
    } else {
        const uint8_t byte = static_cast<uint8_t>(static_cast<int>(value));
        tensor->set_raw_data(&byte, 1);
    }
    return name;
}

std::string OnnxGraph::add_constant(const std::vector<int64_t>& values) {
    onnx::Tensor* tensor = graph.add_initializer();
    tensor->set_name(fresh("constant"));
    tensor->set_data_type(ONNX_INT64);
    tensor->add_dims(static_cast<int64_t>(values.size()));
    tensor->set_raw_data(values.data(), values.size() * sizeof values[0]);
    return tensor->name();
}

std::string OnnxGraph::insert_before(const onnx::Node* reader, const std::string& kind, const std::vector<std::string>& inputs) {
    const std::string name = fresh(kind);
    onnx::Node* node = graph.add_node();
    for (const std::string& input : inputs) node->add_input(input);
    node->add_output(name);
    node->set_name(name);
    node->set_op_type(kind);
    for (int place = graph.node_size() - 1; place > 0; place--) {
        const bool last = &graph.node(place - 1) == reader;
        graph.mutable_node()->SwapElements(place, place - 1);
        if (last) break;
    }
    return name;
}

void OnnxGraph::drop(const std::set<std::string>& outputs) {
    for (int place = graph.node_size() - 1; place >= 0; place--)
        for (const std::string& name : graph.node(place).output())
            if (outputs.count(name)) {
                graph.mutable_node()->DeleteSubrange(place, 1);
                break;
            }
}

std::string OnnxGraph::fresh(const std::string& what) {
    for (;;) {
        const std::string name = "blastscope/" + what + "_" + std::to_string(numbers_++);
        if (!maker.count(name) && !constants.count(name)) return name;
    }
}

const onnx::Attribute* attribute_of(const onnx::Node& node, const std::string& name) {
    for (const onnx::Attribute& attribute : node.attribute())
        if (attribute.name() == name) return &attribute;
    return nullptr;
}

std::vector<int64_t> whole_numbers(const onnx::Node& node, const std::string& name) {
    const onnx::Attribute* attribute = attribute_of(node, name);
    if (attribute == nullptr) return {};
    if (attribute->ints_size() > 0) return {attribute->ints().begin(), attribute->ints().end()};
    return {attribute->i()};
}

std::string input_of(const onnx::Node& node, int place) { return place < node.input_size() ? node.input(place) : ""; }

}  // namespace blastscope
