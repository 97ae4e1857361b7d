#include "public_key.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/provider.h>

#include "errors.h"
#include "files.h"
#include "sha256.h"
#include "utf8.h"

namespace blastscope {
namespace {

constexpr uint64_t KEY_LIMIT = 1 << 16;  // bytes

struct Release {
    void operator()(BIO* one) const { BIO_free(one); }
    void operator()(EVP_MD_CTX* one) const { EVP_MD_CTX_free(one); }
};
using Bio = std::unique_ptr<BIO, Release>;

std::string key_text(const std::string& path) {
    try {
        const File file = File::open_plain(path);
        if (static_cast<uint64_t>(file.status().st_size) > KEY_LIMIT)
            fail(BLASTSCOPE_DATA, "'" + path + "': has " + std::to_string(file.status().st_size) + " bytes, so it is no key");
        return file.read(KEY_LIMIT);
    } catch (const FileError& error) {
        fail(BLASTSCOPE_DATA, "'" + path + "': can't be read: " + lower(error.what()));
    }
}

// The digest that goes with the key's curve; "" where it is none of the three.
std::string digest_of(const EVP_PKEY* key) {
    char curve[80] = "";
    if (!EVP_PKEY_is_a(key, "EC") || EVP_PKEY_get_group_name(key, curve, sizeof curve, nullptr) != 1) return "";
    const std::string name = curve;
    return name == "prime256v1" ? "SHA256" : name == "secp384r1" ? "SHA384" : name == "secp521r1" ? "SHA512" : "";
}

int no_password(char*, int, int, void*) { return -1; }  // OpenSSL's own would ask at the terminal

}  // namespace

// OpenSSL with what is compiled into it and nothing else: no file of settings is read, which could load other code.
class PublicKey::Library {
public:
    Library() {
#ifdef BLASTSCOPE_OWN_CRYPTO  // what the program itself has of OpenSSL is another copy
        OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
#endif
        context = OSSL_LIB_CTX_new();
        provider_ = context == nullptr ? nullptr : OSSL_PROVIDER_load(context, "default");
        if (provider_ != nullptr) return;
        OSSL_LIB_CTX_free(context);
        throw std::bad_alloc();
    }
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library() {
        OSSL_PROVIDER_unload(provider_);
        OSSL_LIB_CTX_free(context);
        ERR_clear_error();
    }
    OSSL_LIB_CTX* context;

private:
    OSSL_PROVIDER* provider_;
};

PublicKey::PublicKey(const std::string& path) : library_(std::make_shared<Library>()) {
    const std::string text = key_text(path);
    const Bio input(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))), output(BIO_new(BIO_s_mem()));
    if (!input || !output) throw std::bad_alloc();
    key_ = PEM_read_bio_PUBKEY_ex(input.get(), nullptr, no_password, nullptr, library_->context, nullptr);
    digest_ = key_ == nullptr ? "" : digest_of(key_);
    // written anew, since a point may be compressed in the file
    const bool whole = !digest_.empty() &&
                       EVP_PKEY_set_utf8_string_param(key_, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT, "uncompressed") == 1 &&
                       PEM_write_bio_PUBKEY_ex(output.get(), key_, library_->context, nullptr) == 1;
    if (!whole) {
        EVP_PKEY_free(key_);
        fail(BLASTSCOPE_DATA, "'" + path + "': is no public key in PEM on P-256, P-384 or P-521");
    }
    char* written = nullptr;
    const long size = BIO_get_mem_data(output.get(), &written);
    hint_ = sha256_hex(std::string(written, static_cast<size_t>(size)));
}

PublicKey::~PublicKey() { EVP_PKEY_free(key_); }

bool PublicKey::made(const std::string& signature, const std::string& message) const {
    const std::unique_ptr<EVP_MD_CTX, Release> context(EVP_MD_CTX_new());
    if (!context) throw std::bad_alloc();
    if (EVP_DigestVerifyInit_ex(context.get(), nullptr, digest_.c_str(), library_->context, nullptr, key_, nullptr) != 1) return false;
    const auto bytes = [](const std::string& text) { return reinterpret_cast<const unsigned char*>(text.data()); };
    return EVP_DigestVerify(context.get(), bytes(signature), signature.size(), bytes(message), message.size()) == 1;
}

}  // namespace blastscope
