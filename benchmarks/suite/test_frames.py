"""Real frames to cells on black, and frames and scans to calls. Times are never asserted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope import Scope, open_bundle
from blastscope.cli.options import find_data
from blastscope.runtime.frames.pipeline import Examiner, TileProgress
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box

Frame = NDArray[np.uint8]
FRAMES = 16  # BCCD's first: 640 x 480, a white cell in most
ROUNDS = 10
SCAN_TILE_PX = 512
SCANS = (8192, 8192), (40_000, 30_000)  # width and height
SCAN_ROUNDS = {8192: 5, 40_000: 1}


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


# ---- with the shipped bundle


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    with open_bundle(device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module", params=SCANS, ids=str)
def scan(
    request: pytest.FixtureRequest, frames: list[Frame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, int]:
    """A scan of frames side by side, in JPEG tiles, with two smaller copies: its file, width and height."""
    width, height = request.param
    path = tmp_path_factory.mktemp("scan") / "scan.tif"
    write_scan(path, frames, width, height)
    return path, width, height


def write_scan(path: Path, frames: Sequence[Frame], width: int, height: int) -> None:
    """A pyramid of a picture in which `frames`, all of one size, lie side by side."""
    import tifffile

    def tiles(factor: int) -> Iterator[Frame]:
        small = [
            np.asarray(cv2.resize(one, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)) for one in frames
        ]
        down, across = small[0].shape[:2]
        per_row = -(-width // factor // across)
        for top in range(0, height // factor, SCAN_TILE_PX):
            for left in range(0, width // factor, SCAN_TILE_PX):
                tile = np.empty((SCAN_TILE_PX, SCAN_TILE_PX, 3), np.uint8)
                for row in range(top // down, (top + SCAN_TILE_PX - 1) // down + 1):
                    for column in range(left // across, (left + SCAN_TILE_PX - 1) // across + 1):
                        y, x = row * down - top, column * across - left
                        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + down, SCAN_TILE_PX), min(x + across, SCAN_TILE_PX)
                        tile[y0:y1, x0:x1] = small[(row * per_row + column) % len(small)][y0 - y : y1 - y, x0 - x : x1 - x]
                yield tile

    options: dict[str, Any] = {"photometric": "rgb", "tile": (SCAN_TILE_PX, SCAN_TILE_PX), "compression": "jpeg"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, factor in enumerate((1, 4, 16)):
            shape = (height // factor, width // factor, 3)
            tiff.write(
                tiles(factor), shape=shape, dtype=np.uint8, subifds=0 if level else 2, subfiletype=int(level > 0), **options
            )


def test_frames_to_calls(benchmark: Any, describe_row: Any, frames: list[Frame], scope: Scope) -> None:
    expected = [boxes(scope.examine(frame)) for frame in frames]
    numbers = cycle(range(len(frames)))
    found: list[tuple[int, list[Box]]] = []

    def examine(number: int) -> None:
        found.append((number, boxes(scope.examine(frames[number]))))

    describe_row("examine", "examine/640 x 480")
    benchmark.pedantic(examine, setup=lambda: ((next(numbers),), {}), rounds=ROUNDS * len(frames))
    assert all(cells == expected[number] for number, cells in found)


def test_a_scan_to_calls(benchmark: Any, describe_row: Any, scan: tuple[Path, int, int], scope: Scope) -> None:
    path, width, height = scan

    def examine() -> FrameReport:
        (report,) = scope.examine_files([path])
        return report

    report = benchmark.pedantic(examine, rounds=SCAN_ROUNDS[width], warmup_rounds=int(width < 10_000))
    describe_row("examine", f"examine/scan of {width} x {height}, {len(report.cells)} cells")
    assert report.refusal is None
    assert len(report.cells) > width * height / 640 / 480 / 2


class Enough(BaseException):
    """Ends an examination whose first cells are known."""


def test_first_cells_of_a_scan(benchmark: Any, describe_row: Any, scan: tuple[Path, int, int], scope: Scope) -> None:
    path, width, height = scan
    samples_ms: list[float] = []

    def examine() -> None:
        begun = perf_counter()

        def stop(progress: TileProgress) -> None:
            if progress.cells:
                samples_ms.append(1000 * (perf_counter() - begun))  # before the tiles at work are waited for
                raise Enough

        with pytest.raises(Enough):
            list(scope.examine_files([path], on_tile=stop))

    benchmark.pedantic(examine, rounds=SCAN_ROUNDS[width])
    describe_row("examine", f"examine/first cells of {width} x {height}", samples_ms=samples_ms[: SCAN_ROUNDS[width]])
