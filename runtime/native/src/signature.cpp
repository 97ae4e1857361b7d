#include "signature.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <sstream>

#include "errors.h"
#include "files.h"
#include "model_signature.h"
#include "packing.h"
#include "public_key.h"
#include "utf8.h"

namespace blastscope {
namespace {

constexpr uint64_t SIGNATURE_LIMIT = 1 << 20;  // bytes; one of fifteen files has 4 kB
constexpr const char* TRUSTED = "trusted";  // in place of a key's path: any of the user's

[[noreturn]] void refuse(const std::string& path, const std::string& problem) { bundle_fail(path, problem, BLASTSCOPE_SIGNATURE); }

std::string signature_path(const std::string& path) {
    std::error_code error;
    std::string whole = plain_path(std::filesystem::absolute(path, error).string());
    const std::string suffix = ".zip";
    if (whole.size() > suffix.size() && whole.compare(whole.size() - suffix.size(), suffix.size(), suffix) == 0)
        whole.resize(whole.size() - suffix.size());
    return whole + ".sig";
}

std::string name_of(const std::string& path) { return std::filesystem::path(path).filename().string(); }

std::string read_signature(const std::string& path) {
    const std::string place = signature_path(path);
    std::string content;
    try {
        content = File::open_plain(place).read(SIGNATURE_LIMIT + 1);
    } catch (const FileError& error) {
        refuse(path, "is not signed: '" + place + "' can't be read, " + lower(error.what()));
    }
    if (content.size() > SIGNATURE_LIMIT)
        refuse(path, "'" + name_of(place) + "' is larger than " + std::to_string(SIGNATURE_LIMIT) + " bytes, so it is no signature");
    return content;
}

// Why this key doesn't vouch for the bundle; nothing where it does.
std::optional<std::string> objection(const Bundle& bundle, const ModelSignature& signature, const PublicKey& key) {
    if (signature.hint() != key.hint()) return "another key made it";
    if (!key.made(signature.made(), signature.message())) return "the signature was not made by it, or was changed";
    return signature.objection(bundle);
}

// What a zip holds beside its files (comments, times, gaps) isn't signed: so it must be what `blastscope pack` writes.
void check_packed(const Bundle& bundle, const std::string& path) {
    try {
        if (File::open_plain(real_path(path)).sha256() == packed_sha256(bundle)) return;
    } catch (const FileError& error) {
        refuse(path, "can't be read any more, " + lower(error.what()));
    }
    refuse(path, "isn't the zip that 'blastscope pack' makes of its files: pack the bundle anew");
}

std::vector<std::string> trusted_keys() {
    const std::string folder = default_config_dir() + "/trusted-keys", suffix = ".pub";
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& item : std::filesystem::directory_iterator(folder, error)) {
        const std::string path = item.path().string();
        if (path.size() > suffix.size() && path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0) found.push_back(path);
    }
    std::sort(found.begin(), found.end());
    for (const std::string& path : found)
        if (!File::open_own(path))
            fail(BLASTSCOPE_DATA, "'" + path + "': is no key to trust: it must be a file of this user that nobody else may write");
    return found;
}

}  // namespace

std::vector<std::string> required_keys(const std::string& required) {
    std::vector<std::string> keys;
    std::istringstream lines(required);
    std::string line;
    do {
        line.clear();
        std::getline(lines, line);
        if (line.empty()) fail(BLASTSCOPE_USAGE, "require_signature has a line without a key: it must name public keys, or be 'trusted'");
        if (line == TRUSTED) {
            for (std::string& path : trusted_keys()) keys.push_back(std::move(path));
        } else {
            keys.push_back(line);
        }
    } while (!lines.eof());
    return keys;
}

void check_signature(const Bundle& bundle, const std::string& path, const std::vector<std::string>& keys) {
    if (keys.empty()) refuse(path, "can't be checked, since no key is trusted: add one with 'blastscope trust add'");
    const std::string content = read_signature(path), name = "'" + name_of(signature_path(path)) + "'";
    std::optional<ModelSignature> signature;
    try {
        signature.emplace(content);
    } catch (const NoSignature& error) {
        refuse(path, name + " is no signature of a model: get it anew (" + error.what() + ")");
    }
    if (signature->digest_of(MANIFEST) != bundle.digest) refuse(path, name + " is the signature of another bundle: get both anew");
    std::string reasons;
    for (const std::string& one : keys) {
        const std::optional<std::string> reason = objection(bundle, *signature, PublicKey(one));
        if (!reason) {
            if (is_file(path)) check_packed(bundle, path);
            return;
        }
        reasons += (reasons.empty() ? "'" : "; '") + name_of(one) + "': " + *reason;
    }
    refuse(path, "isn't signed by a key that is required (" + reasons + "): ask who made it for their key");
}

}  // namespace blastscope
