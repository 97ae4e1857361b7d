#include "onnx_wire.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <set>

#include "utf8.h"

namespace blastscope::wire {
namespace {

constexpr int64_t FIELD_LIMIT = 1'000'000;  // fields, and numbers packed in one, of the whole file
constexpr size_t NODE_LIMIT = 20'000;

enum Kind { NUMBER, SINGLE, BYTES, NUMBERS, SINGLES, DOUBLES };

struct Rule {
    const char* name;
    Kind kind;
    bool many = false;
};
using Rules = std::map<uint64_t, Rule>;

// the fields of each message that may be there, by ONNX's numbers of them (onnx/onnx.proto)
const Rules MODEL = {{1, {"ir_version", NUMBER}},   {2, {"producer_name", BYTES}}, {3, {"producer_version", BYTES}},
                     {4, {"domain", BYTES}},        {5, {"model_version", NUMBER}}, {6, {"doc_string", BYTES}},
                     {7, {"graph", BYTES}},         {8, {"opset_import", BYTES, true}}, {14, {"metadata_props", BYTES, true}}};
const Rules OPSET = {{1, {"domain", BYTES}}, {2, {"version", NUMBER}}};
const Rules GRAPH = {{1, {"node", BYTES, true}},       {2, {"name", BYTES}},         {5, {"initializer", BYTES, true}},
                     {10, {"doc_string", BYTES}},      {11, {"input", BYTES, true}}, {12, {"output", BYTES, true}},
                     {13, {"value_info", BYTES, true}}, {16, {"metadata_props", BYTES, true}}};
const Rules NODE = {{1, {"input", BYTES, true}}, {2, {"output", BYTES, true}},    {3, {"name", BYTES}},  {4, {"op_type", BYTES}},
                    {5, {"attribute", BYTES, true}}, {6, {"doc_string", BYTES}}, {7, {"domain", BYTES}}, {9, {"metadata_props", BYTES, true}}};
const Rules ATTRIBUTE = {{1, {"name", BYTES}}, {2, {"f", SINGLE}}, {3, {"i", NUMBER}}, {4, {"s", BYTES}}, {5, {"t", BYTES}},
                         {7, {"floats", SINGLES, true}}, {8, {"ints", NUMBERS, true}}, {13, {"doc_string", BYTES}}, {20, {"type", NUMBER}}};
const Rules TENSOR = {{1, {"dims", NUMBERS, true}},        {2, {"data_type", NUMBER}},        {4, {"float_data", SINGLES, true}},
                      {5, {"int32_data", NUMBERS, true}},  {7, {"int64_data", NUMBERS, true}}, {8, {"name", BYTES}},
                      {9, {"raw_data", BYTES}},            {10, {"double_data", DOUBLES, true}}, {12, {"doc_string", BYTES}},
                      {14, {"data_location", NUMBER}},     {16, {"metadata_props", BYTES, true}}};
const Rules VALUE = {{1, {"name", BYTES}}, {2, {"type", BYTES}}, {3, {"doc_string", BYTES}}, {4, {"metadata_props", BYTES, true}}};
const Rules TYPE = {{1, {"tensor_type", BYTES}}, {6, {"denotation", BYTES}}};
const Rules TENSOR_TYPE = {{1, {"elem_type", NUMBER}}, {2, {"shape", BYTES}}};
const Rules SHAPE = {{1, {"dim", BYTES, true}}};
const Rules DIM = {{1, {"dim_value", NUMBER}}, {2, {"dim_param", BYTES}}, {3, {"denotation", BYTES}}};

[[noreturn]] void unfit(const std::string& problem) { throw UnfitGraph(problem); }
[[noreturn]] void cut_off() { unfit("is not an ONNX file, or is cut off"); }

struct Span {
    size_t from = 0, to = 0;
};

struct Item {  // of a field: a number, or a place in the file
    int64_t number = 0;
    Number real = 0;
    Span span;
};

class Message {  // the fields of one message by their numbers
public:
    bool has(uint64_t field) const { return found_.count(field) > 0; }
    const std::vector<Item>& all(uint64_t field) const {
        static const std::vector<Item> none;
        const auto found = found_.find(field);
        return found == found_.end() ? none : found->second;
    }
    int64_t number(uint64_t field, int64_t missing = 0) const { return has(field) ? all(field)[0].number : missing; }
    std::optional<Span> span(uint64_t field) const { return has(field) ? std::optional(all(field)[0].span) : std::nullopt; }
    std::vector<Item>& place(uint64_t field) { return found_[field]; }

private:
    std::map<uint64_t, std::vector<Item>> found_;
};

bool is_utf8(const char* text, size_t size) {
    for (size_t at = 0; at < size;) {
        const size_t length = utf8_length(text + at, size - at);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

class Parser {
public:
    explicit Parser(const std::string& content) : content_(content) {}

    Graph model() {
        const Message model = message("model", MODEL, {0, content_.size()});
        if (!model.has(7)) unfit("is not an ONNX file: it holds no graph");
        Graph graph;
        graph.opset = opset(model.all(8));
        const Message parts = message("graph", GRAPH, *model.span(7));
        if (parts.all(1).size() > NODE_LIMIT)
            unfit("has " + std::to_string(parts.all(1).size()) + " operators, at most " + std::to_string(NODE_LIMIT) + " are read");
        for (const Item& item : parts.all(5)) {
            auto [name, tensor] = named_tensor(item.span);
            if (name.empty()) unfit("holds an initialiser without a name");
            if (!graph.tensors.emplace(name, std::move(tensor)).second) unfit("holds initialiser '" + shown(name) + "' twice");
        }
        for (const Item& item : parts.all(11)) graph.inputs.push_back(value(item.span));
        for (const Item& item : parts.all(12)) graph.outputs.push_back(value(item.span));
        for (const Item& item : parts.all(13)) value(item.span);
        for (const Item& item : parts.all(1)) graph.nodes.push_back(node(item.span));
        return graph;
    }

private:
    int64_t opset(const std::vector<Item>& imports) {
        std::vector<int64_t> versions;
        for (const Item& item : imports) {
            const Message found = message("opset", OPSET, item.span);
            const std::string domain = text(found.span(1));
            if (!domain.empty() && domain != "ai.onnx")
                unfit("uses operators of the domain '" + shown(domain) + "', only ONNX's own are run");
            versions.push_back(found.number(2));
        }
        if (versions.size() != 1) unfit("names " + std::to_string(versions.size()) + " versions of ONNX's operators, not one");
        return versions[0];
    }

    Node node(Span span) {
        const Message found = message("node", NODE, span);
        Node node;
        node.kind = text(found.span(4));
        const std::string domain = text(found.span(7));
        if (!domain.empty() && domain != "ai.onnx")
            unfit("uses '" + shown(node.kind) + "' of the domain '" + shown(domain) + "', only ONNX's own operators are run");
        for (const Item& item : found.all(5)) {
            auto [name, value] = attribute(item.span);
            if (!node.attributes.emplace(name, std::move(value)).second)
                unfit("gives '" + shown(node.kind) + "' the attribute '" + shown(name) + "' twice");
        }
        for (const Item& item : found.all(1)) node.inputs.push_back(text(item.span));
        for (const Item& item : found.all(2)) node.outputs.push_back(text(item.span));
        node.name = text(found.span(3));
        return node;
    }

    std::pair<std::string, Attribute> attribute(Span span) {
        static const std::map<int64_t, uint64_t> fields = {{1, 2}, {2, 3}, {3, 4}, {4, 5}, {6, 7}, {7, 8}};  // by its type
        const Message found = message("attribute", ATTRIBUTE, span);
        const std::string name = text(found.span(1));
        const auto kind = fields.find(found.number(20));
        bool plain = kind != fields.end();
        for (const auto& [type, field] : fields) plain = plain && (field == kind->second || found.all(field).empty());
        if (!plain) unfit("holds an attribute '" + shown(name) + "' that is not of one plain type");
        switch (kind->second) {
            case 2: return {name, static_cast<float>(found.has(2) ? found.all(2)[0].real : 0)};
            case 3: return {name, found.number(3)};
            case 4: return {name, found.has(4) ? bytes(*found.span(4)) : std::string()};
            case 5: return {name, found.has(5) ? Attribute(named_tensor(*found.span(5)).second) : Attribute(int64_t(0))};
            case 7: {
                std::vector<float> all;
                for (const Item& item : found.all(7)) all.push_back(static_cast<float>(item.real));
                return {name, all};
            }
            default: {
                std::vector<int64_t> all;
                for (const Item& item : found.all(8)) all.push_back(item.number);
                return {name, all};
            }
        }
    }

    std::pair<std::string, Tensor> named_tensor(Span span) {
        const Message found = message("tensor", TENSOR, span);
        const std::string name = text(found.span(8));
        Tensor tensor;
        tensor.type = static_cast<int>(std::min<int64_t>(std::max<int64_t>(found.number(2), -1), 1000));
        for (const Item& item : found.all(1)) tensor.dims.push_back(item.number);
        if (found.number(14) != 0) unfit("keeps '" + shown(name) + "' in another file: a graph must hold its weights");
        if (size_of(tensor.type) == 0)
            unfit("holds '" + shown(name) + "' in ONNX's type " + std::to_string(tensor.type) + ", which no graph of ours has");
        bool possible = tensor.dims.size() <= RANK_LIMIT;
        for (int64_t dim : tensor.dims) possible = possible && dim >= 0 && dim < (int64_t(1) << 31);
        if (!possible) unfit("gives '" + shown(name) + "' dimensions that can't be");
        const uint64_t own = tensor.type == FLOAT ? 4 : tensor.type == DOUBLE ? 10 : tensor.type == INT64 ? 7 : 5;
        bool others = false;
        for (uint64_t field : {4, 5, 7, 10}) others |= field != own && !found.all(field).empty();
        const std::vector<Item>& numbers = found.all(own);
        const Big wanted = tensor.size();
        bool fits = !others;
        if (const std::optional<Span> raw = found.span(9)) {
            fits = fits && numbers.empty() && static_cast<Big>(raw->to - raw->from) == times(wanted, static_cast<Big>(size_of(tensor.type)));
            tensor.raw = content_.data() + raw->from;
        } else {
            fits = fits && static_cast<Big>(numbers.size()) == wanted;
            for (const Item& item : numbers) tensor.numbers.push_back(own == 4 || own == 10 ? item.real : static_cast<Number>(item.number));
        }
        if (!fits) unfit("says that '" + shown(name) + "' has " + shown(tensor.dims) + " elements and holds another number of them");
        return {name, std::move(tensor)};
    }

    Value value(Span span) {
        const Message found = message("value", VALUE, span);
        Value value;
        value.name = text(found.span(1));
        const Message described = found.has(2) ? message("type", TYPE, *found.span(2)) : Message();
        if (!described.has(1)) unfit("declares '" + shown(value.name) + "' without the type of a tensor");
        const Message tensor = message("tensor type", TENSOR_TYPE, *described.span(1));
        value.type = tensor.number(1);
        if (tensor.has(2)) {
            const Message shape = message("shape", SHAPE, *tensor.span(2));
            if (shape.all(1).size() > RANK_LIMIT)
                unfit("declares '" + shown(value.name) + "' with " + std::to_string(shape.all(1).size()) + " dimensions, at most 8 are read");
            for (const Item& item : shape.all(1)) {
                const Message dim = message("dimension", DIM, item.span);
                if (dim.has(2)) text(dim.span(2));
                value.dims.push_back(!dim.has(1) ? -1 : dim.number(1) == -1 ? -2 : dim.number(1));  // -2: a number, and none that can be
            }
        }
        return value;
    }

    std::string bytes(Span span) const { return content_.substr(span.from, span.to - span.from); }
    std::string text(const std::optional<Span>& span) const {
        if (!span) return "";
        if (!is_utf8(content_.data() + span->from, span->to - span->from)) unfit("is damaged: a name is not UTF-8");
        return bytes(*span);
    }

    Message message(const char* what, const Rules& rules, Span span) {
        Message found;
        for (size_t at = span.from; at < span.to;) {
            const uint64_t key = varint(at, span.to), number = key >> 3, wire = key & 7;
            Item item;
            if (wire == 0) {
                item.number = static_cast<int64_t>(varint(at, span.to));
            } else {
                const uint64_t size = wire == 2 ? varint(at, span.to) : wire == 1 ? 8 : wire == 5 ? 4 : UINT64_MAX;
                if (size > span.to - at) cut_off();
                item.span = {at, at + static_cast<size_t>(size)};
                at += static_cast<size_t>(size);
            }
            const auto rule = rules.find(number);
            if (rule == rules.end())
                unfit("has a field of number " + std::to_string(number) + " in a " + what + ", which no graph of ours has");
            const Kind kind = rule->second.kind;
            if (wire == 2 && kind >= NUMBERS) {
                packed(kind, item.span, found.place(number));
                continue;
            }
            const uint64_t expected = kind == NUMBER || kind == NUMBERS ? 0 : kind == BYTES ? 2 : kind == DOUBLES ? 1 : 5;
            if (wire != expected || (!rule->second.many && found.has(number)))
                unfit(std::string("is damaged: the field '") + rule->second.name + "' of a " + what + " can't be read");
            if (wire == 1 || wire == 5) item.real = real_at(item.span.from, wire == 1);
            found.place(number).push_back(item);
        }
        return found;
    }

    uint64_t varint(size_t& at, size_t end) {
        if (--left_ < 0) unfit("has more than " + std::to_string(FIELD_LIMIT) + " fields");
        uint64_t value = 0;
        for (int shift = 0; at < end && shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(content_[at++]);
            value |= static_cast<uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) return value;
        }
        cut_off();
    }

    Number real_at(size_t at, bool wide) const {
        double large;
        float small;
        if (wide) {
            std::memcpy(&large, content_.data() + at, 8);
            return large;
        }
        std::memcpy(&small, content_.data() + at, 4);
        return small;
    }

    void packed(Kind kind, Span span, std::vector<Item>& into) {
        if (kind == NUMBERS) {
            for (size_t at = span.from; at < span.to;) into.push_back({static_cast<int64_t>(varint(at, span.to)), 0, {}});
            return;
        }
        const size_t size = kind == SINGLES ? 4 : 8, count = (span.to - span.from) / size;
        left_ -= static_cast<int64_t>(count);
        if ((span.to - span.from) % size || left_ < 0) unfit("is damaged, or holds too many numbers that are packed");
        for (size_t i = 0; i < count; i++) into.push_back({0, real_at(span.from + i * size, size == 8), {}});
    }

    const std::string& content_;
    int64_t left_ = FIELD_LIMIT;
};

Number half_of(uint16_t bits) {
    const int sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
    const Number value = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return sign ? -value : value;
}

}  // namespace

Big times(Big one, Big other) {
    if (one == 0 || other == 0) return 0;
    return one > BIG / other ? BIG : one * other;
}
Big product(const Shape& shape) {
    Big found = 1;
    for (int64_t side : shape) found = times(found, side);
    return found;
}
size_t size_of(int type) {
    switch (type) {
        case UINT8: case INT8: case BOOL: return 1;
        case FLOAT16: return 2;
        case FLOAT: case INT32: return 4;
        case INT64: case DOUBLE: return 8;
        default: return 0;
    }
}
std::string shown(const std::string& name, size_t most) { return name.size() <= most ? name : name.substr(0, most) + "…"; }
std::string shown(const Shape& shape) {
    std::string all;
    for (int64_t side : shape) all += (all.empty() ? "" : ", ") + std::to_string(side);
    return "(" + all + ")";
}

std::vector<Number> Tensor::values() const {
    if (raw == nullptr) {
        std::vector<Number> all = numbers;
        for (Number& one : all) {
            if (type == FLOAT16) one = half_of(static_cast<uint16_t>(static_cast<int64_t>(one)));  // its bits stand in whole numbers
            if (type == BOOL) one = one != 0;
            if (type == UINT8) one = static_cast<uint8_t>(static_cast<int64_t>(one));
            if (type == INT8) one = static_cast<int8_t>(static_cast<int64_t>(one));
            if (type == INT32) one = static_cast<int32_t>(static_cast<int64_t>(one));
        }
        return all;
    }
    std::vector<Number> all(static_cast<size_t>(size()));
    for (size_t i = 0; i < all.size(); i++) {
        const char* at = raw + i * size_of(type);
        auto take = [at](auto value) {
            std::memcpy(&value, at, sizeof value);
            return value;
        };
        switch (type) {
            case FLOAT: all[i] = take(float()); break;
            case DOUBLE: all[i] = take(double()); break;
            case INT32: all[i] = take(int32_t()); break;
            case INT64: all[i] = static_cast<Number>(take(int64_t())); break;
            case FLOAT16: all[i] = half_of(take(uint16_t())); break;
            case INT8: all[i] = take(int8_t()); break;
            case BOOL: all[i] = take(uint8_t()) != 0; break;
            default: all[i] = take(uint8_t());
        }
    }
    return all;
}

Graph parse(const std::string& content) { return Parser(content).model(); }

}  // namespace blastscope::wire
