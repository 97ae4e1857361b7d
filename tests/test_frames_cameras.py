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


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[Frame]:
    """Some of BCCD's training frames."""
    names = (shared_data / "bccd" / "train.txt").read_text().split()[2:200:50]
    pictures = [read_image(shared_data / "bccd" / "JPEGImages" / f"{name}.jpg") for name in names]
    return [picture for picture in pictures if isinstance(picture, np.ndarray)]


@pytest.mark.parametrize(("light", "glass"), [(1.0, 226), (1.8, 226), (2.4, 234)])
def test_nuclei_on_clean_glass_are_not_taken_for_red_cells(cnmc: Path, light: float, glass: int) -> None:
    frame = cells_on_glass(sorted(cnmc.rglob("*.webp"))[::440][:12], light, glass)
    found = find_cells(frame, survey_frame(frame, SPEC, pixel_um=SPEC.network_um / 0.4), SPEC)
    assert len(found) == 12


def test_the_scale_of_a_dim_frame_is_that_of_the_bright_one(frames: list[Frame]) -> None:
    for frame in frames:
        bright, dim = (survey_frame(shown, SPEC) for shown in (frame, np.asarray(frame * 0.3, np.uint8)))
        assert dim.scale_source == "red-cells"
        assert dim.pixel_um == pytest.approx(bright.pixel_um, rel=0.12)
