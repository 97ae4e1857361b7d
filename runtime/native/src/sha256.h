// SHA-256, by OpenSSL's libcrypto: by the older calls, which need no provider and so no state that others could change.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include <openssl/sha.h>

namespace blastscope {

class Sha256 {
public:
    using Digest = std::array<unsigned char, 32>;

    Sha256() { SHA256_Init(&state_); }
    Sha256& update(const void* data, size_t size) {
        SHA256_Update(&state_, data, size);
        return *this;
    }
    Sha256& update(const std::string& data) { return update(data.data(), data.size()); }
    Digest digest() {
        Digest found;
        SHA256_Final(found.data(), &state_);
        return found;
    }
    std::string hex() {
        std::string found;
        for (unsigned char byte : digest()) found += "0123456789abcdef"[byte >> 4], found += "0123456789abcdef"[byte & 15];
        return found;
    }

private:
    SHA256_CTX state_;
};

inline std::string sha256_hex(const std::string& data) { return Sha256().update(data).hex(); }

}  // namespace blastscope
