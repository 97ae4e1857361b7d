// What stands in a `blastscope_prediction`.
#pragma once

#include <optional>
#include <string>

#include "blastscope.h"
#include "crop.h"
#include "manifest.h"
#include "vote.h"

namespace blastscope {

void clear_prediction(blastscope_prediction& prediction);  // as of nothing that was called or refused
void set_box(blastscope_prediction& prediction, const Box& box);
void put_detail(blastscope_prediction& prediction, const std::string& detail);  // cut at a whole character where it is long
void fill_refusal(blastscope_prediction& prediction, const Refusal& refusal);   // clears it first
// The vote's call with the probabilities that it rests on; `sets`: the levels of prediction sets, where the bundle has some.
void fill_call(blastscope_prediction& prediction, const Vote& call, const float (&probabilities)[3][2],
               const std::optional<PredictionSets>& sets);

}  // namespace blastscope
