"""The result of a load test: machine, versions, and a row for each scenario or level of a sweep."""

from __future__ import annotations

from typing import Literal, get_args

from blastscope.benchmarks.schema import Machine
from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Execution, Layout, Precision

MlperfScenario = Literal["single-stream", "multi-stream", "server", "offline"]
Sweep = Literal["concurrency", "request-rate"]
Scenario = Literal[MlperfScenario, Sweep]
MLPERF_SCENARIOS: tuple[MlperfScenario, ...] = get_args(MlperfScenario)
SCENARIOS: tuple[Scenario, ...] = (*MLPERF_SCENARIOS, *get_args(Sweep))


class Accuracy(StrictModel):
    """How the calls of a scenario compare with the labels, in LoadGen's accuracy mode: every cell once.

    Attributes
    ----------
    cells, patients : int
        How many.
    held_out : bool
        Whether no cell of these patients trained the networks.
    weighted_f1, auroc : Interval
        0 to 1, with 95 % intervals by bootstrap over patients.
    """

    cells: int
    patients: int
    held_out: bool
    weighted_f1: Interval
    auroc: Interval


class LoadRow(StrictModel):
    """One scenario, or one level of a sweep. Latencies are from the moment a query is due to its answer.

    Attributes
    ----------
    name : str
        The network's.
    scenario : str
        LoadGen's, or the sweep's.
    valid : bool
        LoadGen's verdict for a scenario; for a sweep: whether rate and latency were stable.
    reasons : tuple of str
        Why it isn't valid.
    level : float or None
        Of a sweep: callers at once, or requests a second.
    cells_per_s : float or None
        Throughput.
    cells_per_query : int
        Cells that are asked for at once.
    p50_ms, p90_ms, p95_ms, p99_ms : float or None
        Percentiles of a query's latency.
    latency_percentile : float or None
        The scenario's own: 90 for single-stream, 99 for multi-stream and server.
    latency_ms : float or None
        At that percentile.
    latency_bound_ms : float or None
        What the server scenario must keep at that percentile.
    target_rate : float or None
        Queries a second that the server scenario sends, on average.
    duration_s : float
        The least duration that was asked for; MLPerf's rules ask for 600.
    windows : int or None
        Of a sweep.
    accuracy : Accuracy or None
        How the calls compare with the labels.
    accuracy_note : str or None
        Why there is no accuracy.
    energy_j_per_cell : float or None
        Joules.
    energy_note : str
        What was measured, or why it can't be had.
    precision, execution, backend, device, layout : str
        What answered.
    workload : {'latency', 'throughput'}
        How it was opened.
    other_cpu_share : float or None
        Share of the cores, 0 to 1, that other processes took meanwhile.
    """

    name: str
    scenario: Scenario
    valid: bool
    reasons: tuple[str, ...] = ()
    level: float | None = None
    cells_per_s: float | None = None
    cells_per_query: int = 1
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    latency_percentile: float | None = None
    latency_ms: float | None = None
    latency_bound_ms: float | None = None
    target_rate: float | None = None
    duration_s: float
    windows: int | None = None
    accuracy: Accuracy | None = None
    accuracy_note: str | None = None
    energy_j_per_cell: float | None = None
    energy_note: str
    precision: Precision
    execution: Execution
    backend: str
    device: str
    layout: Layout
    workload: Literal["latency", "throughput"]
    other_cpu_share: float | None = None


class LoadResult(StrictModel):
    """One run of `blastscope bench --loadgen`.

    Attributes
    ----------
    machine : Machine
        What it ran on.
    versions : dict of str to str
        Libraries and their versions.
    rows : tuple of LoadRow
        One for each scenario, and for each level of a sweep.
    notes : tuple of str
        What a reader must know.
    """

    machine: Machine
    versions: dict[str, str]
    rows: tuple[LoadRow, ...]
    notes: tuple[str, ...] = ()
