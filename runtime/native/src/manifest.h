// manifest.json, parsed strictly: what runtime/FORMAT.md demands of it, and what the library uses of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "crop.h"

namespace blastscope {

constexpr const char* MANIFEST = "manifest.json";
constexpr const char* NEWEST_FORMAT = "1.5";
constexpr uint64_t MANIFEST_LIMIT = 8 * 1024 * 1024;  // bytes

struct FileEntry {
    std::string file, sha256;
    int64_t size = 0;
};

struct GraphEntry : FileEntry {
    std::string models, precision;  // models by their present names: 'ensemble', 'a', 'b', 'combined'
    std::vector<std::pair<std::string, double>> tolerances;  // by execution
    std::optional<bool> gate_passed;                         // nothing: there is no gate result
    bool gate_tells_patients = false;
    // The tolerance of an execution; nothing where the bundle gives none.
    std::optional<double> tolerance(const std::string& execution) const;
};

struct CascadeRule {
    int first = 0;  // the voter that is run first: 0 a, 1 b
    double threshold = 1;
    std::string precision;
    double flips = 0;
};

struct PredictionSets {
    double hem = 0, all = 0;  // the least probability with which the class is in the set
};

struct Manifest {
    std::string format = NEWEST_FORMAT, name;
    bool gate_passed = true;  // false: waived, and its calls mean nothing
    CropSpecification crop;
    std::optional<double> operating_point;
    std::optional<CascadeRule> cascade;
    std::optional<PredictionSets> sets;
    std::optional<double> novelty_limit;
    bool measures_novelty = false, has_uncertainty = false;
    std::vector<GraphEntry> graphs;
    FileEntry golden;
    int64_t golden_count = 0;
    std::optional<FileEntry> card;
    std::vector<FileEntry> detector;  // its graphs and golden set, which the library doesn't read
    bool has_int8_detector = false;
    std::optional<FileEntry> neighbours;  // features of the training's cells, which the library doesn't read
    std::string neighbours_graph;         // sha256 of the fused graph whose features they are

    std::vector<FileEntry> files() const;  // all but manifest.json
    const GraphEntry* fused(const std::string& precision) const;
};

// The manifest in the bytes of a manifest.json. Throws Error: FORMAT_TOO_NEW, else BUNDLE; `shown` is what it calls the bundle.
Manifest parse_manifest(const std::string& data, const std::string& shown);

}  // namespace blastscope
