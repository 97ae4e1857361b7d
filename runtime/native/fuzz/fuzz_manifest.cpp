// libFuzzer: any bytes as manifest.json are parsed, or refused with an Error.
#include "errors.h"
#include "manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        blastscope::parse_manifest(std::string(reinterpret_cast<const char*>(data), size), "fuzzed");
    } catch (const blastscope::Error&) {
    }
    return 0;
}
