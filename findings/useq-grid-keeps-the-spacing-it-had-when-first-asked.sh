#!/usr/bin/env bash
# useq-schema 0.9.2, the plans of pymmcore-plus: a grid plan that was iterated once keeps its positions, also after its field of view was set. Two plans that
# are equal, and print alike, then visit different places.
#
# Input: GridRowsColumns of 2 x 2. Without a field of view useq spaces it in steps of 1 um; pymmcore-plus sets `fov_width` and `fov_height` from camera and
# pixel size when the plan is run. Both attributes may be assigned: the model isn't frozen, and validates the assignment.
#
# Seen: set to 500 um before anything asks, the grid lies at -250 and 250 um, as it should. Counted or listed first, as a program does that wants to tell
# how many tiles there will be, it stays at -0.5 and 0.5 um: all tiles show one place. `fov_width` says 500 in both. Nothing is said.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check useq-schema==0.9.2 pydantic==2.14.4 numpy==2.4.6
cat > "$place/grid.py" <<'PYTHON'
import sys
from importlib.metadata import version

import useq


def places(sequence):
    return sorted({(event.x_pos, event.y_pos) for event in sequence})


def plan():
    return useq.MDASequence(grid_plan=useq.GridRowsColumns(rows=2, columns=2), stage_positions=[(0, 0)])


def set_field(sequence):
    sequence.grid_plan.fov_width = 500
    sequence.grid_plan.fov_height = 500
    return sequence


asked, fresh = plan(), plan()
before = places(asked)
set_field(asked), set_field(fresh)
right = [(x, y) for x in (-250, 250) for y in (-250, 250)]
print("useq-schema", version("useq-schema"), "pydantic", version("pydantic"))
print("before the field was set:      ", before)
print("set before anything asked:     ", places(fresh), "fov_width", fresh.grid_plan.fov_width)
print("set after it was listed once:  ", places(asked), "fov_width", asked.grid_plan.fov_width)
print("the plans are equal:", asked.grid_plan == fresh.grid_plan, "and print alike:", asked.grid_plan.model_dump() == fresh.grid_plan.model_dump())
print("the plan that was listed, read back from its own JSON:", places(useq.MDASequence.model_validate_json(asked.model_dump_json())))
stale = places(asked) == before and abs(before[0][0]) == 0.5
equal = asked.grid_plan == fresh.grid_plan
sys.exit(0 if stale and equal and places(fresh) == right else 1)
PYTHON
"$place/venv/bin/python" "$place/grid.py"
