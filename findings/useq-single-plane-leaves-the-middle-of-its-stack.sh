#!/usr/bin/env bash
# useq-schema 0.9.2, the plans of pymmcore-plus: a z plan whose step doesn't divide its range counts one plane more than it visits. A channel that isn't to be stacked
# (do_stack=False) is taken at the middle of the planes that were counted: at another focus than the middle, or never. Nothing is said.
#
# Input: z plans of which num_positions() and the positions are asked, and sequences of two channels, one stacked, one with do_stack=False, as the fluorescence or
# the overview beside a bright-field stack. useq's source calls the plane for it "the middle plane", and its docstrings say that the upper end of a range is
# "always encompassed", though it may not be visited.
#
# Seen: a range of 4 in steps of 2 has three planes, and the single one lies at 0. A range of 5 in steps of 2 is counted as four and visited as three, -2.5, -0.5 and
# 1.5; 2.5 isn't encompassed, and the single plane lies at 1.5, the last of the stack. A range of 0.5 in steps of 2 is counted as two and visited as one: the second channel
# isn't taken at all, and the plan's estimate of its duration counts it. A program should compare num_positions() with the list, or give ranges that are multiples of the step.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check useq-schema==0.9.2 pydantic==2.14.4 numpy==2.4.6
cat > "$place/planes.py" <<'PYTHON'
import sys
from importlib.metadata import version

import useq

# plan: the planes that it visits, how many it counts, where the single plane is taken
CASES = {
    useq.ZRangeAround(range=4, step=2): ([-2, 0, 2], 3, [0]),
    useq.ZRangeAround(range=5, step=2): ([-2.5, -0.5, 1.5], 4, [1.5]),
    useq.ZAboveBelow(above=3, below=2, step=2): ([-2, 0, 2], 4, [2]),
    useq.ZTopBottom(top=7, bottom=0, step=3): ([0, 3, 6], 4, [6]),
    useq.ZRangeAround(range=0.5, step=2): ([-0.25], 2, []),
}


def sequence(plan):
    channels = [useq.Channel(config="stacked", exposure=1), useq.Channel(config="single", exposure=1000, do_stack=False)]
    return useq.MDASequence(z_plan=plan, channels=channels)


print("useq-schema", version("useq-schema"), "pydantic", version("pydantic"))
as_expected = "encompassed" in useq.ZRangeAround.__doc__
for plan, (planes, counted, single) in CASES.items():
    events = list(sequence(plan))
    taken = [event.z_pos for event in events if event.channel.config == "single"]
    stacked = [event.z_pos for event in events if event.channel.config == "stacked"]
    estimate = sequence(plan).estimate_duration().total_duration
    print(f"{type(plan).__name__}({plan}): visits {stacked}, counts {plan.num_positions()}; the single plane at {taken}, of {estimate:.3f} s")
    as_expected &= stacked == list(plan) == planes and plan.num_positions() == counted and taken == single
    as_expected &= estimate > 1  # the second channel's exposure is in it
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/planes.py"
