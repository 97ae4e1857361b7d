"""What the GPU check writes: rows that were measured, and rows that stay empty, with the reason."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.schema import Machine
from blastscope.runtime.io.strict_model import StrictModel

What = Literal["crop", "engine", "pixels"]
SAYS: dict[What, str] = {
    "crop": "image to crop on the device",
    "engine": "crops in host memory to probabilities",
    "pixels": "image in host memory to call",
}


class GpuRow(StrictModel):
    """One engine at one batch, in milliseconds for the whole batch. `problem`: why it didn't run, or has no ratio."""

    network: str
    what: What
    engine: str  # precision/library
    batch: int
    calls: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    per_second: float | None = None  # cells
    ratio: float | None = None  # times faster than the peer in the same turns, by the medians
    peer: str | None = None
    problem: str | None = None


class Agreement(StrictModel):
    """How an engine's answers on whole images compare with ONNX Runtime's on the CPU."""

    network: str
    engine: str
    reference: str
    cells: int = 0
    difference: float | None = None  # largest of a probability
    flips: int | None = None  # calls that changed
    refusals_alike: bool | None = None
    problem: str | None = None


class CropCheck(StrictModel):
    """Crops of the kernels against OpenCV's."""

    source: str
    images: int
    different: int  # images whose crop, box or refusal differs in anything
    problem: str | None = None  # why it could not be compared


class Findings(StrictModel):
    """What one step of the check found."""

    crops: tuple[CropCheck, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    rows: tuple[GpuRow, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            crops=self.crops + other.crops, agreements=self.agreements + other.agreements, rows=self.rows + other.rows
        )


class GpuCheck(StrictModel):
    """One run of `make gpu-check`."""

    date: str
    gpu: str
    capability: str
    driver: str
    cuda: str
    machine: Machine
    versions: dict[str, str]
    built: dict[str, str]  # what was compiled or built here, and how that went
    crops: tuple[CropCheck, ...]
    agreements: tuple[Agreement, ...]
    rows: tuple[GpuRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the crops were compared, and all that ran was right."""
        same_crops = all(check.different == 0 and check.problem is None for check in self.crops)
        return same_crops and all(one.refusals_alike is not False for one in self.agreements)


def measured(row: GpuRow, times_ms: NDArray[np.float64], peer: tuple[str, NDArray[np.float64]] | None) -> GpuRow:
    """`row` with the figures of its samples; no sample is dropped."""
    p50, p95, p99 = (float(value) for value in np.percentile(times_ms, (50, 95, 99)))
    facts: dict[str, object] = {
        "calls": len(times_ms),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "per_second": 1000 * row.batch / p50,
    }
    if peer is not None:
        facts |= {"peer": peer[0], "ratio": float(np.median(peer[1])) / p50}
    return row.model_copy(update=facts)
