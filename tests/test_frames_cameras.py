"""White cells where nothing else helps: without red cells, behind other lamps and cameras, in a round field of view."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.frames.finding import find_cells
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.frames.survey import survey_frame
from blastscope.runtime.image import read_image

Frame = NDArray[np.uint8]
SPEC = FrameSpec()


def cells_on_glass(paths: list[Path], light: float, glass: int) -> Frame:
    """Four cells a row, and nothing else."""
    tiles = []
    for path in paths:
        image = read_image(path)
        assert isinstance(image, np.ndarray)
        lit = np.minimum(image * light, glass - 6)
        tile = np.where(image.max(axis=2, keepdims=True) > 0, lit, glass).astype(np.uint8)
        tiles.append(cv2.resize(tile, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA))
    rows = [np.hstack(tiles[first : first + 4]) for first in range(0, len(tiles), 4)]
    return np.ascontiguousarray(np.vstack(rows))


@pytest.mark.parametrize(("light", "glass"), [(1.0, 226), (1.8, 226), (2.4, 234)])
def test_nuclei_on_clean_glass_are_not_taken_for_red_cells(cnmc: Path, light: float, glass: int) -> None:
    frame = cells_on_glass(sorted(cnmc.rglob("*.webp"))[::440][:12], light, glass)
    found = find_cells(frame, survey_frame(frame, SPEC, pixel_um=SPEC.network_um / 0.4), SPEC)
    assert len(found) == 12
