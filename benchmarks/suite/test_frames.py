"""Real frames to cells on black: scale and stain estimated, cells segmented and cut out. Times are never asserted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.cli.options import find_data
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box

Frame = NDArray[np.uint8]
FRAMES = 16  # BCCD's first: 640 x 480, a white cell in most
ROUNDS = 10


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    cells = find_data()
    folder = cells.parent / "bccd" / "JPEGImages" if cells else None
    if folder is None or not folder.is_dir():
        pytest.skip("BCCD's frames are not at hand")
    found = [read_image(path) for path in sorted(folder.glob("*.jpg"))[:FRAMES]]
    return [frame for frame in found if isinstance(frame, np.ndarray)]


def no_labels(cells: Sequence[Frame]) -> list[Any]:
    return [None] * len(cells)


def boxes(report: FrameReport) -> list[Box]:
    return [cell.box for cell in report.cells]


def test_frames_one_by_one(benchmark: Any, describe_row: Any, frames: list[Frame]) -> None:
    examiner = Examiner(no_labels, threads=usable_threads())
    expected = [boxes(examiner.examine(frame)) for frame in frames]
    assert sum(map(len, expected)) >= len(frames)
    numbers = cycle(range(len(frames)))
    found: list[tuple[int, list[Box]]] = []

    def examine(number: int) -> None:
        found.append((number, boxes(examiner.examine(frames[number]))))

    describe_row("frame", "frame/640 x 480")
    benchmark.pedantic(examine, setup=lambda: ((next(numbers),), {}), rounds=ROUNDS * len(frames))
    assert all(cells == expected[number] for number, cells in found)


def test_a_large_frame(benchmark: Any, describe_row: Any, frames: list[Frame]) -> None:
    large = np.vstack([np.hstack(frames[row : row + 4]) for row in range(0, FRAMES, 4)])
    examiner = Examiner(no_labels, threads=usable_threads())
    report = examiner.examine(large)
    describe_row("frame", f"frame/2560 x 1920, {len(report.cells)} cells")
    assert boxes(benchmark.pedantic(examiner.examine, (large,), rounds=20, warmup_rounds=2)) == boxes(report)
