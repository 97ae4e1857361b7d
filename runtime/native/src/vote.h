// The vote: the voter with the largest probability names the label, as runtime/inference/voting.py says.
#pragma once

namespace blastscope {

struct Vote {
    int label;    // 0 hem, 1 all
    int voter;    // 0 a, 1 b, 2 combined
    float score;  // that voter's probability of ALL
};

// `probabilities` of a, b, combined and hem, all. `threshold`: with it the label is ALL where the score is at least this.
// `partial`: a voter whose two probabilities are NaN was not run. Throws Error (ENGINE) where one is not a finite number.
Vote vote(const float (&probabilities)[3][2], const float* threshold, bool partial);

}  // namespace blastscope
