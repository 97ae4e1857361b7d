"""The result of a benchmark: machine, versions, and a row for each contender and batch. bench.schema.json describes it."""

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

from blastscope.benchmarks.interleaved_timing import Round, cpu_governor
from blastscope.benchmarks.roofline import Peak
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import ClassName, Execution

LIBRARIES = ("blastscope", "numpy", "openvino", "onnxruntime", "opencv-python-headless", "torch", "timm")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  # as /proc/cpuinfo names them
FIRST_VOTER_SUFFIX = "-staged-first-alone"  # of a contender that runs one voter only, and so does less than the others
MIN_CALLS_P999 = 1000  # with fewer calls the 99.9th percentile is the slowest call
MeasuredScope = Literal[
    "pixels",
    "network",
    "benchmark_app",
    "crop",
    "decode",
    "frame",
    "examine",
    "files",
    "callers",
    "load",
    "cold",
    "native",
    "served",
    "request",
]
SCOPE_DESCRIPTIONS: dict[MeasuredScope, str] = {
    "pixels": "image in host memory to label",
    "network": "crops in host memory to probabilities",
    "benchmark_app": "crops to probabilities, interleaved with OpenVINO's benchmark_app",
    "crop": "image to crop",
    "decode": "file to image",
    "frame": "frame to its white cells on black, found by their stain",
    "examine": "frame in memory, or scan on the disk, to the calls on its cells, by the shipped bundle with its detector",
    "files": "files on disk to labels, all of a folder",
    "callers": "image to label, every caller in a thread of its own, all of their images",
    "load": "bundle to handle, in a running process, engine cache warm",
    "cold": "process start to first label",
    "native": "image in host memory to label, libblastscope and the Python runtime in turn",
    "served": "images to labels by clients of a server, in turn with `classify_many`",
    "request": "a client's request to its answer",
}
RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)  # of a 95 % interval
RoundTimes = Sequence[NDArray[np.float64]]  # for each round float64 (N,): milliseconds of its calls


class Machine(StrictModel):
    """The machine that the figures come from.

    Attributes
    ----------
    processor : str
        Its name.
    features : tuple of str
        Instruction sets that decide how fast a precision can be.
    cores : int
        Those that this process may use.
    system, python : str
        Operating system, and version of Python.
    governor : str or None
        Of the frequencies; None: unknown, as on most virtual machines.
    peaks : tuple of Peak
        Largest multiply-adds a second, measured in the same run.
    """

    processor: str
    features: tuple[str, ...]
    cores: int
    system: str
    python: str
    governor: str | None = None
    peaks: tuple[Peak, ...] = ()


class Row(StrictModel):
    """One contender at one batch; milliseconds are for the whole batch.

    Attributes
    ----------
    name : str
        network/precision/engine; precision-execution where the engine computes in another type than the graph's.
    scope : str
        What is timed.
    execution : {'f32', 'bf16', 'f16', 'int8'} or None
        The type that it computes in.
    batch, calls : int
        Cells of a call, and how many calls were timed.
    p50_ms, p95_ms, p99_ms, max_ms : float
        Of a call's time.
    p999_ms : float or None
        Only with 1000 calls or more.
    ratio : float or None
        Speed-up over the PyTorch baseline at this batch: ratio of the medians.
    ratio_low, ratio_high : float or None
        Its 95 % interval, by bootstrap over rounds.
    rounds_ms : tuple of float
        The median of each round.
    samples_ms : tuple of tuple of float
        Every call of each round.
    threads : int or None
        Of the engine.
    other_cpu_share : float or None
        Largest share of the cores, 0 to 1, that other processes took during a round.
    busy_rounds : int
        Rounds that other processes disturbed.
    measured : str or None
        When, in UTC.
    load_s : float or None
        In a process of its own: from its start to the first label.
    peak_mib : float or None
        Memory of that process.
    gmac : float or None
        1e9 multiply-adds of the fused network for the batch.
    roofline_ms : float or None
        Their time at the measured peak of the type that this row computes in.
    peak_fraction : float or None
        How much of that peak is reached: roofline_ms / p50_ms.
    cpu_ms, client_cpu_ms : float or None
        Of scope 'served': processor time of a cell, of all cores together, in the process that answers, and in its clients.
    benchmark_app_ms : float or None
        Median of OpenVINO's benchmark_app on the same graph and settings, interleaved.
    notes : tuple of str
        Such as the layout that the engine chose.
    config, source : str or None
        Of a baseline: how it is run, and the page that advises it.
    """

    name: str
    scope: MeasuredScope = "pixels"
    execution: Execution | None = None
    batch: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float | None = None
    max_ms: float
    ratio: float | None
    ratio_low: float | None = None
    ratio_high: float | None = None
    rounds_ms: tuple[float, ...] = ()
    samples_ms: tuple[tuple[float, ...], ...] = ()
    threads: int | None = None
    other_cpu_share: float | None = None
    busy_rounds: int = 0
    measured: str | None = None
    load_s: float | None = None
    peak_mib: float | None = None
    gmac: float | None = None
    roofline_ms: float | None = None
    peak_fraction: float | None = None
    cpu_ms: float | None = None
    client_cpu_ms: float | None = None
    benchmark_app_ms: float | None = None
    notes: tuple[str, ...] = ()
    config: str | None = None
    source: str | None = None

    @property
    def cells_per_second(self) -> float:
        """Throughput by the median."""
        return 1000 * self.batch / self.p50_ms

    @property
    def runs_all_voters(self) -> bool:
        """Whether all three voters answer."""
        return not self.name.endswith(FIRST_VOTER_SUFFIX)

    @property
    def busy(self) -> bool:
        """Whether other processes disturbed any round."""
        return self.busy_rounds > 0


