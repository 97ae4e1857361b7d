#include "strict_json.h"

#include <cmath>
#include <vector>

namespace blastscope {
namespace {

constexpr size_t DEPTH = 200;

class Builder : public nlohmann::json_sax<Json> {
public:
    Json root;

    bool null() override { return add(nullptr); }
    bool boolean(bool value) override { return add(value); }
    bool number_integer(number_integer_t value) override { return add(value); }
    bool number_unsigned(number_unsigned_t value) override { return add(value); }
    bool number_float(number_float_t value, const string_t& digits) override {
        if (!std::isfinite(value)) throw NotJson(digits.substr(0, 200) + " is too large for a number");
        if (digits.find_first_of(".eE") == std::string::npos)
            return digits[0] == '-' ? add(std::numeric_limits<int64_t>::min()) : add(std::numeric_limits<uint64_t>::max());
        return add(value);
    }
    bool string(string_t& value) override { return add(std::move(value)); }
    bool binary(binary_t&) override { return false; }
    bool start_object(size_t) override { return open(Json::object()); }
    bool start_array(size_t) override { return open(Json::array()); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }
    bool key(string_t& name) override {
        if (open_.back()->contains(name)) throw NotJson("key '" + name.substr(0, 200) + "' stands twice");
        name_ = name;
        return true;
    }
    bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
        throw NotJson(std::string(error.what()).substr(0, 200));
    }

private:
    template <class Value>
    bool add(Value&& value) {
        place(Json(std::forward<Value>(value)));
        return true;
    }
    Json* place(Json value) {
        if (open_.empty()) return &(root = std::move(value));
        Json& parent = *open_.back();
        if (parent.is_array()) {
            parent.push_back(std::move(value));
            return &parent.back();
        }
        return &(parent[name_] = std::move(value));
    }
    bool open(Json container) {
        if (open_.size() >= DEPTH) throw NotJson("it is nested too deep");
        open_.push_back(place(std::move(container)));
        return true;
    }
    bool close() {
        open_.pop_back();
        return true;
    }

    std::vector<Json*> open_;  // a container isn't moved while one in it is open
    std::string name_;
};

}  // namespace

Json parse_strict_json(const std::string& data) {
    if (data.compare(0, 3, "\xEF\xBB\xBF") == 0) throw NotJson("it begins with a byte-order mark");
    Builder builder;
    Json::sax_parse(data, &builder);
    return std::move(builder.root);
}

}  // namespace blastscope
