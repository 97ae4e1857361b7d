// Record: one object of a JSON file whose keys and values are checked as they are taken.
#pragma once

#include <initializer_list>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "strict_json.h"

namespace blastscope {

class Wrong : public std::runtime_error {  // 'key: what is wrong with it'
public:
    using std::runtime_error::runtime_error;
};

struct Range {
    double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
    bool above_least = false, below_most = false;  // the ends are outside
};
constexpr Range SHARE = {0, 1, false, false};

class Record {
public:
    Record(const Json& value, std::string path);  // throws Wrong where `value` is no object

    bool has(const std::string& key);     // there, and not null
    bool absent(const std::string& key);  // not there
    const Json& need(const std::string& key);
    Record record(const std::string& key);
    std::vector<Record> records(const std::string& key);
    std::string text(const std::string& key, size_t least = 0, size_t most = std::string::npos);  // in characters
    std::string digest(const std::string& key);
    std::string one_of(const std::string& key, std::initializer_list<const char*> known);
    std::vector<std::string> texts(const std::string& key);
    int64_t whole(const std::string& key, int64_t least = std::numeric_limits<int64_t>::min(),
                  int64_t most = std::numeric_limits<int64_t>::max());
    double number(const std::string& key, const Range& range = {});
    bool flag(const std::string& key);
    void texts_by_name(const std::string& key);  // an object of texts, checked alone
    void object(const std::string& key);         // any object
    std::vector<std::pair<std::string, const Json*>> items(const std::string& key);
    void end() const;  // throws Wrong for a key that nobody asked for

    [[noreturn]] void wrong(const std::string& key, const std::string& problem) const;

private:
    std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
    const Json* value_;
    std::string path_;
    std::set<std::string> seen_;
};

double number_of(const Json& value, const Range& range, const std::string& name);
size_t characters(const std::string& text);
bool is_relative_path(const std::string& text);  // of lower case letters, below a bundle's root
bool is_moment(const std::string& text);         // in UTC, as ISO 8601 writes it

}  // namespace blastscope
