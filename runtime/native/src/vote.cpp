#include "vote.h"

#include <algorithm>
#include <cmath>

#include "errors.h"

namespace blastscope {

Vote vote(const float (&probabilities)[3][2], const float* threshold, bool partial) {
    constexpr float TINY = 1e-38f;  // an engine that flushes subnormals to zero and one that doesn't give one order
    double strength[3], strongest = 0;
    bool malignant[3];
    for (int voter = 0; voter < 3; voter++) {
        const float hem = probabilities[voter][0], all = probabilities[voter][1];
        strength[voter] = 0;
        malignant[voter] = false;
        if (partial && std::isnan(hem) && std::isnan(all)) continue;
        if (!std::isfinite(hem) || !std::isfinite(all))
            fail(BLASTSCOPE_ENGINE, "a network answered with something that is not a number");
        // a ratio of two float32 in float64: its order is exact, and equal ratios are found equal
        const double safe_hem = std::max(hem, TINY), safe_all = std::max(all, TINY);
        strength[voter] = std::max(safe_hem, safe_all) / std::min(safe_hem, safe_all);
        malignant[voter] = safe_all >= safe_hem;
        strongest = std::max(strongest, strength[voter]);
    }
    if (strongest == 0) fail(BLASTSCOPE_ENGINE, "no voter of a cell was run");
    int decided = -1;  // of the strongest, one for ALL goes before one for HEM; then the order is a, b, combined
    for (int voter = 2; voter >= 0; voter--)
        if (strength[voter] == strongest && malignant[voter]) decided = voter;
    for (int voter = 2; voter >= 0 && (decided < 0 || !malignant[decided]); voter--)
        if (strength[voter] == strongest) decided = voter;
    const float score = probabilities[decided][1];
    return {threshold ? score >= *threshold : malignant[decided], decided, score};
}

}  // namespace blastscope
