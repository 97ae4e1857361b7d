// libFuzzer: any bytes as golden.safetensors are read, or refused with an Error.
#include "errors.h"
#include "golden.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    blastscope::Manifest manifest;
    manifest.golden.file = "golden.safetensors";
    manifest.golden_count = 1 + size % 2;
    manifest.crop.side_px = 8;
    manifest.measures_novelty = size % 3 == 0;
    try {
        blastscope::parse_golden(std::string(reinterpret_cast<const char*>(data), size), manifest, "fuzzed");
    } catch (const blastscope::Error&) {
    }
    return 0;
}
