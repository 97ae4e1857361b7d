#include "partition.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <openvino/opsets/opset13.hpp>

namespace blastscope {
namespace {

using NodePtr = std::shared_ptr<ov::Node>;
using Numbers = std::set<size_t>;

struct Web {  // the operators that depend on the crop's pixels, in topological order, and each one's sources by number
    std::vector<NodePtr> operators;
    std::vector<std::vector<size_t>> sources;

    std::string kind(size_t number) const { return operators[number]->get_type_name(); }
    bool is_heavy(size_t number) const { return kind(number) == "Convolution" || kind(number) == "GroupConvolution"; }
    // The convolutions among `numbers`, by kind and shape.
    std::multiset<std::string> heavy(const Numbers& numbers) const {
        std::multiset<std::string> found;
        for (size_t number : numbers)
            if (is_heavy(number)) found.insert(kind(number) + " " + operators[number]->get_output_shape(0).to_string());
        return found;
    }
};

struct Shares {  // whose each operator is; the rest's are in none of them
    Numbers shared, a, b;
    bool any(size_t number) const { return shared.count(number) || a.count(number) || b.count(number); }
};

struct Seam {  // both edges of a cut: results of what comes before it, parameters of what comes after, float32 all of them
    ov::ResultVector results;
    ov::ParameterVector parameters;
};

// Puts a constant in the place of every question for a shape, so that what depends on pixels is what depends on `crops`.
void freeze_shapes(const std::shared_ptr<ov::Model>& model) {
    for (const NodePtr& node : model->get_ordered_ops()) {
        if (std::string(node->get_type_name()) != "ShapeOf") continue;
        const ov::Shape shape = node->input_value(0).get_shape();
        const auto constant = ov::op::v0::Constant::create(node->get_output_element_type(0), ov::Shape{shape.size()},
                                                           std::vector<int64_t>(shape.begin(), shape.end()));
        for (ov::Input<ov::Node> target : node->output(0).get_target_inputs()) target.replace_source_output(constant->output(0));
    }
}

Web weave(const std::shared_ptr<ov::Model>& model) {
    std::map<const ov::Node*, size_t> numbers;
    Web web;
    for (const NodePtr& node : model->get_ordered_ops()) {
        Numbers sources;
        for (const ov::Output<ov::Node>& value : node->input_values()) {
            const auto found = numbers.find(value.get_node());
            if (found != numbers.end()) sources.insert(found->second);
        }
        if (sources.empty() && std::string(node->get_type_name()) != "Parameter") continue;
        numbers[node.get()] = web.operators.size();
        web.operators.push_back(node);
        web.sources.emplace_back(sources.begin(), sources.end());
    }
    return web;
}

// The operators through which every way leads: nothing before one is read by anything after it.
std::vector<size_t> narrows(const Web& web) {
    std::vector<size_t> last(web.operators.size()), found;  // the last reader of each
    for (size_t number = 0; number < last.size(); number++) last[number] = number;
    for (size_t number = 0; number < last.size(); number++)
        for (size_t source : web.sources[number]) last[source] = number;
    size_t reach = 0;
    for (size_t number = 0; number < last.size(); number++) {
        if (reach <= number) found.push_back(number);
        reach = std::max(reach, last[number]);
    }
    return found;
}

// The operator that puts the three voters' logits together: the last narrow that concatenates three tensors.
size_t join_of(const Web& web) {
    const std::vector<size_t> all = narrows(web);
    for (auto number = all.rbegin(); number != all.rend(); ++number)
        if (web.kind(*number) == "Concat" && web.operators[*number]->get_input_size() == 3) return *number;
    throw NotPartitionable("no operator puts the logits of three voters together");
}

// Everything that `last` is made from, and itself.
Numbers behind(const Web& web, size_t last) {
    Numbers found = {last};
    std::vector<size_t> open = {last};
    while (!open.empty()) {
        const size_t number = open.back();
        open.pop_back();
        for (size_t source : web.sources[number])
            if (found.insert(source).second) open.push_back(source);
    }
    return found;
}

// What is shared, A's and B's. What heads read off one backbone goes with it, and what they read off the stem with A.
Shares shares_of(const Web& web, size_t join) {
    std::map<const ov::Node*, size_t> numbers;
    for (size_t number = 0; number < web.operators.size(); number++) numbers[web.operators[number].get()] = number;
    Numbers sides[2];
    for (size_t side = 0; side < 2; side++) {
        const auto found = numbers.find(web.operators[join]->input_value(side).get_node());
        if (found == numbers.end()) throw NotPartitionable("a voter's logits don't depend on the crop");
        sides[side] = behind(web, found->second);
    }
    Shares shares;
    for (size_t number : sides[0]) (sides[1].count(number) ? shares.shared : shares.a).insert(number);
    for (size_t number : sides[1])
        if (!sides[0].count(number)) shares.b.insert(number);
    Numbers taps;
    for (size_t number = 0; number < join; number++) {
        if (sides[0].count(number) || sides[1].count(number)) continue;
        bool all_owned = true, of_a = false, of_b = false;
        for (size_t source : web.sources[number]) {
            all_owned &= shares.any(source);
            of_a |= shares.a.count(source) > 0;
            of_b |= shares.b.count(source) > 0;
        }
        if (!all_owned || (of_a && of_b)) continue;
        (of_b ? shares.b : shares.a).insert(number);
        taps.insert(number);
    }
    if (web.heavy(shares.a).empty()) throw NotPartitionable("no convolutions lie side by side");
    Numbers others;
    for (size_t number = 0; number < web.operators.size(); number++)
        if (!shares.any(number)) others.insert(number);
    if (!web.heavy(taps).empty() || !web.heavy(others).empty()) throw NotPartitionable("it has more than two backbones");
    if (web.heavy(shares.a) != web.heavy(shares.b)) throw NotPartitionable("its two backbones are of different architectures");
    return shares;
}

// What a side gives to the rest: its logits, which the join reads, before the others.
std::vector<size_t> given(const Web& web, const Shares& shares, const Numbers& own, size_t join) {
    Numbers read;
    for (size_t number = 0; number < web.operators.size(); number++)
        if (!shares.any(number)) read.insert(web.sources[number].begin(), web.sources[number].end());
    std::vector<size_t> first, others;
    const std::vector<size_t>& logits = web.sources[join];
    for (size_t number : read) {
        if (shares.shared.count(number)) throw NotPartitionable("the heads read what A and B share");
        if (own.count(number)) (std::count(logits.begin(), logits.end(), number) ? first : others).push_back(number);
    }
    first.insert(first.end(), others.begin(), others.end());
    return first;
}

// Whether an operator belongs to an int8 activation.
bool is_quantised(const Web& web, size_t number) {
    auto moves = [&](const std::string& kind) { return kind == "Convert" || kind == "Subtract" || kind == "Multiply"; };
    while (moves(web.kind(number)) && web.sources[number].size() == 1) number = web.sources[number][0];
    return web.kind(number) == "FakeQuantize";
}

// The shared operators less int8 activations for others to compute in: each part must make those for itself.
Numbers without_int8(const Web& web, const Numbers& shared) {
    Numbers inside = shared;
    for (auto number = shared.rbegin(); number != shared.rend(); ++number) {
        bool read_inside = false;
        for (size_t reader = 0; reader < web.sources.size(); reader++) {
            const std::vector<size_t>& sources = web.sources[reader];
            read_inside |= inside.count(reader) && std::count(sources.begin(), sources.end(), *number);
        }
        if (is_quantised(web, *number) && !read_inside) inside.erase(*number);
    }
    return inside;
}

// Cuts the tensors `crossing`: who reads them and is not among `before` gets a parameter instead.
Seam sever(const Web& web, const std::vector<size_t>& crossing, const Numbers& before) {
    std::set<const ov::Node*> kept;
    for (size_t number : before) kept.insert(web.operators[number].get());
    Seam seam;
    for (size_t place = 0; place < crossing.size(); place++) {
        const NodePtr& node = web.operators[crossing[place]];
        const ov::element::Type type = node->get_output_element_type(0);
        const bool single = type == ov::element::f32;
        const auto parameter = std::make_shared<ov::op::v0::Parameter>(ov::element::f32, node->get_output_shape(0));
        parameter->output(0).get_tensor().set_names({STEM + std::to_string(place)});
        const NodePtr source = single ? NodePtr(parameter) : std::make_shared<ov::op::v0::Convert>(parameter, type);
        for (ov::Input<ov::Node> target : node->output(0).get_target_inputs())
            if (!kept.count(target.get_node())) target.replace_source_output(source->output(0));
        const NodePtr given = single ? node : std::make_shared<ov::op::v0::Convert>(node, ov::element::f32);
        seam.results.push_back(std::make_shared<ov::op::v0::Result>(given));
        seam.parameters.push_back(parameter);
    }
    return seam;
}

// Those of `parameters` that `results` are made from: a model takes no others.
ov::ParameterVector read_by(const ov::ResultVector& results, const ov::ParameterVector& parameters) {
    std::set<const ov::Node*> found;
    std::vector<const ov::Node*> open;
    for (const auto& result : results) open.push_back(result.get());
    while (!open.empty()) {
        const ov::Node* node = open.back();
        open.pop_back();
        if (!found.insert(node).second) continue;
        for (size_t input = 0; input < node->get_input_size(); input++) open.push_back(node->get_input_node_ptr(input));
    }
    ov::ParameterVector kept;
    for (const auto& parameter : parameters)
        if (found.count(parameter.get())) kept.push_back(parameter);
    return kept;
}

// What follows the join, with one voter's logits in the place of all three.
std::shared_ptr<ov::Model> opinion_of(const std::shared_ptr<ov::Model>& rest, const std::string& join) {
    const std::shared_ptr<ov::Model> copy = rest->clone();
    for (const NodePtr& node : copy->get_ordered_ops())
        if (node->get_friendly_name() == join)
            for (size_t place : {1, 2}) node->input(place).replace_source_output(node->input_value(0));
    return std::make_shared<ov::Model>(ov::ResultVector{copy->get_results()[0]}, ov::ParameterVector{copy->get_parameters()[0]});
}

}  // namespace

Partition partition(const std::shared_ptr<ov::Model>& model) {
    freeze_shapes(model);
    const Web web = weave(model);
    const size_t join = join_of(web);
    const Shares shares = shares_of(web, join);
    const std::vector<size_t> of_a = given(web, shares, shares.a, join), of_b = given(web, shares, shares.b, join);
    ov::ParameterVector entry = model->get_parameters();
    const std::shared_ptr<ov::op::v0::Result> answer = model->get_results()[0];
    Partition found;
    if (!web.heavy(shares.shared).empty()) {
        const Numbers inside = without_int8(web, shares.shared);
        Numbers crossing;
        for (const Numbers* share : {&shares.shared, &shares.a, &shares.b})
            for (size_t number : *share)
                if (!inside.count(number))
                    for (size_t source : web.sources[number])
                        if (inside.count(source)) crossing.insert(source);
        const Seam seam = sever(web, std::vector<size_t>(crossing.begin(), crossing.end()), inside);
        found.stem = std::make_shared<ov::Model>(seam.results, entry);
        entry = seam.parameters;
    }
    const Seam a = sever(web, of_a, shares.a), b = sever(web, of_b, shares.b);
    found.a = std::make_shared<ov::Model>(a.results, read_by(a.results, entry));
    found.b = std::make_shared<ov::Model>(b.results, read_by(b.results, entry));
    ov::ParameterVector between = a.parameters;
    between.insert(between.end(), b.parameters.begin(), b.parameters.end());
    found.rest = std::make_shared<ov::Model>(ov::ResultVector{answer}, between);
    found.opinion = opinion_of(found.rest, web.operators[join]->get_friendly_name());
    return found;
}

}  // namespace blastscope
