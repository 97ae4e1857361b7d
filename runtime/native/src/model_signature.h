// ModelSignature: the content of a signature's file, an envelope (DSSE) of sigstore around a statement (in-toto) of a model's files.
#pragma once

#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "bundle.h"
#include "strict_json.h"

namespace blastscope {

class NoSignature : public std::runtime_error {  // what keeps a file from being one
public:
    using std::runtime_error::runtime_error;
};

class ModelSignature {
public:
    explicit ModelSignature(const std::string& content);  // throws NoSignature

    const std::string& hint() const { return hint_; }  // at the key that made it
    const std::string& made() const { return made_; }  // ECDSA's bytes
    std::string message() const;                        // what they sign: the payload with its kind and length before it
    // The sha256 of a file that it lists, in hex; "" where it lists none. Nobody's word until `made` is checked.
    std::string digest_of(const std::string& file) const;
    // Why it isn't the signature of all files of this bundle; nothing where it is.
    std::optional<std::string> objection(const Bundle& bundle) const;

private:
    using Digests = std::map<std::string, std::string>;  // in hex by file

    std::optional<std::string> compare(const Bundle& bundle) const;

    std::string media_type_, hint_, payload_type_, payload_, made_;
    Json statement_;
    Digests digests_;
};

std::string plain_path(const std::string& path);  // without '.', and doubled and last slashes, as Python's pathlib has it

}  // namespace blastscope
