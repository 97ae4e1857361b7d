#include "prediction.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace blastscope {

void clear_prediction(blastscope_prediction& prediction) {
    std::memset(&prediction, 0, sizeof prediction);
    prediction.label = prediction.voter = prediction.set = -1;
    prediction.probability = prediction.score = prediction.novelty = NAN;
    for (auto& pair : prediction.probabilities) pair[0] = pair[1] = NAN;
}

void set_box(blastscope_prediction& prediction, const Box& box) {
    prediction.has_box = 1;
    const int32_t sides[4] = {box.x0, box.y0, box.x1, box.y1};
    std::memcpy(prediction.box, sides, sizeof sides);
}

void put_detail(blastscope_prediction& prediction, const std::string& detail) {
    size_t size = std::min(detail.size(), sizeof prediction.detail - 1);
    while (size < detail.size() && size > 0 && (static_cast<unsigned char>(detail[size]) & 0xC0) == 0x80) size--;  // whole characters
    std::memcpy(prediction.detail, detail.data(), size);
    std::memset(prediction.detail + size, 0, sizeof prediction.detail - size);
}

void fill_refusal(blastscope_prediction& prediction, const Refusal& refusal) {
    clear_prediction(prediction);
    prediction.refusal = refusal.code;
    put_detail(prediction, refusal.detail);
}

void fill_call(blastscope_prediction& prediction, const Vote& call, const float (&probabilities)[3][2],
               const std::optional<PredictionSets>& sets) {
    std::memcpy(prediction.probabilities, probabilities, sizeof probabilities);
    prediction.label = call.label;
    prediction.voter = call.voter;
    prediction.score = call.score;
    prediction.probability = probabilities[call.voter][call.label];
    for (const auto& pair : probabilities) prediction.decided_early |= std::isnan(pair[0]) || std::isnan(pair[1]);
    if (sets) {
        const double score = call.score;
        prediction.set = (1 - score >= sets->hem ? 1 : 0) + (score >= sets->all ? 2 : 0);
    }
}

}  // namespace blastscope
