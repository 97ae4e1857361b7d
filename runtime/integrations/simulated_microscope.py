"""A simulated microscope: a Micro-Manager core whose stage moves over a picture that its camera sees.

For rehearsals and tests of smart acquisition: the core, its engine and its events are the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import MissingLibrary, UsageError
from blastscope.runtime.integrations.stage_transform import Place

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
        """Goes there at once."""
        self._place = (float(x), float(y))

    def get_position_um(self) -> Place:
        """Where it is."""
        return self._place

    def home(self) -> None:
        """Goes to the slide's middle."""
        self._place = (0.0, 0.0)

    def stop(self) -> None:
        """It is never on its way."""

    def set_origin_x(self) -> None:
        """The middle of the slide stays the origin."""

    def set_origin_y(self) -> None:
        """The middle of the slide stays the origin."""


class SlideCamera(CameraDevice):
    """Sees the part of `slide` (H, W, 3) uint8 RGB in whose middle the stage is; white where the slide ends.

    The slide's middle is at (0, 0); y grows upwards, as in useq's grids.
    """

    def __init__(self, slide: NDArray[np.uint8], stage: SlideStage, *, size: tuple[int, int], pixel_um: float) -> None:
        super().__init__()
        self._slide, self._stage, self._size, self._pixel_um = slide, stage, size, pixel_um
        self._exposure_ms = 10.0

    def get_exposure(self) -> float:
        """In milliseconds."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Changes nothing in the picture."""
        self._exposure_ms = exposure

    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        width, height = self._size
        return height, width, 3

    def dtype(self) -> type[np.uint8]:
        """Of a channel."""
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
        """What lies below the objective now."""
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
    """A core with camera and stage over `slide` (H, W, 3) uint8 RGB; the camera's frame is of `size` (width, height).

    Raises `MissingLibrary` on import where pymmcore-plus is not installed.
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
