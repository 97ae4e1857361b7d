"""The result of the GPU check: rows with times, and rows without, which say why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.results import read_json
from blastscope.benchmarks.schema import Machine
from blastscope.runtime.io.strict_model import StrictModel

GpuScope = Literal["crop", "engine", "pixels"]
SCOPE_DESCRIPTIONS: dict[GpuScope, str] = {
    "crop": "image to crop on the device",
    "engine": "crops in host memory to probabilities",
    "pixels": "image in host memory to label",
}
NO_GPU = """
**No GPU has been measured yet.** No machine with one was at hand; what runs without one (the kernels compiled for the host, the
pipeline, the engine builds, pycuda on a fake driver) is in the test suite. No figure stands here until a run has made it.
"""


class GpuRow(StrictModel):
    """One engine at one batch; milliseconds are for the whole batch.

    Attributes
    ----------
    network : str
        Its name.
    scope : str
        What is timed.
    engine : str
        precision/library.
    batch : int
        Cells of a call.
    calls : int or None
        How many were timed.
    p50_ms, p95_ms, p99_ms : float or None
        Percentiles of a call's time.
    per_second : float or None
        Cells.
    ratio : float or None
        Speed-up over the baseline in the same rounds: ratio of the medians.
    baseline : str or None
        Whose times the ratio is of.
    problem : str or None
        Why it didn't run, or has no ratio.
    """

    network: str
    scope: GpuScope
    engine: str
    batch: int
    calls: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    per_second: float | None = None
    ratio: float | None = None
    baseline: str | None = None
    problem: str | None = None


class Agreement(StrictModel):
    """How an engine's labels and probabilities of whole images compare with ONNX Runtime's on the CPU.

    Attributes
    ----------
    network, engine, reference : str
        What was compared with what.
    cells : int
        How many.
    difference : float or None
        The largest of a probability.
    flips : int or None
        Labels that changed.
    refusals_alike : bool or None
        Whether both refuse the same images, for the same reasons.
    problem : str or None
        Why they could not be compared.
    """

    network: str
    engine: str
    reference: str
    cells: int = 0
    difference: float | None = None
    flips: int | None = None
    refusals_alike: bool | None = None
    problem: str | None = None


class CropCheck(StrictModel):
    """Crops of the kernels against OpenCV's.

    Attributes
    ----------
    source : str
        Where the images come from.
    images : int
        How many.
    different : int
        Images whose crop, box or refusal differs in anything.
    problem : str or None
        Why they could not be compared.
    """

    source: str
    images: int
    different: int
    problem: str | None = None


class Findings(StrictModel):
    """The results of one step of the check.

    Attributes
    ----------
    crops : tuple of CropCheck
        Of crops.
    agreements : tuple of Agreement
        Of answers.
    rows : tuple of GpuRow
        Of times.
    """

    crops: tuple[CropCheck, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    rows: tuple[GpuRow, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            crops=self.crops + other.crops, agreements=self.agreements + other.agreements, rows=self.rows + other.rows
        )


class GpuCheck(StrictModel):
    """One run of `make gpu-check`.

    Attributes
    ----------
    date : str
        The day, ISO 8601.
    gpu, capability, driver, cuda : str
        The GPU's name and compute capability; versions of its driver and of CUDA.
    machine : Machine
        What it stands in.
    versions : dict of str to str
        Libraries and their versions.
    built : dict of str to str
        How each thing that this machine can compile or build was built.
    crops : tuple of CropCheck
        Of crops.
    agreements : tuple of Agreement
        Of answers.
    rows : tuple of GpuRow
        Of times.
    notes : tuple of str
        What a reader must know.
    """

    date: str
    gpu: str
    capability: str
    driver: str
    cuda: str
    machine: Machine
    versions: dict[str, str]
    built: dict[str, str]
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


HEAD = """
## On GPUs

One section a run of `make gpu-check`. `ratio` is how many times faster an engine is than three PyTorch models on the same GPU
with the crop on the CPU (the crop alone: than OpenCV), by the medians of the same rounds. A row without times says why its
engine didn't run.
"""


def gpu_section(results: Path) -> str:
    """The section as Markdown, from the JSON files in the folder `results`.

    Raises
    ------
    ValueError
        A file holds no result of `make gpu-check`.
    """
    checks = [GpuCheck.model_validate(read_json(path)) for path in sorted(results.glob("*.json"))]
    checks.sort(key=lambda check: check.date, reverse=True)
    parts = [HEAD, *(_check_section(check) for check in checks)] if checks else [HEAD, NO_GPU]
    return "".join(parts)


def _check_section(check: GpuCheck) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in check.versions.items())
    lines = [
        f"\n### {check.gpu}, {check.date}\n",
        f"Compute capability {check.capability}, driver {check.driver}, CUDA {check.cuda}; {check.machine.processor}, "
        f"{check.machine.cores} cores; {versions}.\n",
        *_built(check),
        *_crops(check),
        *_agreement_table(check),
    ]
    for scope in SCOPE_DESCRIPTIONS:
        lines += _timing_table(scope, [row for row in check.rows if row.scope == scope])
    lines += [f"- {note}" for note in check.notes]
    return "\n".join(lines).rstrip() + "\n"


def _built(check: GpuCheck) -> Iterator[str]:
    yield from (f"- {name}: {state}" for name, state in check.built.items())
    yield ""


def _crops(check: GpuCheck) -> Iterator[str]:
    for one in check.crops:
        verdict = "identical in every byte" if one.different == 0 else f"**{one.different} differ**"
        verdict = f"**not compared**: {one.problem}" if one.problem else verdict
        yield f"- crops of {one.images} images ({one.source}) against OpenCV: {verdict}"
    yield ""


def _agreement_table(check: GpuCheck) -> Iterator[str]:
    if not check.agreements:
        return
    yield "| network | engine | reference | cells | largest difference | labels changed | |"
    yield "|---|---|---|---|---|---|---|"
    for one in check.agreements:
        figures = ("" if one.difference is None else f"{one.difference:.2g}", "" if one.flips is None else str(one.flips))
        yield f"| {one.network} | {one.engine} | {one.reference} | {one.cells} | {' | '.join(figures)} | {one.problem or ''} |"
    yield ""


def _timing_table(scope: GpuScope, rows: Sequence[GpuRow]) -> Iterator[str]:
    if not rows:
        return
    yield f"\n#### {scope}: {SCOPE_DESCRIPTIONS[scope]}\n"
    yield "| network | engine | batch | p50 ms | p95 ms | p99 ms | cells/s | ratio | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        times = " | ".join("" if one is None else f"{one:.3f}" for one in (row.p50_ms, row.p95_ms, row.p99_ms))
        rate = "" if row.per_second is None else f"{row.per_second:.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}"
        yield f"| {row.network} | {row.engine} | {row.batch} | {times} | {rate} | {ratio} | {row.problem or ''} |"
    yield ""
