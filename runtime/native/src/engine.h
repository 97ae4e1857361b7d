// Engine: a fused graph loaded by OpenVINO for one device, with as many lanes as can work at the same time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"
#include "sha256.h"

namespace ov {
class Core;
}

namespace blastscope {

using Notes = std::vector<std::string>;  // sentences for people

struct CascadeTurn {
    int first;        // the voter that is run first: 0 a, 1 b
    float threshold;  // it decides alone where its larger probability is at least this
};

class Lane {  // for one thread at a time
public:
    virtual ~Lane() = default;
    // Answers on one crop (S, S, 3): `rows` pairs. Throws Error (ENGINE).
    virtual void infer(const uint8_t* crop, float* answer) = 0;
    // The same with NaN for the voters that were left out.
    virtual void infer_in_turn(const uint8_t* crop, float* answer, const CascadeTurn& turn);
};

struct Engine {
    std::shared_ptr<void> memory;  // where imported networks read their weights: freed last
    std::shared_ptr<ov::Core> core;
    std::vector<std::unique_ptr<Lane>> lanes;
    int rows = 3;                  // of an answer: a, b, combined and, where it is measured, the novelty
    std::string device, execution, layout, digest;
    Notes notes;
    std::optional<Sha256::Digest> content;  // seal of the cached file that it was loaded from
    // Puts what was compiled into the cache, and gives the reason where it can't be.
    std::function<std::optional<std::string>()> save_to_cache;
};

struct EngineOptions {
    std::string device, execution, layout, workload, cache_dir;
    int threads = 1;
    bool rebuild = false;  // takes no engine from the cache
};

// One core for all handles; it ends with the last of them. Throws Error (ENGINE).
std::shared_ptr<ov::Core> shared_core();
// What `device` computes in. Throws Error (DEVICE).
std::vector<std::string> executions_of(ov::Core& core, const std::string& device);
// What of library and device can change an engine or its speed, by name.
using Facts = std::vector<std::pair<std::string, std::string>>;
Facts fingerprint(ov::Core& core, const std::string& device);
// The layouts worth measuring on the device, the one that is taken unmeasured first.
std::vector<std::string> offered_layouts(const std::string& device, const std::string& workload, int threads);
// Compiles a graph of the bundle, or takes the compiled engine from the cache. Throws Error.
std::unique_ptr<Engine> open_engine(const std::shared_ptr<ov::Core>& core, const Bundle& bundle, const GraphEntry& entry,
                                    const EngineOptions& options);

}  // namespace blastscope
