"""Stand-ins for the networks of a stream and of a handle, and for who listens to a stream."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification, SegmentedCell
from blastscope.runtime.streaming.frame_queue import StreamStats
from blastscope.runtime.types import Audit, Prediction, Refusal

PATIENCE_S = 30.0
AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")


def pixels(value: int, side: int = 4) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, np.uint8)


def look(frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
    """A report whose metadata is to be replaced by the frame's."""
    return FrameReport((), None, metadata={"mean": int(frame.mean())})


class Eye:
    """Examines when it is let, and remembers what it saw."""

    def __init__(self, *, held: bool = False) -> None:
        self.seen: list[int] = []
        self.began = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.held = held

    def __call__(self, frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        self.began.release()
        if self.held:
            assert self.gate.acquire(timeout=PATIENCE_S)
        value = int(frame[0, 0, 0])
        if "raise" in metadata:
            raise metadata["raise"]
        self.seen.append(value)
        return FrameReport((), None)

    def let(self, count: int = 1) -> None:
        self.gate.release(count)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.began.acquire(timeout=PATIENCE_S)


class Reports(list[FrameReport]):
    """A consumer."""

    def __call__(self, report: FrameReport) -> None:
        self.append(report)

    @property
    def ids(self) -> list[int | str | None]:
        return [report.id for report in self]


def stream_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("blastscope-stream")}


def balanced(stats: StreamStats) -> bool:
    return stats.taken == stats.reported + stats.dropped + stats.waiting


class StainExaminer:
    """Segments real frames without networks: of the cells the first is called, the second refused, and so on."""

    pixel_um: float | None = None
    stated_um: float | None = None

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        stated_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        self.pixel_um, self.stated_um = pixel_um, stated_um
        parameters = estimate_frame_parameters(frame, spec or FrameSpecification(), pixel_um=pixel_um, stated_um=stated_um)
        cells = segment_cells(frame, parameters, spec or FrameSpecification())
        return FrameReport(tuple(map(self.called, range(len(cells)), cells)), parameters, metadata=metadata or {})

    def called(self, number: int, cell: SegmentedCell) -> FrameCell:
        if number % 2:
            return FrameCell(replace(cell, refusal=Refusal("clumped", "two cells")), None)
        prediction = Prediction("all", 0.9, 0.9, "b", None, None, None, AUDIT)
        return FrameCell(replace(cell, refusal=None), prediction)
