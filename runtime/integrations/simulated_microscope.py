"""A simulated microscope: a Micro-Manager core whose stage moves over a picture that its camera sees.

For rehearsals and tests of smart acquisition: the core, its engine and its events are the real ones.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from blastscope.runtime.errors import BlastscopeError, DataError, MissingLibrary, UsageError
from blastscope.runtime.integrations.micromanager import Place, StreamFactory
from blastscope.runtime.integrations.smart_acquisition import RevisitPlan, SmartScan, scan_and_revisit
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import find_images
from blastscope.runtime.io.slides.metadata import LEAST_UM, MOST_UM
from blastscope.runtime.io.strict_model import problems
from blastscope.runtime.types import Refusal

try:
    from pymmcore_plus.experimental.unicore import CameraDevice, UniMMCore, XYStageDevice
except ModuleNotFoundError as error:
    raise MissingLibrary("pymmcore-plus", "micromanager") from error


class SlideStage(XYStageDevice):
    """A stage that is where it was told to be."""

    def __init__(self) -> None:
        super().__init__()
        self._place: Place = (0.0, 0.0)

    def set_position_um(self, x: float, y: float) -> None:
        """Moves the stage, at once."""
        self._place = (float(x), float(y))

    def get_position_um(self) -> Place:
        """The stage's position in micrometres."""
        return self._place

    def home(self) -> None:
        """Moves the stage to the slide's middle."""
        self._place = (0.0, 0.0)

    def stop(self) -> None:
        """Does nothing: the stage moves at once."""

    def set_origin_x(self) -> None:
        """Does nothing: the middle of the slide stays the origin."""

    def set_origin_y(self) -> None:
        """Does nothing: the middle of the slide stays the origin."""


class SlideCamera(CameraDevice):
    """Shows the part of `slide` (H, W, 3) uint8 RGB around the stage's position; white beyond the slide.

    The slide's middle is at (0, 0); y grows upwards, as in useq's grids.
    """

    def __init__(self, slide: NDArray[np.uint8], stage: SlideStage, *, size: tuple[int, int], pixel_um: float) -> None:
        super().__init__()
        self._slide, self._stage, self._size, self._pixel_um = slide, stage, size, pixel_um
        self._exposure_ms = 10.0

    def get_exposure(self) -> float:
        """The exposure in milliseconds."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Sets the exposure, which changes nothing in the picture."""
        self._exposure_ms = exposure

    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        width, height = self._size
        return height, width, 3

    def dtype(self) -> type[np.uint8]:
        """The type of a channel."""
        return np.uint8

    def start_sequence(self, n: int | None, get_buffer: Any) -> Any:
        """Fills a buffer for each frame."""
        count = 0
        while n is None or count < n:
            buffer = get_buffer(self.shape(), self.dtype())
            buffer[:] = self.view()
            yield dict[str, Any]()
            count += 1

    def view(self) -> NDArray[np.uint8]:
        """The field of view at the stage's present position."""
        x, y = self._stage.get_position_um()
        width, height = self._size
        left = round(self._slide.shape[1] / 2 + x / self._pixel_um - width / 2)
        top = round(self._slide.shape[0] / 2 - y / self._pixel_um - height / 2)
        seen = np.full((height, width, 3), 255, np.uint8)
        x0, y0 = max(left, 0), max(top, 0)
        part = self._slide[y0 : max(top + height, 0), x0 : max(left + width, 0)]
        seen[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
        return seen


def slide_core(slide: NDArray[np.uint8], *, pixel_um: float, size: tuple[int, int] = (640, 480)) -> UniMMCore:
    """A core with camera and stage over a picture.

    Parameters
    ----------
    slide : (H, W, 3) uint8 array
        RGB.
    pixel_um : float
        Micrometres per pixel.
    size : (int, int)
        Width and height of the camera's frame.

    Returns
    -------
    UniMMCore
    """
    if slide.ndim != 3 or slide.shape[2] != 3 or slide.dtype != np.uint8:
        raise UsageError(f"a slide must be (H, W, 3) uint8 RGB, not {slide.dtype} of shape {slide.shape}")
    core, stage = UniMMCore(), SlideStage()
    devices: Mapping[str, Any] = {"Stage": stage, "Camera": SlideCamera(slide, stage, size=size, pixel_um=pixel_um)}
    for label, device in devices.items():
        core.loadPyDevice(label, device)
        core.initializeDevice(label)
    core.setCameraDevice("Camera")
    core.setXYStageDevice("Stage")
    core.setAutoShutter(False)  # there is no shutter
    core.definePixelSizeConfig("slide")
    core.setPixelSizeUm("slide", pixel_um)
    return core


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
    """Scans a mosaic of frames with the simulated microscope, and visits the suspicious cells.

    Parameters
    ----------
    scope : StreamFactory
        What examines; a `Scope` does.
    frames : sequence of (H, W, 3) uint8 arrays
        RGB, all of one size.
    pixel_um : float
        Micrometres per pixel.
    plan : RevisitPlan
        What is visited, and how.

    Returns
    -------
    SmartScan

    Raises
    ------
    UsageError
        Frames of several sizes, or a scale that no microscope has.
    """
    from useq import AbsolutePosition, GridRowsColumns, MDASequence

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
    """Reads the pictures, and prints one line per visit."""
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
