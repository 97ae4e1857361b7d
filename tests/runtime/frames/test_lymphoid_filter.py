"""Which cells may be called: lymphoid ones, in any stain, and those that the networks were trained on; not granulocytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.benchmarks.lymphoid_filter.scoring import benchmark_cells, cell_outcomes
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.image import read_image

Frame = NDArray[np.uint8]
SPEC = FrameSpecification()
LABELLED = [cell for cell in benchmark_cells() if cell.part == "train"]
LYMPHOID = [cell for cell in LABELLED if cell.kind == "lymphoid"]
COMPACT = ("044", "078", "086", "087", "090", "092", "150")  # frames of granulocytes whose lobes touch
OTHERS = [cell for cell in LABELLED if cell.kind == "myeloid" and cell.frame.endswith(COMPACT)]


def codes(frame: Frame, pixel_um: float | None = None) -> list[str | None]:
    """What is said of the cells that the frame's edge doesn't cut."""
    cells = segment_cells(frame, estimate_frame_parameters(frame, SPEC, pixel_um=pixel_um), SPEC)
    said = [cell.refusal.code if cell.refusal else None for cell in cells]
    return [code for code in said if code != "touches-border"]


def as_it_is(frame: Frame) -> Frame:
    return frame


def pale(frame: Frame) -> Frame:
    glass = np.percentile(frame, 90, axis=(0, 1))
    return np.clip(glass * (frame / glass) ** 0.5, 0, 255).astype(np.uint8)


def dim_and_warm(frame: Frame) -> Frame:
    return np.asarray(frame * np.array([0.7, 0.62, 0.5]), np.uint8)


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> Callable[[str], Frame]:
    def read(name: str) -> Frame:
        picture = read_image(shared_data / "bccd" / "JPEGImages" / f"{name}.jpg")
        assert isinstance(picture, np.ndarray)
        return picture

    return read


@pytest.mark.parametrize("stain", [as_it_is, pale, dim_and_warm])
def test_lymphoid_cells_may_be_called_and_compact_granulocytes_not(
    frames: Callable[[str], Frame], stain: Callable[[Frame], Frame]
) -> None:
    said = {cell: cell_outcomes(stain(frames(cell.frame)), [cell.box]) for cell in (*LYMPHOID, *OTHERS)}
    assert [cell for cell in LYMPHOID if said[cell] == ["not-lymphoid"]] == []
    assert [cell for cell in OTHERS if said[cell] != ["not-lymphoid"]] == []
    assert sum(said[cell] == ["called"] for cell in LYMPHOID) >= len(LYMPHOID) - 1  # the edge of the frame is close to one


Lobes = tuple[tuple[int, int, int], ...]  # circles: where they lie, and how large
ROUND: Lobes = ((146, 150, 40),)
LOBED: Lobes = ((173, 150, 18), (154, 173, 18), (128, 158, 18))


def cell_among_red_ones(
    cytoplasm: tuple[int, int, int], nucleus: tuple[int, int, int] = (104, 70, 150), lobes: Lobes = ROUND
) -> Frame:
    frame = np.full((300, 300, 3), (232, 230, 226), np.uint8)
    for x, y in ((40, 40), (260, 50), (45, 250), (250, 255), (150, 30), (40, 150)):
        cv2.circle(frame, (x, y), 36, (196, 150, 152), cv2.FILLED)
    cv2.circle(frame, (150, 150), 52, cytoplasm, cv2.FILLED)
    for x, y, radius in lobes:
        cv2.circle(frame, (x, y), radius, nucleus, cv2.FILLED)
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), 2), np.uint8)


def test_blue_cytoplasm_may_be_called_and_pink_not() -> None:
    assert codes(cell_among_red_ones((170, 178, 222)), 0.1) == [None]
    assert codes(cell_among_red_ones((215, 150, 185)), 0.1) == ["not-lymphoid"]


@pytest.mark.parametrize(("lobes", "wanted"), [(ROUND, [None]), (LOBED, ["not-lymphoid"])], ids=["round", "lobed"])
@pytest.mark.parametrize("level", [14, 28])
def test_black_nuclei_are_judged_by_their_shape_and_not_by_noise(level: int, lobes: Lobes, wanted: list[str | None]) -> None:
    frame = cell_among_red_ones((170, 165, 200), (level, level - 2, level + 1), lobes)
    noise = np.random.default_rng(0).normal(0, 2, frame.shape)
    assert codes(np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8), 0.1) == wanted


def on_glass(path: Path, scale: float, glass: int) -> Frame:
    image = read_image(path)
    assert isinstance(image, np.ndarray)
    frame = np.where(image.max(axis=2, keepdims=True) > 0, image, np.uint8(glass))
    return np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize(("scale", "glass"), [(0.5, 226), (0.8, 180)])
def test_the_cells_that_the_networks_know_may_be_called(cnmc: Path, scale: float, glass: int) -> None:
    paths = sorted(cnmc.rglob("*.webp"))[::180]
    said = [code for path in paths for code in codes(on_glass(path, scale, glass), SPEC.network_um / scale)]
    assert len(said) >= 28
    assert said.count(None) >= 0.93 * len(said)


@pytest.mark.parametrize("cell", ["UID_15_3_2_all", "UID_H17_37_5_hem"])
def test_the_dark_edge_of_a_nucleus_is_not_taken_for_all_of_it(cnmc: Path, cell: str) -> None:
    (path,) = cnmc.rglob(f"{cell}.webp")
    assert codes(on_glass(path, 0.5, 226), SPEC.network_um / 0.5) == [None]


def test_a_cell_that_the_edge_of_the_field_of_view_cuts_touches_the_border(frames: Callable[[str], Frame]) -> None:
    frame = frames("BloodImage_00047")  # a lymphoid cell
    parameters = estimate_frame_parameters(frame, SPEC)
    (whole,) = segment_cells(frame, parameters, SPEC)
    assert whole.refusal is None
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    x, y, width = whole.box[0], (whole.box[1] + whole.box[3]) // 2, whole.box[2] - whole.box[0]
    for edge, wanted in ((0.7, ["touches-border"]), (1.5, [None])):
        black = (columns - x - edge * width + 400) ** 2 + (rows - y) ** 2 > 400**2
        cells = segment_cells(np.where(black[..., None], np.uint8(0), frame), parameters, SPEC)
        assert [cell.refusal.code if cell.refusal else None for cell in cells] == wanted, edge
