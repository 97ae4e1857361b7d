// JSON as manifest.json has it: UTF-8, no key twice, every number finite.
#pragma once

#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

namespace blastscope {

using Json = nlohmann::json;

class NotJson : public std::runtime_error {  // the message says what is wrong
public:
    using std::runtime_error::runtime_error;
};

// Integers beyond 64 bits become the nearest that has 64. Throws NotJson.
Json parse_strict_json(const std::string& data);

}  // namespace blastscope
