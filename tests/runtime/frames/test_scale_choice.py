"""Which scale holds for a frame: the caller's, its file's, or that of the red cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from blastscope.runtime.frames.estimation.frame_parameters import (
    AGREE_WITHIN,
    ENOUGH_CIRCLES,
    choose_scale,
    estimate_frame_parameters,
)
from blastscope.runtime.frames.estimation.pixel_size import RedCells
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Refusal

CLEAR = RedCells(100.0, 2.0)  # 0.075 micrometres a pixel, by red cells of 7.5
FEW = RedCells(100.0, ENOUGH_CIRCLES - 0.1)


@pytest.mark.parametrize(
    ("given", "stated", "red_cells", "pixel_um", "source", "words"),
    [
        (None, None, CLEAR, 0.075, "red-cells", ""),
        (None, None, FEW, 0.075, "red-cells", ""),
        (None, None, None, 0.1, "assumed", ""),
        (None, 0.25, None, 0.25, "given", ""),
        (None, 0.08, CLEAR, 0.08, "given", ""),
        (None, 0.075 * AGREE_WITHIN, CLEAR, 0.105, "given", ""),
        (None, 0.11, CLEAR, 0.075, "red-cells", "the file says 0.11"),  # 60x for 40x
        (None, 0.05, CLEAR, 0.075, "red-cells", "the file says 0.05"),
        (None, 0.25, FEW, 0.25, "given", "few are seen"),
        (0.25, None, CLEAR, 0.25, "given", "0.25 micrometres a pixel were given, the red cells say 0.075"),
        (0.25, 0.075, CLEAR, 0.25, "given", "check the scale"),
        (0.08, 0.25, CLEAR, 0.08, "given", ""),
    ],
)
def test_red_cells_overrule_a_file_and_never_the_caller(
    given: float | None, stated: float | None, red_cells: RedCells | None, pixel_um: float, source: str, words: str
) -> None:
    scale = choose_scale(given, stated, red_cells, 7.5)
    assert scale.pixel_um == pytest.approx(pixel_um)
    assert scale.source == source
    assert words in scale.note
    assert bool(scale.note) == bool(words)


@pytest.fixture(scope="module")
def smear(shared_data: Path) -> NDArray[np.uint8]:
    path = shared_data / "bccd" / "JPEGImages" / "BloodImage_00000.jpg"
    if not path.is_file():
        pytest.skip("no real frames are at hand: no bccd/ beside cnmc/")
    frame = read_image(path)
    assert not isinstance(frame, Refusal)
    return frame


def examined(path: Path, frame: NDArray[np.uint8], pixel_um: float | None = None, **options: Any) -> FrameReport:
    tifffile.imwrite(path, frame, photometric="rgb", **options)
    (report,) = Examiner(lambda cells: [None] * len(cells), pixel_um=pixel_um).examine_files([path])  # type: ignore[misc]
    return report


WRONG: dict[str, dict[str, Any]] = {
    "1.0, which nobody set": {"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}},
    "the camera's own pixel": {"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 3.45, "PhysicalSizeY": 3.45}},
    "a printer's 6000 dpi": {"resolution": (6000, 6000), "resolutionunit": "INCH"},
    "another objective": {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_files_wrong_scale_is_told_and_red_cells_are_believed(tmp_path: Path, smear: NDArray[np.uint8], case: str) -> None:
    report = examined(tmp_path / "a.ome.tif", smear, **WRONG[case])
    plain = examined(tmp_path / "b.tif", smear)
    assert report.parameters
    assert plain.parameters
    assert (report.parameters.pixel_um, report.parameters.scale_source) == (plain.parameters.pixel_um, "red-cells")
    assert report.parameters.pixel_um == pytest.approx(0.074, rel=0.05)
    assert [cell.box for cell in report.cells] == [cell.box for cell in plain.cells]
    assert "says" in " ".join(report.notes)
    assert plain.notes == ()


def test_the_callers_scale_stands_with_a_note(tmp_path: Path, smear: NDArray[np.uint8]) -> None:
    report = examined(tmp_path / "a.tif", smear, pixel_um=0.25)
    assert report.parameters
    assert (report.parameters.pixel_um, report.parameters.scale_source) == (0.25, "given")
    assert "0.25 micrometres a pixel were given, the red cells say 0.07" in report.notes[0]
    right = examined(tmp_path / "a.tif", smear, pixel_um=0.07)
    assert right.notes == ()


def test_a_scale_at_which_no_cell_can_be_seen_is_told(tmp_path: Path) -> None:
    glass = np.full((90, 120, 3), 230, np.uint8)
    report = examined(tmp_path / "a.tif", glass, resolution=(6000, 6000), resolutionunit="INCH")
    assert report.pixel_um == pytest.approx(25400 / 6000)
    assert "no cell is looked for" in report.notes[-1]


def test_windows_of_a_slide_tell_a_wrong_scale_too(tmp_path: Path, smear: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.tile(smear, (3, 3, 1)), photometric="rgb", tile=(256, 256), resolution=(1e4, 1e4), resolutionunit=3
    )
    spec, whole = FrameSpecification(), smear.shape[0] * smear.shape[1]
    (report,) = Examiner(lambda cells: [None] * len(cells), spec, whole_pixels=whole).examine_files([path])  # type: ignore[misc]
    assert report.pixel_um == pytest.approx(estimate_frame_parameters(smear, spec).pixel_um, rel=0.1)
    assert "exactly 1 micrometre" in report.notes[0]
