"""Smart acquisition on a simulated microscope.

    python -m blastscope.runtime.integrations.simulation_demo FRAMES... --pixel-um 0.07

The pictures are laid out as one slide, a simulated microscope scans it, and then visits the cells with the highest scores.
With a real one the same few lines do: `core = CMMCorePlus(); core.loadSystemConfiguration(...)` in the place of `slide_core`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from blastscope.runtime.errors import BlastscopeError, DataError, UsageError
from blastscope.runtime.integrations.protocols import StreamFactory
from blastscope.runtime.integrations.smart_acquisition import RevisitPlan, SmartScan, scan_and_revisit
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import find_images
from blastscope.runtime.io.slides.pixel_size_metadata import LEAST_UM, MOST_UM
from blastscope.runtime.io.strict_model import problems
from blastscope.runtime.types import Refusal


def mosaic(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One picture of all `frames` (H, W, 3), which are of one size, row by row; white where they don't fill it."""
    if len(shapes := {frame.shape for frame in frames}) != 1:
        sizes = ", ".join(f"{width} x {height}" for height, width, _ in sorted(shapes)) or "none"
        raise UsageError(f"the frames of a mosaic must be of one size, not of {sizes}")
    height, width, _ = frames[0].shape
    columns = math.ceil(math.sqrt(len(frames)))
    slide = np.full((height * -(-len(frames) // columns), width * columns, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        y, x = (number // columns) * height, (number % columns) * width
        slide[y : y + height, x : x + width] = frame
    return slide


def run_simulation(
    scope: StreamFactory, frames: Sequence[NDArray[np.uint8]], *, pixel_um: float, plan: RevisitPlan
) -> SmartScan:
    """Scans the mosaic of `frames` with the simulated microscope, frame by frame, and visits what `plan` says.

    Raises `UsageError` for frames of several sizes, and for a scale that no microscope has.
    """
    from useq import AbsolutePosition, GridRowsColumns, MDASequence

    from blastscope.runtime.integrations.simulated_microscope import slide_core

    if not LEAST_UM < pixel_um < MOST_UM:
        raise UsageError(f"pixel_um is {pixel_um}: micrometres per pixel must lie between {LEAST_UM} and {MOST_UM}")
    slide = mosaic(frames)
    height, width, _ = frames[0].shape
    core = slide_core(slide, pixel_um=pixel_um, size=(width, height))
    grid = GridRowsColumns(
        rows=slide.shape[0] // height,
        columns=slide.shape[1] // width,
        fov_width=width * pixel_um,
        fov_height=height * pixel_um,
    )
    scan = MDASequence(grid_plan=grid, stage_positions=(AbsolutePosition(x=0, y=0),))
    return scan_and_revisit(core, scope, scan, plan=plan)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the pictures, and prints a line a visit."""
    from blastscope.runtime.session import open_bundle

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("frames", nargs="+", type=Path, help="pictures of one size, and folders of them")
    parser.add_argument("--pixel-um", type=float, default=0.07, help="micrometres per pixel of the pictures")
    parser.add_argument("--most", type=int, default=5, help="visits")
    parser.add_argument("--least-score", type=float, default=0.5, help="probability of ALL from which a cell is visited")
    words = parser.parse_args(arguments)
    try:
        plan = RevisitPlan(most=words.most, least_score=words.least_score)
    except ValidationError as error:
        raise UsageError("; ".join(problems(error))) from error
    frames = [_read(path) for path in find_images(words.frames)]
    with open_bundle(workload="throughput") as scope:
        done = run_simulation(scope, frames, pixel_um=words.pixel_um, plan=plan)
    print(f"{done.frames} frames scanned, {done.suspects} suspicious cells, {len(done.visits)} visited")
    for visit in done.visits:
        x, y = visit.suspect.stage_um
        seen = "no cell there" if visit.offset_um is None else f"{visit.offset_um:.2f} um from the middle"
        score = "" if visit.suspect.score is None else f"  score {visit.suspect.score:.3f}"
        print(f"x {x:8.1f} um  y {y:8.1f} um{score}  {seen}")


def _read(path: Path) -> NDArray[np.uint8]:
    image = read_image(path)
    if isinstance(image, Refusal):
        raise DataError(path, image.detail)
    return image


if __name__ == "__main__":
    try:
        main()
    except BlastscopeError as error:
        print(f"blastscope: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
