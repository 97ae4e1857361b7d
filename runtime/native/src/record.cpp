#include "record.h"

#include <algorithm>

namespace blastscope {
namespace {

bool is_among(char letter, const char* others) {
    return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') || std::string(others).find(letter) != std::string::npos;
}

bool is_step(const std::string& step) {
    if (step.empty() || !is_among(step.front(), "") || !is_among(step.back(), "_-")) return false;
    return std::all_of(step.begin(), step.end(), [](char letter) { return is_among(letter, "._-"); });
}

bool has_pattern(const std::string& text, const std::string& pattern) {  // 0: a digit; all else: itself
    if (text.size() != pattern.size()) return false;
    for (size_t i = 0; i < text.size(); i++)
        if (pattern[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != pattern[i]) return false;
    return true;
}

}  // namespace

bool is_relative_path(const std::string& path) {
    size_t start = 0;
    for (;;) {
        const size_t end = path.find('/', start);
        if (!is_step(path.substr(start, end == std::string::npos ? end : end - start))) return false;
        if (end == std::string::npos) return path.size() <= 200;
        start = end + 1;
    }
}

bool is_moment(const std::string& text) {  // YYYY-MM-DDT, 8 to 15 of [0-9:.], Z or +00:00
    const size_t tail = text.size() > 6 && text.compare(text.size() - 6, 6, "+00:00") == 0 ? 6 : 1;
    if (text.size() < 19 || (tail == 1 && text.back() != 'Z') || !has_pattern(text.substr(0, 11), "0000-00-00T")) return false;
    const std::string clock = text.substr(11, text.size() - 11 - tail);
    return clock.size() >= 8 && clock.size() <= 15 && clock.find_first_not_of("0123456789:.") == std::string::npos;
}

size_t characters(const std::string& text) {
    size_t count = 0;
    for (char byte : text) count += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
    return count;
}

double number_of(const Json& value, const Range& range, const std::string& name) {
    if (!value.is_number()) throw Wrong(name + ": should be a number");
    const double found = value.get<double>();
    const bool low = range.above_least ? found <= range.least : found < range.least;
    const bool high = range.below_most ? found >= range.most : found > range.most;
    if (low || high) throw Wrong(name + ": is out of range");
    return found;
}

Record::Record(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {
    if (!value.is_object()) throw Wrong(path_ + ": should be an object");
}

void Record::wrong(const std::string& key, const std::string& problem) const { throw Wrong(name(key) + ": " + problem); }

bool Record::has(const std::string& key) {
    seen_.insert(key);
    const auto found = value_->find(key);
    return found != value_->end() && !found->is_null();
}
bool Record::absent(const std::string& key) {
    seen_.insert(key);
    return value_->find(key) == value_->end();
}
const Json& Record::need(const std::string& key) {
    seen_.insert(key);
    const auto found = value_->find(key);
    if (found == value_->end()) wrong(key, "field required");
    return *found;
}
Record Record::record(const std::string& key) { return Record(need(key), name(key)); }
std::vector<Record> Record::records(const std::string& key) {
    const Json& found = need(key);
    if (!found.is_array()) wrong(key, "should be a list");
    std::vector<Record> all;
    for (size_t place = 0; place < found.size(); place++) all.emplace_back(found[place], name(key) + "." + std::to_string(place));
    return all;
}
std::string Record::text(const std::string& key, size_t least, size_t most) {
    const Json& found = need(key);
    if (!found.is_string()) wrong(key, "should be text");
    const std::string text = found.get<std::string>();
    const size_t count = characters(text);
    if (count < least || count > most) wrong(key, "should have " + std::to_string(least) + " to " + std::to_string(most) + " characters");
    return text;
}
std::string Record::digest(const std::string& key) {
    const std::string found = text(key);
    if (found.size() != 64 || found.find_first_not_of("0123456789abcdef") != std::string::npos)
        wrong(key, "should be 64 digits in hex");
    return found;
}
std::string Record::one_of(const std::string& key, std::initializer_list<const char*> known) {
    const Json& found = need(key);
    std::string all;
    for (const char* one : known) {
        if (found.is_string() && found.get_ref<const std::string&>() == one) return one;
        all += std::string(all.empty() ? "'" : ", '") + one + "'";
    }
    wrong(key, "should be one of " + all);
}
std::vector<std::string> Record::texts(const std::string& key) {
    const Json& found = need(key);
    if (!found.is_array()) wrong(key, "should be a list of texts");
    std::vector<std::string> all;
    for (const Json& one : found) {
        if (!one.is_string()) wrong(key, "should be a list of texts");
        all.push_back(one.get<std::string>());
    }
    return all;
}
int64_t Record::whole(const std::string& key, int64_t least, int64_t most) {
    const Json& found = need(key);
    if (!found.is_number_integer()) wrong(key, "should be a whole number");
    const bool beyond = found.is_number_unsigned() && found.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    const int64_t number = beyond ? std::numeric_limits<int64_t>::max() : found.get<int64_t>();
    if (number < least || number > most) wrong(key, "is out of range");
    return number;
}
double Record::number(const std::string& key, const Range& range) { return number_of(need(key), range, name(key)); }
bool Record::flag(const std::string& key) {
    const Json& found = need(key);
    if (!found.is_boolean()) wrong(key, "should be true or false");
    return found.get<bool>();
}
void Record::object(const std::string& key) {
    if (!need(key).is_object()) wrong(key, "should be an object");
}
void Record::texts_by_name(const std::string& key) {
    object(key);
    for (const Json& one : need(key))
        if (!one.is_string()) wrong(key, "should hold texts");
}
std::vector<std::pair<std::string, const Json*>> Record::items(const std::string& key) {
    object(key);
    std::vector<std::pair<std::string, const Json*>> all;
    for (const auto& [inner, value] : need(key).items()) all.emplace_back(inner, &value);
    return all;
}
void Record::end() const {
    for (const auto& [key, value] : value_->items())
        if (!seen_.count(key)) wrong(key.substr(0, 200), "no such key");
}

}  // namespace blastscope
