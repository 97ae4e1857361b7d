// libFuzzer: any bytes as an ONNX file are examined, or refused; what is examined can be given uint8 activations.
#include "errors.h"
#include "graph_check.h"
#include "uint8_activations.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string content(reinterpret_cast<const char*>(data), size);
    try {
        blastscope::examine_graph(content, "ensemble", 16);
        blastscope::with_uint8_activations(content, "fuzzed", "CPU");
    } catch (const blastscope::UnfitGraph&) {
    } catch (const blastscope::Error&) {
    }
    return 0;
}
