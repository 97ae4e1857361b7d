"""Maps a place in a frame to the stage position that centres it."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Box

Place = tuple[float, float]  # x and y of the stage, in micrometres


class StageMap(StrictModel):
    """How the stage's axes lie to the camera's: the step that brings what lies right of the middle, or below it, to the middle.

    The default is that of useq's grids, whose first row has the largest y: to see what lies below, y falls. Every mix of
    camera, mirrors and stage exists; whether this one is right shows in `Visit.offset_um` of a first, small scan.
    """

    right: Place = (1.0, 0.0)
    down: Place = (0.0, -1.0)

    @model_validator(mode="after")
    def _spans_the_plane(self) -> Self:
        (a, b), (c, d) = self.right, self.down
        if abs(a * d - b * c) < 0.1:
            raise ValueError(f"right {self.right} and down {self.down} must be two directions, of about one micrometre each")
        return self

    def place_of(self, box: Box, size: tuple[int, int], stage_um: Place, pixel_um: float) -> Place:
        """The place that brings the middle of `box` to the middle of a frame of `size` (width, height) seen at `stage_um`."""
        right, down = offset_um(box, size, pixel_um)
        return (
            stage_um[0] + right * self.right[0] + down * self.down[0],
            stage_um[1] + right * self.right[1] + down * self.down[1],
        )


def offset_um(box: Box, size: tuple[int, int], pixel_um: float) -> tuple[float, float]:
    """How far right of the frame's middle and below it the middle of `box` lies."""
    x0, y0, x1, y1 = box
    return (x0 + x1 - size[0]) / 2 * pixel_um, (y0 + y1 - size[1]) / 2 * pixel_um
