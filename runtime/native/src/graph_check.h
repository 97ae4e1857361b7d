// Examines an ONNX file of a bundle before a library sees it: its interface, its weights, and what it asks for in memory and work.
#pragma once

#include <string>

#include "bundle.h"
#include "onnx_wire.h"

namespace blastscope {

// Throws UnfitGraph where the graph in the bytes of an ONNX file breaks a rule of runtime/FORMAT.md.
void examine_graph(const std::string& content, const std::string& models, int side_px);

// The verified and examined bytes of a graph of the bundle. Throws Error (BUNDLE, DIGEST_MISMATCH).
std::string read_graph(const Bundle& bundle, const GraphEntry& entry);

}  // namespace blastscope
