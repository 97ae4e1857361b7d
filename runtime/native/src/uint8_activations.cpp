#include "uint8_activations.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "cpu_info.h"
#include "errors.h"
#include "onnx_graph.h"

// The rules, and why there are these, stand in runtime/backends/uint8_activations.py; the names here are those of that file.
namespace blastscope {
namespace {

using Names = std::set<std::string>;
using onnx::Node;

constexpr double TOP = 127, WIDE_TOP = 255, MIDDLE = 128, SAFE_WEIGHT = 64;
const Names MOVING = {"Concat", "MaxPool", "Flatten", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze",
                      "Pad",    "Identity", "Split",  "Gather",  "Expand"};
const Names PRODUCTS = {"MatMul", "Gemm", "Einsum"};
const Names POSITIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs"};
const Names POSITIVE_OF_POSITIVES = {"Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean", "QuantizeLinear"};
const Names JOINING = {"Concat", "Add", "Mul"};

struct Activation {  // a value that is quantised to int8 with the zero point 0, and everything that takes it back to float32
    Node* quantise;
    std::vector<Node*> dequantises;
    double scale;
};

class Recoding {
public:
    explicit Recoding(onnx::Model& model) : graph_(model) {}

    void run() {
        if (!graph_.self_contained()) return;
        std::vector<Activation> found = activations();
        join_sets(found);
        Names signed_sets;
        for (const std::string& name : multiplied()) signed_sets.insert(head(name));
        std::vector<Activation> kept;
        for (Activation& one : found)
            if (!signed_sets.count(head(one.quantise->input(0)))) kept.push_back(one);
        const Names coded = coded_from_zero(kept), gone = leave_out_cuts(kept, coded);
        for (const Activation& one : kept)
            if (!gone.count(one.quantise->output(0))) recode(one, coded.count(one.quantise->output(0)) > 0);
        for (Node* node : graph_.nodes)
            if (node->op_type() == "Clip" && !gone.count(node->output(0))) cut_in_float(*node);
        graph_.drop(gone);
        if (!kept.empty()) graph_.graph.clear_value_info();  // notes on the types of values, which have changed
    }

private:
    std::optional<double> int8_scale(const Node& node, const char* kind) const {
        if (node.op_type() != kind || !node.domain().empty() || node.input_size() != 3) return std::nullopt;
        if (graph_.scalar(node.input(2), ONNX_INT8) != 0.0) return std::nullopt;
        const std::optional<double> scale = graph_.scalar(node.input(1), ONNX_FLOAT);
        return scale && *scale > 0 ? scale : std::nullopt;
    }

    std::vector<Activation> activations() const {
        std::vector<Activation> found;
        for (Node* node : graph_.nodes) {
            const std::optional<double> scale = int8_scale(*node, "QuantizeLinear");
            if (!scale || node->output_size() == 0 || graph_.results.count(node->output(0))) continue;
            const auto back = graph_.readers.find(node->output(0));
            if (back == graph_.readers.end()) continue;
            const bool alike = std::all_of(back->second.begin(), back->second.end(),
                                           [&](const Node* one) { return int8_scale(*one, "DequantizeLinear") == scale; });
            if (alike) found.push_back({node, back->second, *scale});
        }
        return found;
    }

    // The inputs of a node that hold data.
    static std::vector<std::string> data_of(const Node& node) {
        std::vector<std::string> found;
        for (const std::string& name : node.input())
            if (JOINING.count(node.op_type()) ? !name.empty() : found.empty()) found.push_back(name);
        return found;
    }

