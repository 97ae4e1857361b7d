#include "engine_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <ctime>
#include <map>

#include "cpu_info.h"
#include "strict_json.h"

namespace blastscope {
namespace {

constexpr const char* LAYOUT = "8";  // as in runtime/backends/blob_store.py
constexpr size_t SEAL = 32;          // bytes of sha256 at an engine file's end
constexpr time_t DAY = 86400;

std::string stem_of(const std::string& path) {
    const size_t slash = path.rfind('/'), start = slash == std::string::npos ? 0 : slash + 1;
    return path.substr(start, path.rfind('.') - start);
}

bool ends_in(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Deletes what nobody has opened for months, and files of writers that were killed.
void drop_unused(const std::string& folder) {
    DIR* open = ::opendir(folder.c_str());
    if (open == nullptr) return;
    const time_t now = std::time(nullptr);
    while (dirent* item = ::readdir(open)) {
        const std::string name = item->d_name, path = folder + "/" + name;
        const bool fresh = name[0] == '.' && ends_in(name, ".new");
        const time_t days = ends_in(name, ".engine") || ends_in(name, ".proof") ? 90 : fresh ? 1 : 0;
        struct stat found;
        if (days > 0 && ::lstat(path.c_str(), &found) == 0 && found.st_mtime < now - days * DAY) ::unlink(path.c_str());
    }
    ::closedir(open);
}

std::string quoted(const std::string& text) { return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace); }

}  // namespace

std::string engine_digest(const std::vector<std::pair<std::string, std::string>>& facts) {
    std::map<std::string, std::string> all(facts.begin(), facts.end());
    all["layout"] = LAYOUT;
    all["platform"] = "linux " + machine();
    all["cpu"] = cpu_identity();
    std::string json;  // as Python's json.dumps(..., sort_keys=True) writes it
    for (const auto& [name, value] : all) json += (json.empty() ? "{" : ", ") + quoted(name) + ": " + quoted(value);
    return sha256_hex(json + "}");
}

std::string engine_file(const std::string& cache_dir, const std::string& digest) { return cache_dir + "/engines/" + digest + ".engine"; }

std::optional<CachedEngine> read_engine(const std::string& path) {
    const std::optional<File> file = File::open_own(path);
    if (!file || file->status().st_size <= static_cast<off_t>(SEAL)) return std::nullopt;
    CachedEngine found;
    try {
        found.memory = std::make_shared<Mapping>(*file);
    } catch (const FileError&) {
        return std::nullopt;
    }
    ::futimens(file->handle(), nullptr);
    found.size = found.memory->size() - SEAL;
    std::memcpy(found.content.data(), found.memory->data() + found.size, SEAL);
    if (Sha256().update(stem_of(path)).update(found.memory->data(), found.size).digest() != found.content) return std::nullopt;
    return found;
}

std::optional<std::string> write_engine(const std::string& path, const Pieces& pieces) {
    Sha256 sealing;
    sealing.update(stem_of(path));
    for (const auto& [data, size] : pieces) sealing.update(data, size);
    const Sha256::Digest seal = sealing.digest();
    Pieces all = pieces;
    all.emplace_back(seal.data(), seal.size());
    const std::string folder = parent_of(path);
    try {
        make_private_folder(folder);
        write_private(path, all);
    } catch (const FileError& error) {
        return "'" + folder + "' can't be written (" + error.what() + ")";
    }
    drop_unused(folder);
    return std::nullopt;
}

std::string python_repr(double value) {
    char buffer[64];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    const std::string text(buffer, end);
    const size_t mark = text.find('e');
    const int exponent = std::stoi(text.substr(mark + 1));
    const std::string sign = text[0] == '-' ? "-" : "";
    std::string digits;
    for (char letter : text.substr(0, mark))
        if (letter >= '0' && letter <= '9') digits += letter;
    const int count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        const std::string power = std::to_string(std::abs(exponent));
        return sign + digits.substr(0, 1) + (count > 1 ? "." + digits.substr(1) : "") + (exponent < 0 ? "e-" : "e+") +
               (power.size() < 2 ? "0" : "") + power;
    }
    if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
    if (exponent >= count - 1) return sign + digits + std::string(static_cast<size_t>(exponent - count + 1), '0') + ".0";
    return sign + digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
}

}  // namespace blastscope
