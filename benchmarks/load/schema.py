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
    """How the calls of a scenario compare with the labels, in LoadGen's accuracy mode: every cell once."""

    cells: int
    patients: int
    held_out: bool  # whether no cell of these patients trained the networks
    weighted_f1: Interval  # 95 % intervals, by bootstrap over patients
    auroc: Interval


class LoadRow(StrictModel):
    """One scenario, or one level of a sweep. Latencies are from the moment a query is due to its answer."""

    name: str  # of the network
    scenario: Scenario
    valid: bool  # LoadGen's verdict for a scenario; for a sweep: whether rate and latency were stable
    reasons: tuple[str, ...] = ()  # why it isn't valid
    level: float | None = None  # of a sweep: callers at once, or requests a second
    cells_per_s: float | None = None
    cells_per_query: int = 1
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    latency_percentile: float | None = None  # the scenario's own: 90 for single-stream, 99 for multi-stream and server
    latency_ms: float | None = None  # at that percentile
    latency_bound_ms: float | None = None  # that the server scenario must keep at that percentile
    target_rate: float | None = None  # queries a second that the server scenario sends, on average
    duration_s: float  # least duration that was asked for; MLPerf's rules ask for 600
    windows: int | None = None  # of a sweep
    accuracy: Accuracy | None = None
    accuracy_note: str | None = None  # why there is none
    energy_j_per_cell: float | None = None
    energy_note: str  # what was measured, or why it can't be had
    precision: Precision
    execution: Execution
    backend: str
    device: str
    layout: Layout
    workload: Literal["latency", "throughput"]
    other_cpu_share: float | None = None  # of the cores, 0 to 1, that other processes took meanwhile


class LoadResult(StrictModel):
    """One run of `blastscope bench --loadgen`."""

    machine: Machine
    versions: dict[str, str]
    rows: tuple[LoadRow, ...]
    notes: tuple[str, ...] = ()