    // What a Clip cuts at; nothing where it isn't constant.
    std::optional<std::pair<double, double>> bounds(const Node& clip) const {
        double found[2] = {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
        for (int place : {1, 2}) {
            const std::string name = input_of(clip, place);
            if (name.empty()) continue;
            const std::optional<double> value = graph_.scalar(name, ONNX_FLOAT);
            if (!value) return std::nullopt;
            found[place - 1] = *value;
        }
        return std::make_pair(found[0], found[1]);
    }

    Names never_negative() const {
        Names found;
        for (const auto& [name, tensor] : graph_.constants) {
            const auto values = graph_.array(name, ONNX_FLOAT);
            if (values && !values->empty() && *std::min_element(values->begin(), values->end()) >= 0) found.insert(name);
        }
        for (const Node* node : graph_.nodes)
            if (gives_no_negative(*node, found)) found.insert(node->output().begin(), node->output().end());
        return found;
    }

    bool gives_no_negative(const Node& node, const Names& known) const {
        const std::string& kind = node.op_type();
        if (kind == "Clip") {
            const auto cut = bounds(node);
            return cut && cut->first >= 0;
        }
        if (kind == "Pad" && !input_of(node, 2).empty() && !known.count(node.input(2))) return false;
        if (kind == "DequantizeLinear") return known.count(input_of(node, 0)) && int8_scale(node, "DequantizeLinear");
        const std::vector<std::string> data = data_of(node);
        const bool all = std::all_of(data.begin(), data.end(), [&](const std::string& name) { return known.count(name) > 0; });
        return ((MOVING.count(kind) || POSITIVE_OF_POSITIVES.count(kind)) && all) || POSITIVE.count(kind);
    }

    // One name stands for all values that are the same numbers, moved or joined.
    std::string head(std::string name) const {
        for (auto found = heads_.find(name); found != heads_.end(); found = heads_.find(name)) name = found->second;
        return name;
    }
    void join(const std::string& one, const std::string& other) {
        const std::string first = head(one), second = head(other);
        if (first != second) heads_[first] = second;
    }
    void join_sets(const std::vector<Activation>& all) {
        for (const Activation& one : all)
            for (const Node* back : one.dequantises) join(one.quantise->input(0), back->output(0));
        for (const Node* node : graph_.nodes) {
            if (!MOVING.count(node->op_type())) continue;
            for (const std::string& name : data_of(*node))
                if (!graph_.constants.count(name))
                    for (const std::string& output : node->output()) join(name, output);
        }
    }

    // Values that are multiplied as matrices by other values, as in attention.
    std::vector<std::string> multiplied() const {
        std::vector<std::string> found;
        for (const Node* node : graph_.nodes) {
            if (!PRODUCTS.count(node->op_type())) continue;
            std::vector<std::string> factors;
            for (int place = 0; place < std::min(2, node->input_size()); place++)
                if (!is_weight(node->input(place))) factors.push_back(node->input(place));
            if (factors.size() > 1) found.insert(found.end(), factors.begin(), factors.end());
        }
        return found;
    }
    bool is_weight(const std::string& name) const {
        const auto maker = graph_.maker.find(name);
        const bool is_int8 = maker != graph_.maker.end() && maker->second->op_type() == "DequantizeLinear" &&
                             graph_.constants.count(input_of(*maker->second, 0));
        return is_int8 || graph_.constants.count(name);
    }

    // The int8 values that get the zero point 0: they and all that they share codes with are never negative.
    Names coded_from_zero(const std::vector<Activation>& all) const {
        const Names positive = never_negative();
        Names mixed, found;
        for (const Activation& one : all)
            if (!positive.count(one.quantise->input(0))) mixed.insert(head(one.quantise->input(0)));
        for (const Activation& one : all)
            if (!mixed.count(head(one.quantise->input(0)))) found.insert(one.quantise->output(0));
        return found;
    }

    // Lets quantisations from 0 read what a ReLU or Clip before them was to cut; gives the outputs that nobody reads then.
    Names leave_out_cuts(const std::vector<Activation>& all, const Names& coded) const {
        std::map<std::string, const Activation*> by_output;
        for (const Activation& one : all) by_output[one.quantise->output(0)] = &one;
        Names gone;
        for (const Node* cut : graph_.nodes) {
            if ((cut->op_type() != "Relu" && cut->op_type() != "Clip") || graph_.results.count(cut->output(0))) continue;
            const auto readers = graph_.readers.find(cut->output(0));
            if (readers == graph_.readers.end()) continue;
            std::vector<const Activation*> kept;
            std::set<double> scales;
            for (const Node* reader : readers->second) {
                const auto after = reader->output_size() > 0 ? by_output.find(reader->output(0)) : by_output.end();
                if (after == by_output.end() || !coded.count(reader->output(0)) || !cuts_alike(*cut, after->second->scale)) {
                    kept.clear();
                    break;
                }
                kept.push_back(after->second);
                scales.insert(after->second->scale);
            }
            if (kept.empty()) continue;
            const std::string source = before(*cut, by_output, scales, gone);
            for (const Activation* one : kept) one->quantise->set_input(0, source);
            gone.insert(cut->output(0));
        }
        return gone;
    }

    // Whether quantising from 0 gives the codes that it gives after `cut`.
    bool cuts_alike(const Node& cut, double scale) const {
        if (cut.op_type() == "Relu") return true;
        const auto found = bounds(cut);
        return found && found->first == 0 && found->second >= (WIDE_TOP - 0.5) * scale * TOP / WIDE_TOP;
    }

    // What `cut` takes, before it was int8 where only `cut` reads that and it has the scale of what follows.
    std::string before(const Node& cut, const std::map<std::string, const Activation*>& by_output, const std::set<double>& scales,
                       Names& gone) const {
        const std::string name = input_of(cut, 0);
        const auto back = graph_.maker.find(name);
        if (back == graph_.maker.end() || back->second->op_type() != "DequantizeLinear") return name;
        const auto pair = by_output.find(input_of(*back->second, 0));
        if (pair == by_output.end() || pair->second->dequantises.size() > 1 || graph_.readers.at(name).size() > 1 ||
            graph_.results.count(name) || scales != std::set<double>{pair->second->scale})
            return name;
        gone.insert(name);
        gone.insert(pair->second->quantise->output(0));
        return pair->second->quantise->input(0);
    }

    void recode(const Activation& one, bool from_zero) {
        const std::string scale = from_zero ? graph_.constant(one.scale * TOP / WIDE_TOP, ONNX_FLOAT) : one.quantise->input(1);
        const std::string zero = graph_.constant(from_zero ? 0 : MIDDLE, ONNX_UINT8);
        std::vector<Node*> all = one.dequantises;
        all.push_back(one.quantise);
        for (Node* node : all) {
            node->set_input(1, scale);
            node->set_input(2, zero);
        }
        for (const Node* back : one.dequantises) {
            const auto readers = graph_.readers.find(back->output(0));
            if (readers == graph_.readers.end()) continue;
            for (Node* pool : readers->second)
                if (pool->op_type() == "AveragePool") count_border(*pool, scale, zero, from_zero);
        }
    }

    // Gives an average pool whose border counts a value with the border around it, where an engine would go wrong.
    void count_border(Node& pool, const std::string& scale, const std::string& zero, bool from_zero) {
        auto any = [](const std::vector<int64_t>& values) { return std::any_of(values.begin(), values.end(), [](int64_t one) { return one != 0; }); };
        const std::vector<int64_t> pads = whole_numbers(pool, "pads"), kernel = whole_numbers(pool, "kernel_shape");
        const bool rounds_up = any(whole_numbers(pool, "ceil_mode"));
        if (!any(whole_numbers(pool, "count_include_pad")) || (from_zero && !rounds_up)) return;
        const size_t half = kernel.size();
        if (any(pads)) {
            if (pads.size() != 2 * half) fail(BLASTSCOPE_ENGINE, "a pool's padding doesn't fit its kernel");
            std::vector<int64_t> around = {0, 0};
            around.insert(around.end(), pads.begin(), pads.begin() + static_cast<ptrdiff_t>(half));
            around.insert(around.end(), {0, 0});
            around.insert(around.end(), pads.begin() + static_cast<ptrdiff_t>(half), pads.end());
            const std::string wide = graph_.insert_before(&pool, "Pad", {pool.input(0), graph_.add_constant(around)});
            const std::string small = graph_.insert_before(&pool, "QuantizeLinear", {wide, scale, zero});
            pool.set_input(0, graph_.insert_before(&pool, "DequantizeLinear", {small, scale, zero}));
        }
        for (const char* name : {"count_include_pad", "pads"})
            for (int place = pool.attribute_size() - 1; place >= 0; place--)
                if (pool.attribute(place).name() == name) pool.mutable_attribute()->DeleteSubrange(place, 1);
    }

    // Makes of a Clip that follows a DequantizeLinear, and has constant bounds, what an engine can't make of codes.
    void cut_in_float(Node& clip) {
        const auto maker = graph_.maker.find(input_of(clip, 0));
        const auto found = bounds(clip);
        if (maker == graph_.maker.end() || maker->second->op_type() != "DequantizeLinear" || !found) return;
        const auto [low, high] = *found;
        std::string value = clip.input(0);
        if (std::isfinite(low)) {
            const std::string least = graph_.constant(low, ONNX_FLOAT);
            if (low != 0) value = graph_.insert_before(&clip, "Sub", {value, least});
            value = graph_.insert_before(&clip, "Relu", {value});
            if (low != 0) value = graph_.insert_before(&clip, "Add", {value, least});
        }
        clip.clear_input();
        clip.add_input(value);
        if (std::isfinite(high)) clip.add_input(graph_.constant(high, ONNX_FLOAT));
        clip.set_op_type(std::isfinite(high) ? "Min" : "Identity");
    }

    OnnxGraph graph_;
    std::map<std::string, std::string> heads_;
};

// Refuses an int8 graph whose sums overflow on a CPU without VNNI, as backends/uint8_activations.py does.
void check_sums(const std::string& path, const OnnxGraph& graph) {
    if (!int8_sums_overflow()) return;
    for (const Node* node : graph.nodes) {
        if (node->op_type() != "Conv" && node->op_type() != "MatMul") continue;
        const auto maker = graph.maker.find(input_of(*node, 1));
        if (maker == graph.maker.end() || maker->second->op_type() != "DequantizeLinear") continue;
        const std::string name = input_of(*maker->second, 0);
        const auto weight = graph.array(name, ONNX_INT8);
        if (!weight) continue;
        const onnx::Tensor& tensor = *graph.constants.at(name);
        if (node->op_type() == "Conv" && tensor.dims_size() > 1 && tensor.dims(1) == 1) continue;  // depthwise: sums have 32 bits
        if (std::any_of(weight->begin(), weight->end(), [](double one) { return std::fabs(one) > SAFE_WEIGHT; }))
            fail(BLASTSCOPE_DEVICE, "'" + path + "' has int8 weights of 8 bits, in '" + (node->name().empty() ? node->output(0) : node->name()) +
                                        "' among others, and this CPU has no VNNI, so that their sums overflow: take another "
                                        "precision, or calibrate with weight_bits = 7");
    }
}

}  // namespace

std::string with_uint8_activations(const std::string& content, const std::string& path, const std::string& device) {
    onnx::Model model;
    if (!model.ParseFromString(content)) fail(BLASTSCOPE_ENGINE, "'" + path + "' is not an ONNX file");
    if (device == "CPU") check_sums(path, OnnxGraph(model));
    Recoding(model).run();
    return model.SerializeAsString();
}

}  // namespace blastscope
