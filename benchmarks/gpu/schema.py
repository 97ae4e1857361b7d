"""The result of the GPU check: rows with times, and rows without, which say why."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.schema import Machine
from blastscope.runtime.io.strict_model import StrictModel

GpuScope = Literal["crop", "engine", "pixels"]
SCOPE_DESCRIPTIONS: dict[GpuScope, str] = {
    "crop": "image to crop on the device",
    "engine": "crops in host memory to probabilities",
    "pixels": "image in host memory to label",
}


class GpuRow(StrictModel):
    """One engine at one batch; milliseconds are for the whole batch. `problem`: why it didn't run, or has no ratio."""

    network: str
    scope: GpuScope  # what is timed
    engine: str  # precision/library
    batch: int
    calls: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    per_second: float | None = None  # cells
    ratio: float | None = None  # speed-up over the baseline in the same rounds: ratio of the medians
    baseline: str | None = None  # whose times the ratio is of
    problem: str | None = None


class Agreement(StrictModel):
    """How an engine's labels and probabilities of whole images compare with ONNX Runtime's on the CPU."""

    network: str
    engine: str
    reference: str
    cells: int = 0
    difference: float | None = None  # largest of a probability
    flips: int | None = None  # labels that changed
    refusals_alike: bool | None = None
    problem: str | None = None


class CropCheck(StrictModel):
    """Crops of the kernels against OpenCV's."""

    source: str
    images: int
    different: int  # images whose crop, box or refusal differs in anything
    problem: str | None = None  # why they could not be compared


class Findings(StrictModel):
    """The results of one step of the check."""

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
    built: dict[str, str]  # how each thing that this machine can compile or build was built
    crops: tuple[CropCheck, ...]
    agreements: tuple[Agreement, ...]
    rows: tuple[GpuRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the crops were compared, and all that ran was right."""
        same_crops = all(check.different == 0 and check.problem is None for check in self.crops)
        return same_crops and all(one.refusals_alike is not False for one in self.agreements)


def with_timings(row: GpuRow, times_ms: NDArray[np.float64], baseline: tuple[str, NDArray[np.float64]] | None) -> GpuRow:
    """`row` with percentiles, throughput and ratio. No call is dropped.

    Parameters
    ----------
    row
        Network, engine and batch.
    times_ms
        Float64 (N,): milliseconds of each call.
    baseline
        Name and milliseconds of the baseline's calls in the same rounds; None: the row has no ratio.
    """
    p50, p95, p99 = (float(value) for value in np.percentile(times_ms, (50, 95, 99)))
    fields: dict[str, object] = {
        "calls": len(times_ms),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "per_second": 1000 * row.batch / p50,
    }
    if baseline is not None:
        name, baseline_ms = baseline
        fields |= {"baseline": name, "ratio": float(np.median(baseline_ms)) / p50}
    return row.model_copy(update=fields)
