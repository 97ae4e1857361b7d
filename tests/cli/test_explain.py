"""`blastscope explain --on-black`: the cell in the middle of a picture, as the networks see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.cli.explain import cut_middle_cell
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.types import Audit, Prediction, Refusal

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")


class Scope:
    """Examines with the real finder, and keeps what the networks would have been shown."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def classify(self, cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        self.seen += cells
        return [Prediction("hem", 0.8, 0.2, "a", None, None, None, AUDIT) for _ in cells]

    def examine_files(self, paths: Iterable[Path], *, pixel_um: float | None, on_frame: Any) -> Iterator[FrameReport]:
        return Examiner(self.classify, pixel_um=pixel_um).examine_files(paths, on_frame)


def test_the_cell_in_the_middle_is_cut_out_as_the_networks_see_it(shared_data: Path) -> None:
    path = min((shared_data / "pbc" / "lymphocyte").iterdir())
    scope: Any = Scope()
    image = cut_middle_cell(scope, path, 0.1)
    assert isinstance(image, np.ndarray)
    assert any(np.array_equal(image, cell) for cell in scope.seen)


def test_a_picture_without_a_cell_says_why(tmp_path: Path) -> None:
    scope: Any = Scope()
    told = cut_middle_cell(scope, tmp_path / "gone.png", None)
    assert isinstance(told, Refusal)
    assert told.code == "undecodable"


def test_a_scale_goes_with_on_black_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "a.png"), "--pixel-um", "0.1"])
    assert done.exit_code == 2
    assert "--pixel-um goes with --on-black" in done.stderr
