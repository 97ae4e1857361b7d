"""What a benchmark prints: machine, versions, and a row for each side and batch. bench.schema.json describes it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.bootstrap import ratio_interval
from blastscope.benchmarks.cpu_contention import governor
from blastscope.benchmarks.interleaved_timing import Turn
from blastscope.benchmarks.roofline import Peak
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Execution

LIBRARIES = ("blastscope", "numpy", "openvino", "onnxruntime", "opencv-python-headless", "torch", "timm")
ALONE = "-staged-first-alone"  # ends the name of a side that runs one voter alone, and so answers less than the others
MANY_CALLS = 1000  # from here on one call in a thousand says something
What = Literal["pixels", "network", "outside", "crop", "decode", "frame", "files", "callers", "load", "cold"]
SAYS: dict[What, str] = {
    "pixels": "image in host memory to label",
    "network": "crops in host memory to probabilities",
    "outside": "the same, in turn with OpenVINO's benchmark_app",
    "crop": "image to crop",
    "decode": "file to image",
    "frame": "frame to its white cells on black, without a network",
    "files": "files on disk to labels, all of a folder",
    "callers": "image to label, every caller in a thread of its own, all of their images",
    "load": "bundle to handle, in a running process, engine cache warm",
    "cold": "process start to first label",
}


class Machine(StrictModel):
    """Where the figures come from."""

    processor: str
    features: tuple[str, ...]  # instruction sets that decide how fast a precision can be
    cores: int  # those this process may use
    system: str
    python: str
    governor: str | None = None  # of the frequencies; None: not told, as on most virtual machines
    peaks: tuple[Peak, ...] = ()  # most multiply-adds a second, measured on the spot


class Row(StrictModel):
    """One side at one batch, in milliseconds for the whole batch, from images in host memory to labels in host memory."""

    name: str  # network/precision/engine; precision-execution where the engine computes in another type than the graph's
    what: What = "pixels"  # what is timed, where it isn't from pixels to label
    execution: Execution | None = None  # what it computes in
    batch: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float | None = None  # only of 1000 calls or more
    max_ms: float
    ratio: float | None  # times faster than the PyTorch side at this batch, by the medians
    ratio_low: float | None = None  # 95 % interval, by bootstrap over rounds
    ratio_high: float | None = None
    rounds_ms: tuple[float, ...] = ()  # the median of each round
    samples_ms: tuple[tuple[float, ...], ...] = ()  # every call of each round
    threads: int | None = None
    others: float | None = None  # largest share of the cores that others took during a round
    busy_rounds: int = 0  # rounds that others disturbed
    measured: str | None = None  # when, UTC
    load_s: float | None = None  # in a process of its own: from its start to the first answer
    peak_mib: float | None = None  # of that process
    gmac: float | None = None  # 1e9 multiply-adds that the fused network costs the batch
    floor_ms: float | None = None  # what they take at the measured peak of the type that this row computes in
    share: float | None = None  # of the peak that is reached: floor_ms / p50_ms
    outside_ms: float | None = None  # the median of OpenVINO's benchmark_app on the same graph and settings, in turn
    notes: tuple[str, ...] = ()  # such as the layout that the engine chose
    how: str | None = None  # a peer: how it is run
    source: str | None = None  # and whose advice that is

    @property
    def per_second(self) -> float:
        """Cells, by the median."""
        return 1000 * self.batch / self.p50_ms

    @property
    def whole(self) -> bool:
        """Whether all voters answer."""
        return not self.name.endswith(ALONE)

    @property
    def busy(self) -> bool:
        """Whether others disturbed any round."""
        return self.busy_rounds > 0


class BenchResult(StrictModel):
    """One run of `blastscope bench`."""

    machine: Machine
    versions: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def make_row(name: str, batch: int, turns: Sequence[Turn], peer: Sequence[Turn] | None = None) -> Row:
    """The row of one side's turns; no call is dropped. `peer` took its turns in the same rounds."""
    rounds = [turn.times_ms for turn in turns]
    times = np.concatenate(rounds)
    p50, p95, p99, p999 = (float(value) for value in np.percentile(times, (50, 95, 99, 99.9)))
    ratio = low = high = None
    if peer is not None:
        theirs = [turn.times_ms for turn in peer]
        ratio = float(np.median(np.concatenate(theirs))) / p50
        low, high = ratio_interval(theirs, rounds)
    return Row(
        name=name,
        batch=batch,
        calls=len(times),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999 if len(times) >= MANY_CALLS else None,
        max_ms=float(times.max()),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        rounds_ms=tuple(float(np.median(one)) for one in rounds),
        samples_ms=tuple(_rounded(one) for one in rounds),
        others=max((turn.others for turn in turns if turn.others is not None), default=None),
        busy_rounds=sum(turn.busy for turn in turns),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _rounded(times: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(one), 3) for one in times)  # microseconds: the clock says no more


def with_floor(row: Row, peaks: Iterable[Peak]) -> Row:
    """`row` beside the floor of its work, where the peak of what it computes in is known."""
    peak = next((one.gmacs for one in peaks if one.execution == row.execution), None)
    floor = 1000 * row.gmac / peak if peak and row.gmac else None
    return row.model_copy(update={"floor_ms": floor, "share": floor / row.p50_ms if floor else None})


def this_machine(peaks: Sequence[Peak] = ()) -> Machine:
    """The machine this runs on."""
    text = cpu_text()
    flags = next((line.split(":", 1)[1].split() for line in text if line.startswith("flags")), [])
    model = next((line.split(":", 1)[1].strip() for line in text if line.startswith("model name")), platform.processor())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return Machine(
        processor=model or "unknown",
        features=tuple(flag for flag in wanted if flag in flags),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=platform.platform(terse=True),
        python=platform.python_version(),
        governor=governor(),
        peaks=tuple(peaks),
    )


def threads_of(wished: int | None) -> int:
    """The threads that a run with this wish uses."""
    return wished or usable_threads()


def cpu_text() -> list[str]:
    """The lines of /proc/cpuinfo, or none where there is no such file."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of those of `names` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
