#include "graph_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.h"
#include "onnx_call.h"

namespace blastscope {
namespace {

using namespace wire;

struct Wanted {
    int type;
    Shape shape;  // without the batch
};
const std::map<std::string, Wanted> SINGLE = {{"probabilities", {FLOAT, {2}}}};
const std::map<std::string, Wanted> FUSED = {
    {"probabilities", {FLOAT, {3, 2}}}, {"label", {INT32, {}}}, {"probability", {FLOAT, {}}}, {"voter", {INT32, {}}}};
const std::map<std::string, Wanted> NOVELTY = {{"novelty", {FLOAT, {}}}, {"answers", {FLOAT, {4, 2}}}};

std::string names_of(const std::vector<Value>& values) {
    std::string all;
    for (const Value& value : values) all += (all.empty() ? "" : ", ") + shown(value.name, 40);
    return all.empty() ? "none" : all;
}

void check_input(const std::vector<Value>& inputs, int64_t side_px) {
    const std::string side = std::to_string(side_px), told = "not 'crops' of uint8 (N, " + side + ", " + side + ", 3) with N free";
    if (inputs.size() != 1 || inputs[0].name != "crops") throw UnfitGraph("has the inputs " + names_of(inputs) + ", " + told);
    const Value& value = inputs[0];
    if (value.type != UINT8 || value.dims != Shape{-1, side_px, side_px, 3})
        throw UnfitGraph("takes type " + std::to_string(value.type) + " in " + shown(value.dims) + ", " + told);
}

void check_output(const Value& value, const std::map<std::string, Known>& known, const Wanted& wanted) {
    const auto made = known.find(value.name);
    if (made == known.end()) throw UnfitGraph("makes no '" + value.name + "'");
    const std::string told = "not the type and shape that runtime/FORMAT.md demands, with N free";
    if (value.type != wanted.type || (made->second.type != UNKNOWN && made->second.type != wanted.type))
        throw UnfitGraph("declares '" + value.name + "' as ONNX's type " + std::to_string(value.type) + ", " + told);
    bool fits = value.dims.size() == wanted.shape.size() + 1 && value.dims[0] == -1;
    for (size_t i = 0; fits && i < wanted.shape.size(); i++) fits = value.dims[i + 1] == -1 || value.dims[i + 1] == wanted.shape[i];
    Shape whole = {BATCH};
    whole.insert(whole.end(), wanted.shape.begin(), wanted.shape.end());
    if (!fits || made->second.shape != whole)
        throw UnfitGraph("gives '" + value.name + "' as " + shown(fits ? made->second.shape : value.dims) + ", " + told);
}

// The softmax that makes the answers must be in float32, whatever the network is in.
void check_softmax(const Graph& graph, const std::map<std::string, Known>& known) {
    for (const Node& node : graph.nodes) {
        if (node.kind != "Softmax" || node.inputs.empty() || !std::count(node.outputs.begin(), node.outputs.end(), "probabilities")) continue;
        const int type = known.at(node.inputs[0]).type;
        if (type != UNKNOWN && type != FLOAT)
            throw UnfitGraph("computes the softmax of 'probabilities' in ONNX's type " + std::to_string(type) + ", not in float32");
    }
}

void check_int8(const Graph& graph, const std::map<std::string, Known>& known) {
    for (const Node& node : graph.nodes) {
        const bool quantises = node.kind == "QuantizeLinear";
        if (!quantises && node.kind != "DequantizeLinear") continue;
        const std::string where = "'" + shown(node.name, 40) + "' (" + node.kind + ")";
        const int type = node.inputs.empty() ? UNKNOWN : known.at(node.inputs[0]).type;
        if (!quantises && type != UNKNOWN && type != INT8)
            throw UnfitGraph("holds numbers of ONNX's type " + std::to_string(type) + " at " + where + ", only int8 is quantised");
        const auto zero = node.inputs.size() > 2 ? graph.tensors.find(node.inputs[2]) : graph.tensors.end();
        if (zero == graph.tensors.end()) {
            if (node.inputs.size() > 2 || quantises) throw UnfitGraph("has no zero point in the file at " + where);  // else it is uint8
            continue;
        }
        const std::vector<Number> points = zero->second.values();
        if (zero->second.type != INT8 || std::any_of(points.begin(), points.end(), [](Number one) { return one != 0; }))
            throw UnfitGraph("quantises asymmetrically at " + where + ": zero points must be int8 zeros");
    }
}

void check_outputs(const Graph& graph, const std::map<std::string, Known>& known, const std::string& models) {
    std::map<std::string, Wanted> wanted = models == "ensemble" ? FUSED : SINGLE;
    for (const Value& value : graph.outputs)
        if (models == "ensemble" && NOVELTY.count(value.name)) wanted.insert(NOVELTY.begin(), NOVELTY.end());
    std::set<std::string> names;
    for (const Value& value : graph.outputs) names.insert(value.name);
    bool fits = names.size() == graph.outputs.size() && names.size() == wanted.size();
    for (const std::string& name : names) fits = fits && wanted.count(name);
    if (!fits) throw UnfitGraph("has the outputs " + names_of(graph.outputs) + ", not those of its models");
    for (const Value& value : graph.outputs) check_output(value, known, wanted.at(value.name));
    check_softmax(graph, known);
    check_int8(graph, known);
}

// Whether the bits of all values have an exponent that isn't all ones: whether they are finite.
template <class Bits>
bool all_finite(const char* raw, size_t count, Bits exponent) {
    for (size_t i = 0; i < count; i++) {
        Bits bits;
        std::memcpy(&bits, raw + i * sizeof bits, sizeof bits);
        if ((bits & exponent) == exponent) return false;
    }
    return true;
}

bool is_finite(const Tensor& tensor) {
    if (tensor.raw == nullptr) return std::all_of(tensor.numbers.begin(), tensor.numbers.end(), [](Number one) { return std::isfinite(one); });
    const auto count = static_cast<size_t>(tensor.size());
    if (tensor.type == FLOAT) return all_finite<uint32_t>(tensor.raw, count, 0x7F800000);
    if (tensor.type == FLOAT16) return all_finite<uint16_t>(tensor.raw, count, 0x7C00);
    return tensor.type != DOUBLE || all_finite<uint64_t>(tensor.raw, count, 0x7FF0000000000000);
}

// Weights that are no numbers: what a training that diverged leaves behind. Infinite ones among zeros, or alone, are masks.
void check_weights(const Graph& graph) {
    for (const auto& [name, tensor] : graph.tensors) {
        if (is_finite(tensor)) continue;
        for (Number one : tensor.values())
            if (std::isnan(one) || (std::isfinite(one) && one != 0))
                throw UnfitGraph("has a weight '" + shown(name) + "' that holds what is not a number: the training diverged, train it anew");
    }
}

}  // namespace

void examine_graph(const std::string& content, const std::string& models, int side_px) {
    if (content.size() > static_cast<size_t>(FILE_LIMIT)) throw UnfitGraph("is larger than " + std::to_string(FILE_LIMIT) + " bytes");
    const Graph graph = parse(content);
    check_input(graph.inputs, side_px);
    const std::map<std::string, Known> known = check_limits(graph);
    check_weights(graph);
    check_outputs(graph, known, models);
}

std::string read_graph(const Bundle& bundle, const GraphEntry& entry) {
    std::string content = bundle.read(entry);
    try {
        examine_graph(content, entry.models, bundle.manifest.crop.side_px);
    } catch (const UnfitGraph& error) {
        bundle_fail(bundle.path, entry.file + " " + error.what());
    }
    return content;
}

}  // namespace blastscope
