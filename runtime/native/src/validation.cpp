#include "validation.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine_cache.h"
#include "errors.h"
#include "files.h"
#include "vote.h"

namespace blastscope {
namespace {

constexpr double LEAST_NOVELTY = 0.1;   // a tenth of what a training cell has
constexpr double NOVELTY_SHARE = 0.25;  // int8 moves it by some hundredths

int label_of(const float* pairs) {
    float table[3][2];
    std::memcpy(table, pairs, sizeof table);
    return vote(table, nullptr, false).label;
}

GoldenCheck check(Engine& engine, const Golden& golden, int64_t count, double tolerance) {
    const GoldenCheck broken = {INFINITY, count, false};
    if (engine.rows != (golden.novelty.empty() ? 3 : 4)) return broken;
    const size_t size = golden.crops.size() / static_cast<size_t>(golden.count);
    GoldenCheck found;
    double novelty = 0;
    for (int64_t place = 0; place < count; place++) {
        float answer[8];
        engine.lanes[0]->infer(golden.crops.data() + place * size, answer);
        const float* wanted = golden.probabilities.data() + place * 6;
        for (int i = 0; i < 2 * engine.rows; i++)
            if (!std::isfinite(answer[i])) return broken;
        for (int i = 0; i < 6; i++) found.difference = std::max(found.difference, std::fabs(static_cast<double>(answer[i]) - wanted[i]));
        found.flips += label_of(answer) != label_of(wanted);
        if (!golden.novelty.empty()) {
            const float known = golden.novelty[place];
            // float32 as in Python, so that both pass the same engines
            const float share = std::fabs(answer[6] - known) / std::max(known, static_cast<float>(LEAST_NOVELTY));
            novelty = std::max(novelty, static_cast<double>(share));
        }
    }
    found.passed = found.difference <= tolerance && found.flips == 0 && novelty <= NOVELTY_SHARE;
    return found;
}

template <class Value>
Sha256::Digest digest_of(const std::vector<Value>& values) {
    return Sha256().update(values.data(), values.size() * sizeof(Value)).digest();
}

// Where it stands that these bytes of an engine passed this golden set with this tolerance.
std::string proof_of(const Engine& engine, const Golden& golden, double tolerance, const std::string& cache_dir) {
    const std::string repr = python_repr(tolerance);
    const Sha256::Digest parts[] = {Sha256().update(engine.digest).digest(),
                                    Sha256().update(engine.content->data(), engine.content->size()).digest(),
                                    digest_of(golden.crops),
                                    digest_of(golden.probabilities),
                                    digest_of(golden.novelty),
                                    Sha256().update(repr).digest()};
    Sha256 whole;
    for (const Sha256::Digest& part : parts) whole.update(part.data(), part.size());
    return cache_dir + "/engines/" + engine.digest + "-" + whole.hex().substr(0, 32) + ".proof";
}

}  // namespace

GoldenCheck validate(Engine& engine, const Golden& golden, double tolerance, const std::string& cache_dir) {
    const std::string proof = engine.content ? proof_of(engine, golden, tolerance, cache_dir) : "";
    if (!proof.empty() && File::open_own(proof)) {
        // one crop at least: a proof can't say that the machine still computes
        const GoldenCheck first = check(engine, golden, 1, tolerance);
        if (first.passed) return first;
    }
    const GoldenCheck found = check(engine, golden, golden.count, tolerance);
    if (!proof.empty() && found.passed) {
        try {
            make_private_folder(parent_of(proof));
            write_private(proof, {});
        } catch (const FileError&) {  // it is only a cache
        }
    }
    return found;
}

}  // namespace blastscope
