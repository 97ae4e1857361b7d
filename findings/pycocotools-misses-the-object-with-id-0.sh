#!/usr/bin/env bash
# pycocotools 2.0.11: an object whose annotation has the id 0 can't be found. The detection that matches it is counted as a false alarm, and the object
# as missed, because COCOeval keeps the id of the match and takes 0 for "no match". Nothing is said.
#
# Input: one picture, three boxes, and three detections that are the same boxes, ids from 0 or from 1. COCO's page on the format says that an annotation's
# id is an int, and asks for nothing else; programs that count from 0 write it so.
#
# Seen: with ids 1, 2, 3 average precision and recall are 1; with 0, 1, 2 they are 0.442 and 0.667, at every overlap from 0.5 to 0.95. That is less than for
# a box that isn't detected at all, which gives 0.663: here the surest detection counts as a false alarm besides. The order in the file plays no part. Of
# a large set one object is lost, which nobody notices. A program should number its annotations from 1, and renumber others' before it compares.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cat > "$place/ids.py" <<'PYTHON'
import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOXES = [[10, 10, 20, 20], [50, 50, 30, 30], [100, 20, 25, 40]]  # x, y, width, height
SCORES = [0.9, 0.8, 0.7]


def annotation(number, box):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


def compared(ids, found=3):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": 1, "width": 200, "height": 100}],
            "categories": [{"id": 1, "name": "cell"}],
            "annotations": [annotation(number, box) for number, box in zip(ids, BOXES, strict=True)],
        }
        truth.createIndex()
        rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in zip(BOXES, SCORES, strict=True)]
        evaluation = COCOeval(truth, truth.loadRes(rows[3 - found :]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, at_half, recall = (float(evaluation.stats[place]) for place in (0, 1, 8))
    return round(precision, 3), round(at_half, 3), round(recall, 3)


print("pycocotools", version("pycocotools"), "numpy", np.__version__)
cases = {
    "ids 1, 2, 3": compared([1, 2, 3]),
    "ids 7, 8, 9": compared([7, 8, 9]),
    "ids 0, 1, 2": compared([0, 1, 2]),
    "ids 2, 1, 0": compared([2, 1, 0]),
    "ids 1, 2, 3, one box not detected": compared([1, 2, 3], found=2),
}
for name, scores in cases.items():
    print(f"{name:35} average precision {scores[0]}, at an overlap of 0.5 {scores[1]}, recall {scores[2]}")
right = all(cases[name] == (1.0, 1.0, 1.0) for name in ("ids 1, 2, 3", "ids 7, 8, 9"))
first_lost, last_lost, missed = cases["ids 0, 1, 2"], cases["ids 2, 1, 0"], cases["ids 1, 2, 3, one box not detected"]
lost = first_lost[2] == last_lost[2] == missed[2] == 0.667 and first_lost[0] < missed[0] < 1
sys.exit(0 if right and lost else 1)
PYTHON
"$place/venv/bin/python" "$place/ids.py"
