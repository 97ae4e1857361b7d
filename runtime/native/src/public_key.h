// PublicKey: a public key in PEM on P-256, P-384 or P-521, by OpenSSL.
#pragma once

#include <memory>
#include <string>

typedef struct evp_pkey_st EVP_PKEY;

namespace blastscope {

class PublicKey {
public:
    explicit PublicKey(const std::string& path);  // throws Error (DATA)
    PublicKey(const PublicKey&) = delete;
    PublicKey& operator=(const PublicKey&) = delete;
    ~PublicKey();

    // What a signature names it by: sha256 of the key in PEM, in hex.
    const std::string& hint() const { return hint_; }
    // Whether it made this signature (ECDSA in DER) of the message, hashed with the SHA-2 of its curve's length.
    bool made(const std::string& signature, const std::string& message) const;

private:
    class Library;
    std::shared_ptr<Library> library_;
    EVP_PKEY* key_ = nullptr;
    std::string digest_, hint_;
};

}  // namespace blastscope
