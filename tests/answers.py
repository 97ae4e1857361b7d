"""What a bundle answers on every cell and frame of a data folder, as JSON, and how two such files differ.

    python tests/answers.py record DATA ANSWERS.json [BUNDLE]      with the code before a change, and again after it
    python tests/answers.py compare BEFORE.json AFTER.json

BUNDLE is the shipped one unless it is named; to compare code, not networks, name the older checkout's both times. Uses public
names only, so it runs on older checkouts too (`PYTHONPATH=CHECKOUT`). `compare` exits 1 where a box, a refusal or a
call differs, or a probability by more than 1e-6.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import blastscope

TOLERANCE = 1e-6  # of a probability: engines may add up in another order


def cell_answer(prediction: blastscope.Prediction) -> dict[str, Any]:
    """The parts of a prediction that must not change."""
    refusal = prediction.refusal and prediction.refusal.code
    return {"label": prediction.label, "box": prediction.box, "refusal": refusal, "probabilities": prediction.probabilities}


def frame_answer(report: blastscope.FrameReport) -> list[dict[str, Any]]:
    """Box, call and refusal of each cell in the frame."""
    answers = []
    for cell in report.cells:
        answer = cell_answer(cell.prediction) if cell.prediction else {"label": None, "probabilities": None}
        refusal = cell.refusal and cell.refusal.code
        answers.append({**answer, "box": cell.box, "refusal": refusal})
    return answers


def record(data: Path, bundle: Path) -> dict[str, Any]:
    """The answers by path, relative to `data`."""
    cells = sorted((data / "cnmc").rglob("*.webp"))
    frames = sorted((data / "bccd").rglob("*.jpg"))
    with blastscope.open_bundle(
        bundle, device="cpu", precision="fp16", execution="f32", layout="fused", workload="throughput"
    ) as scope:
        called = {path.relative_to(data).as_posix(): cell_answer(found) for path, found in scope.classify_files(cells)}
        found = {
            str(path.relative_to(data)): frame_answer(report)
            for path, report in zip(frames, scope.examine_files(frames), strict=True)
        }
    return {"cells": called, "frames": found}


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """The places at which two records differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        missing = [f"{where}/{key}: only in one" for key in before.keys() ^ after.keys()]
        return missing + [
            line for key in before.keys() & after.keys() for line in differences(before[key], after[key], f"{where}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            line for at, pair in enumerate(zip(before, after, strict=True)) for line in differences(*pair, f"{where}[{at}]")
        ]
    if isinstance(before, float) and isinstance(after, float):
        return [] if abs(before - after) <= TOLERANCE else [f"{where}: {before} and {after}"]
    return [] if before == after else [f"{where}: {before} and {after}"]


def main(arguments: list[str]) -> int:
    """Runs the command named in the module's docstring."""
    if len(arguments) not in (3, 4) or arguments[0] not in ("record", "compare"):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments[0] == "record":
        bundle = Path(arguments[3]) if len(arguments) == 4 else blastscope.SHIPPED_BUNDLE
        Path(arguments[2]).write_text(json.dumps(record(Path(arguments[1]), bundle), indent=1), encoding="utf-8")
        return 0
    before, after = (json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments[1:])
    found = differences(before, after)
    print(*found[:50], f"{len(found)} differences in {len(before['cells'])} cells and {len(before['frames'])} frames", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
