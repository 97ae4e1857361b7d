// libFuzzer: any bytes as a signature, or as the statement in one, are judged or refused.
#include <openssl/evp.h>

#include "model_signature.h"

namespace {

std::string enveloped(const std::string& statement) {
    std::string text((statement.size() + 2) / 3 * 4 + 1, '\0');
    EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), reinterpret_cast<const unsigned char*>(statement.data()),
                    static_cast<int>(statement.size()));
    text.pop_back();
    return R"({"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},)"
           R"("dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}],"payload":")" + text + R"("}})";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string content(reinterpret_cast<const char*>(data), size);
    blastscope::Bundle bundle;
    bundle.digest = std::string(64, 'a');
    bundle.manifest.golden.file = "golden.safetensors";
    bundle.manifest.golden.sha256 = std::string(64, 'b');
    for (const std::string& one : {content, enveloped(content)}) {
        try {
            const blastscope::ModelSignature signature(one);
            signature.message();
            signature.digest_of(blastscope::MANIFEST);
            signature.objection(bundle);
        } catch (const blastscope::NoSignature&) {
        }
    }
    return 0;
}