class BenchResult(StrictModel):
    """One run of `blastscope bench`.

    Attributes
    ----------
    machine : Machine
        What it ran on.
    versions : dict of str to str
        Libraries and their versions.
    rows : tuple of Row
        One for each contender, scope and batch.
    notes : tuple of str
        What a reader must know.
    """

    machine: Machine
    versions: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class FirstLabel(StrictModel):
    """What a process prints that was started for one label.

    Attributes
    ----------
    time_s : float
        When it had the label, by the system's clock.
    label : {'hem', 'all'} or None
        The label; None for a refusal.
    peak_mib : float or None
        Memory; None: only Linux gives it.
    """

    time_s: float
    label: ClassName | None
    peak_mib: float | None


def make_row(name: str, batch: int, rounds: Sequence[Round], baseline: Sequence[Round] | None = None) -> Row:
    """The row of one contender. No call is dropped.

    Parameters
    ----------
    name
        `network/precision/engine`.
    batch
        Images in a call.
    rounds
        The contender's calls.
    baseline
        The PyTorch baseline's calls in the same rounds; None: the row has no ratio.

    Returns
    -------
    Row
        With percentiles over all calls, and the ratio with its interval.

    Raises
    ------
    ValueError
        The numbers of rounds differ.
    """
    round_times = [one.times_ms for one in rounds]
    times = np.concatenate(round_times)
    p50, p95, p99, p999 = (float(value) for value in np.percentile(times, (50, 95, 99, 99.9)))
    ratio = low = high = None
    if baseline is not None:
        baseline_times = [one.times_ms for one in baseline]
        ratio = float(np.median(np.concatenate(baseline_times))) / p50
        low, high = ratio_interval(baseline_times, round_times)
    return Row(
        name=name,
        batch=batch,
        calls=len(times),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999 if len(times) >= MIN_CALLS_P999 else None,
        max_ms=float(times.max()),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        rounds_ms=tuple(float(np.median(one)) for one in round_times),
        samples_ms=tuple(_to_microseconds(one) for one in round_times),
        other_cpu_share=max((one.other_cpu_share for one in rounds if one.other_cpu_share is not None), default=None),
        busy_rounds=sum(one.busy for one in rounds),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _to_microseconds(times_ms: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(one), 3) for one in times_ms)  # the clock is no more exact than that


def with_roofline(row: Row, peaks: Iterable[Peak]) -> Row:
    """`row` with `roofline_ms` and `peak_fraction`; both are None where the peak of its type, or its work, is unknown."""
    peak = next((one.gmacs for one in peaks if one.execution == row.execution), None)
    roofline_ms = 1000 * row.gmac / peak if peak and row.gmac else None
    fraction = roofline_ms / row.p50_ms if roofline_ms else None
    return row.model_copy(update={"roofline_ms": roofline_ms, "peak_fraction": fraction})


def describe_machine(peaks: Sequence[Peak] = ()) -> Machine:
    """The machine that this process runs on, with the peaks that were measured on it."""
    lines = _cpuinfo_lines()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return Machine(
        processor=model or "unknown",
        features=tuple(flag for flag in FEATURES if flag in flags),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=platform.platform(terse=True),
        python=platform.python_version(),
        governor=cpu_governor(),
        peaks=tuple(peaks),
    )


def thread_count(requested: int | None) -> int:
    """The threads of a run that requests so many; None: one for each core that this process may use."""
    return requested or usable_threads()


def _cpuinfo_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def library_versions(distributions: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The versions of those distributions that are installed, by name."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def ratio_interval(numerator: RoundTimes, denominator: RoundTimes, *, seed: int = 0) -> tuple[float, float]:
    """The interval of median(numerator) / median(denominator) of two contenders of one run, whose rounds are drawn in pairs.

    Parameters
    ----------
    numerator, denominator
        The calls of each round, in milliseconds; both have the same number of rounds.
    seed
        Of the random generator.

    Returns
    -------
    tuple of float
        Lower and upper end of the 95 % interval. With one round both are the ratio itself: one round doesn't show how much
        rounds differ.

    Raises
    ------
    ValueError
        The numbers of rounds differ.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds: contenders of one run have equally many")
    rng = np.random.default_rng(seed)
    resamples = rng.integers(0, len(numerator), (RESAMPLES, len(numerator)))
    ratios = [_median(numerator, rounds) / _median(denominator, rounds) for rounds in resamples]
    low, high = np.percentile(ratios, PERCENTILES)
    return float(low), float(high)


def change_interval(old: RoundTimes, new: RoundTimes) -> tuple[float, float]:
    """The interval of median(new) / median(old) of two separate runs, whose rounds are drawn independently.

    Parameters
    ----------
    old, new
        The calls of each round, in milliseconds.

    Returns
    -------
    tuple of float
        Lower and upper end of the 95 % interval.
    """
    rng = np.random.default_rng(0)
    ratios = [
        _median(new, rng.integers(0, len(new), len(new))) / _median(old, rng.integers(0, len(old), len(old)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, PERCENTILES)
    return float(low), float(high)


def _median(rounds: RoundTimes, indices: NDArray[np.int64]) -> float:
    return float(np.median(np.concatenate([rounds[index] for index in indices])))
