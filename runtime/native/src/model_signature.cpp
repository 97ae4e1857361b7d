#include "model_signature.h"

#include <sstream>

#include <openssl/evp.h>

#include "sha256.h"

namespace blastscope {
namespace {

constexpr const char* MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json";
constexpr const char* PAYLOAD_TYPE = "application/vnd.in-toto+json";
constexpr const char* STATEMENT_TYPE = "https://in-toto.io/Statement/v1";
constexpr const char* PREDICATE_TYPE = "https://model_signing/signature/v1.0";

std::string text_at(const Json& table, const char* name) { return table.at(name).get<std::string>(); }

std::string decoded(const std::string& text) {
    const size_t letters = text.find_last_not_of('=') + 1, padding = text.size() - letters;
    const char* known = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (text.size() % 4 != 0 || padding > 2 || text.find_first_not_of(known) < letters) throw NoSignature("it isn't base64");
    std::string found(text.size() / 4 * 3, '\0');
    EVP_DecodeBlock(reinterpret_cast<unsigned char*>(found.data()), reinterpret_cast<const unsigned char*>(text.data()),
                    static_cast<int>(text.size()));
    found.resize(found.size() - padding);
    return found;
}

std::string bytes_of(const std::string& hex) {
    std::string found;
    if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) throw NoSignature("a digest isn't in hex");
    for (size_t at = 0; at < hex.size(); at += 2) found += static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16));
    return found;
}

// The files that the signer left out, by their paths or by folders of them. manifest.json, which must be signed, tells their digests.
bool left_out(const std::string& file, const Json& serialization) {
    if (!serialization.contains("ignore_paths")) return false;
    for (const Json& one : serialization.at("ignore_paths")) {
        const std::string path = plain_path(one.get<std::string>());
        if (path.empty() || file == path || file.rfind(path + "/", 0) == 0) return true;
    }
    return false;
}

}  // namespace

std::string plain_path(const std::string& path) {
    std::string found = path.rfind('/', 0) == 0 ? "/" : "";
    std::istringstream steps(path);
    for (std::string step; std::getline(steps, step, '/');)
        if (!step.empty() && step != ".") found += (found.empty() || found.back() == '/' ? "" : "/") + step;
    return found;
}

ModelSignature::ModelSignature(const std::string& content) {
    try {
        const Json found = parse_strict_json(content);
        const Json& envelope = found.at("dsseEnvelope");
        payload_ = decoded(text_at(envelope, "payload"));
        statement_ = parse_strict_json(payload_);
        media_type_ = text_at(found, "mediaType");
        payload_type_ = text_at(envelope, "payloadType");
        made_ = decoded(text_at(envelope.at("signatures").at(0), "sig"));
        hint_ = text_at(found.at("verificationMaterial").at("publicKey"), "hint");
        for (const Json& resource : statement_.at("predicate").at("resources"))
            if (text_at(resource, "algorithm") == "sha256") digests_[text_at(resource, "name")] = text_at(resource, "digest");
    } catch (const NotJson& error) {
        throw NoSignature(error.what());
    } catch (const Json::exception& error) {
        throw NoSignature(error.what());
    }
    if (hint_.empty()) throw NoSignature("it doesn't say by which key it was made");
}

std::string ModelSignature::message() const {
    const std::string kind = PAYLOAD_TYPE;
    return "DSSEv1 " + std::to_string(kind.size()) + " " + kind + " " + std::to_string(payload_.size()) + " " + payload_;
}

std::string ModelSignature::digest_of(const std::string& file) const {
    const auto found = digests_.find(file);
    return found == digests_.end() ? "" : found->second;
}

std::optional<std::string> ModelSignature::objection(const Bundle& bundle) const {
    if (media_type_ != MEDIA_TYPE) return "it is of another kind, '" + media_type_.substr(0, 80) + "'";
    if (payload_type_ != PAYLOAD_TYPE) return "its payload is of another kind";
    try {
        return compare(bundle);
    } catch (const Json::exception& error) {
        return std::string("its statement can't be read: ") + error.what();
    } catch (const NoSignature& error) {
        return error.what();
    }
}

std::optional<std::string> ModelSignature::compare(const Bundle& bundle) const {
    if (text_at(statement_, "_type") != STATEMENT_TYPE) return "its statement is of another type";
    if (text_at(statement_, "predicateType") != PREDICATE_TYPE) return "it isn't about a model";
    const Json& predicate = statement_.at("predicate");
    const Json& serialization = predicate.at("serialization");
    if (text_at(serialization, "method") != "files" || text_at(serialization, "hash_type") != "sha256") return "it doesn't list files by SHA-256";
    if (statement_.at("subject").size() != 1) return "it is about several models";
    Digests told, found;
    Sha256 all;
    for (const Json& resource : predicate.at("resources")) {
        if (text_at(resource, "algorithm") != "sha256") return "it doesn't list files by SHA-256";
        const std::string digest = bytes_of(text_at(resource, "digest"));
        all.update(digest);
        told[text_at(resource, "name")] = digest;
    }
    if (all.hex() != text_at(statement_.at("subject").at(0).at("digest"), "sha256")) return "its digest isn't that of what it lists";
    if (!left_out(MANIFEST, serialization)) found[MANIFEST] = bytes_of(bundle.digest);
    for (const FileEntry& entry : bundle.manifest.files())
        if (!left_out(entry.file, serialization)) found[entry.file] = bytes_of(entry.sha256);
    for (const auto& [file, digest] : found) {
        const auto listed = told.find(file);
        if (listed == told.end()) return "it doesn't list '" + file + "'";
        if (listed->second != digest) return "it has another digest for '" + file + "'";
    }
    for (const auto& [file, digest] : told)
        if (!found.count(file)) return "it lists '" + file.substr(0, 200) + "', which isn't in the bundle";
    return std::nullopt;
}

}  // namespace blastscope
