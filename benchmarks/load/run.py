"""`run_load`: scenarios and sweeps of each network, with accuracy and energy in the same row.

Energy is what a measurement took by RAPL's counters of a CPU's packages, and NVML's of a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from blastscope import Scope, open_bundle
from blastscope.benchmarks.interleaved_timing import ContentionMonitor
from blastscope.benchmarks.load.scenarios import (
    CELLS_PER_QUERY,
    PERCENTILES,
    Answer,
    LoadSamples,
    ScenarioSettings,
    Summary,
    load_samples,
    measure_accuracy,
    measure_performance,
)
from blastscope.benchmarks.load.schema import (
    MLPERF_SCENARIOS,
    SCENARIOS,
    Accuracy,
    LoadResult,
    LoadRow,
    MlperfScenario,
    Scenario,
    Sweep,
)
from blastscope.benchmarks.load.sweeps import SweepLevel, sweep_concurrency, sweep_request_rate
from blastscope.benchmarks.schema import LIBRARIES, describe_machine, library_versions
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.cuda.driver import total_energy_mj
from blastscope.runtime.evaluation.metrics import score_calls
from blastscope.runtime.types import Audit

POWERCAP = Path("/sys/class/powercap")
Workload = Literal["latency", "throughput"]
logger = logging.getLogger(__name__)
CONCURRENCY = (1, 2, 4, 8)
RATE_SHARES = (0.9, 0.7, 0.5, 0.3, 0.1)  # of the offline scenario's rate: those that server and request-rate try
OFFLINE_MARGIN = 1.25  # by which the offline query is larger than estimated: one that ends before its time isn't valid
MOST_QUERIES_IN_WAIT = 4096  # the server scenario's sender must never wait for the handle


class Energy(NamedTuple):
    """The energy that a meter measured.

    Attributes
    ----------
    joules : float or None
        None: it can't be had.
    note : str
        What was measured, or why not.
    """

    joules: float | None
    note: str


class EnergyMeter:
    """Reads the energy since its construction.

    A CPU's counters are those of its packages: whatever runs on them counts, other processes too. On most virtual machines, and
    for users other than root, there are none to read; `read` then says so.

    Parameters
    ----------
    device
        As a prediction's audit has it: 'cuda:0', say, reads that GPU; anything else the CPU.
    powercap
        Folder of the kernel's power capping framework.
    """

    def __init__(self, device: str, powercap: Path = POWERCAP) -> None:
        self._gpu = int(device.partition(":")[2] or 0) if device.startswith("cuda") else None
        self._powercap = powercap
        self._packages = {} if self._gpu is not None else self._read_packages()
        self._gpu_mj = None if self._gpu is None else total_energy_mj(self._gpu)

    def read(self) -> Energy:
        """The energy since construction."""
        if self._gpu is not None:
            now = total_energy_mj(self._gpu)
            if now is None or self._gpu_mj is None:
                return Energy(None, "can't be had: NVML doesn't tell this GPU's energy")
            return Energy((now - self._gpu_mj) / 1e3, "NVML, the GPU alone")
        if not self._packages:
            return Energy(None, f"can't be had: no readable RAPL counter below {self._powercap}")
        now_uj, joules = self._read_packages(), 0.0
        for zone, before in self._packages.items():
            if zone not in now_uj:
                return Energy(None, f"can't be had: {zone} can't be read any more")
            spent = now_uj[zone] - before
            joules += (spent if spent >= 0 else spent + self._wraps_at(zone)) / 1e6
        return Energy(joules, f"RAPL, {len(self._packages)} package{'s' if len(self._packages) > 1 else ''}, all processes")

    def _read_packages(self) -> dict[str, int]:
        """Microjoules of each package; sub-zones, such as intel-rapl:0:1, are part of them."""
        found = {}
        for zone in sorted(self._powercap.glob("*-rapl:*")):
            if zone.name.count(":") == 1:
                try:
                    if (zone / "name").read_text(encoding="ascii").startswith("package"):
                        found[zone.name] = int((zone / "energy_uj").read_text(encoding="ascii"))
                except (OSError, ValueError):
                    continue
        return found

    def _wraps_at(self, zone: str) -> int:
        return int((self._powercap / zone / "max_energy_range_uj").read_text(encoding="ascii"))


@dataclass(frozen=True)
class LoadConfig:
    """What is measured.

    Attributes
    ----------
    scenarios
        Which of MLPerf's scenarios and sweeps.
    seconds
        Least duration of a scenario, and of a sweep's window.
    latency_bound_ms
        Of the server scenario, at the 99th percentile.
    cells
        How many different cells are sent.
    threads
        Of the runtime; None: one for each core that this process may use.
    data
        Folder of C-NMC cells; None: cells are drawn, and accuracy can't be had.
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS
    seconds: float = 10.0
    latency_bound_ms: float = 100.0
    cells: int = 512
    threads: int | None = None
    data: Path | None = None


def run_load(bundles: dict[str, Path], config: LoadConfig) -> LoadResult:
    """Measures every network of `bundles`, which gives the bundle's folder by the network's name.

    Parameters
    ----------
    bundles
        Bundles by the names that their rows get.
    config
        What is measured.

    Returns
    -------
    LoadResult

    Raises
    ------
    MissingLibrary
        mlcommons-loadgen isn't installed.
    BlastscopeError
        A bundle doesn't open, or a cell wasn't answered.
    """
    rows: list[LoadRow] = []
    notes: list[str] = []
    for name, path in bundles.items():
        samples = load_samples(read_bundle(path), config.data, config.cells)
        notes.append(f"{name}: {len(samples.images)} cells of {samples.note}")
        rows += _Network(name, path, samples, config).measure()
    return LoadResult(
        machine=describe_machine(),
        versions=library_versions((*LIBRARIES, "mlcommons-loadgen")),
        rows=tuple(rows),
        notes=tuple(notes),
    )


class _Network:
    """One network: its handles are opened for latency, and for throughput where many cells come at once."""

    def __init__(self, name: str, bundle: Path, samples: LoadSamples, config: LoadConfig) -> None:
        self._name, self._bundle, self._samples = name, bundle, samples
        self._config = config
        self._fastest = 0.0  # cells a second in the offline scenario

    def measure(self) -> list[LoadRow]:
        """A row for each scenario and level."""
        wanted = self._config.scenarios
        rows: dict[MlperfScenario, LoadRow] = {}
        with self._open("throughput") as scope:
            self._fastest = self._estimated_rate(scope)
            if "offline" in wanted:
                rows["offline"] = self._scenario_row(scope, "offline", OFFLINE_MARGIN * self._fastest, "throughput")
                self._fastest = rows["offline"].cells_per_s or self._fastest
            if "multi-stream" in wanted:
                rows["multi-stream"] = self._scenario_row(scope, "multi-stream", 1.0, "throughput")
        found: list[LoadRow] = []
        with self._open("latency") as scope:
            if "single-stream" in wanted:
                rows["single-stream"] = self._scenario_row(scope, "single-stream", 1.0, "latency")
            if "server" in wanted:
                rows["server"] = self._server_row(scope)
            found += [rows[one] for one in MLPERF_SCENARIOS if one in rows]
            if "concurrency" in wanted:
                found += [self._sweep_row(scope, "concurrency", callers) for callers in CONCURRENCY]
            if "request-rate" in wanted:
                rates = [share * self._fastest for share in reversed(RATE_SHARES)]
                found += [self._sweep_row(scope, "request-rate", rate) for rate in rates]
        return found

    def _estimated_rate(self, scope: Scope) -> float:
        """Cells a second where many come at once: by one cell, then twice by as many as the rate before makes of a second."""
        rate = 1.0
        for _ in range(3):
            settings = ScenarioSettings("offline", min(self._config.seconds, 1.0), 0.0, rate)
            rate = self._measured(scope, settings)[0].figures.get("Samples per second", rate)
        return rate

    def _open(self, workload: Workload) -> Scope:
        scope = open_bundle(
            self._bundle,
            workload=workload,
            threads=self._config.threads,
            queue=MOST_QUERIES_IN_WAIT,
            allow_ungated=True,
            unlike_training="call",
        )
        for image in self._samples.images[:CELLS_PER_QUERY]:  # warmed up
            scope.classify(image)
        return scope

    def _server_row(self, scope: Scope) -> LoadRow:
        """At the largest of some rates that keeps the bound; at the smallest where none does."""
        row = None
        for share in RATE_SHARES:
            row = self._scenario_row(scope, "server", share * self._fastest, "latency")
            if row.valid:
                break
        assert row is not None
        return row

    def _scenario_row(self, scope: Scope, scenario: MlperfScenario, rate: float, workload: Workload) -> LoadRow:
        config = self._config
        settings = ScenarioSettings(scenario, config.seconds, config.latency_bound_ms, rate)
        is_server = scenario == "server"
        logger.info("%s, %s%s", self._name, scenario, f" at {rate:.1f} cells a second" if is_server else "")
        summary, facts = self._measured(scope, settings)
        percentile = PERCENTILES.get(scenario)
        return LoadRow(
            scenario=scenario,
            valid=summary.valid,
            reasons=summary.reasons,
            cells_per_s=_cells_per_s(summary, scenario),
            cells_per_query=CELLS_PER_QUERY if scenario == "multi-stream" else 1,
            p50_ms=summary.percentile_ms(50),
            p90_ms=summary.percentile_ms(90),
            p95_ms=summary.percentile_ms(95),
            p99_ms=summary.percentile_ms(99),
            latency_percentile=percentile,
            latency_ms=None if percentile is None else summary.percentile_ms(percentile),
            latency_bound_ms=config.latency_bound_ms if is_server else None,
            target_rate=rate if is_server else None,
            workload=workload,
            **self._accuracy(scope, settings),
            **facts,
        )

    def _measured(self, scope: Scope, settings: ScenarioSettings) -> tuple[Summary, dict[str, Any]]:
        """A performance run, and what every row tells of it."""
        audit = scope.classify(self._samples.images[0]).audit
        monitor, meter = ContentionMonitor(), EnergyMeter(audit.device)
        summary = measure_performance(scope, self._samples.images, settings)
        return summary, self._facts(audit, monitor, meter, summary.cells)

    def _facts(self, audit: Audit, monitor: ContentionMonitor, meter: EnergyMeter, cells: int) -> dict[str, Any]:
        energy = meter.read()
        return {
            "name": self._name,
            "duration_s": self._config.seconds,
            "energy_j_per_cell": energy.joules / cells if energy.joules is not None and cells else None,
            "energy_note": energy.note,
            "other_cpu_share": monitor.other_cpu_share(),
            "precision": audit.precision,
            "execution": audit.execution,
            "backend": audit.backend,
            "device": audit.device,
            "layout": audit.layout,
        }

    def _accuracy(self, scope: Scope, settings: ScenarioSettings) -> dict[str, Any]:
        samples = self._samples
        if samples.labels is None:
            return {"accuracy": None, "accuracy_note": samples.note}
        if len(set(samples.labels.tolist())) < 2:
            return {"accuracy": None, "accuracy_note": "all cells are of one class"}
        answers = measure_accuracy(scope, samples.images, settings)
        return {"accuracy": score_answers(answers, samples), "accuracy_note": samples.note}

    def _sweep_row(self, scope: Scope, sweep: Sweep, level: float) -> LoadRow:
        logger.info("%s, %s %g", self._name, sweep, level)
        images, window_s = self._samples.images, self._config.seconds
        audit = scope.classify(images[0]).audit
        monitor, meter = ContentionMonitor(), EnergyMeter(audit.device)
        if sweep == "concurrency":
            found = sweep_concurrency(scope, images, int(level), window_s)
        else:
            found = sweep_request_rate(scope, images, level, window_s)
        facts = self._facts(audit, monitor, meter, 0)
        facts["energy_note"] = "not measured in sweeps"
        return LoadRow(
            scenario=sweep,
            level=level,
            valid=found.stable,
            reasons=() if found.stable else (f"not stable in {found.windows} windows",),
            cells_per_s=found.cells_per_s,
            windows=found.windows,
            workload="latency",
            accuracy_note="as the scenarios'",
            **_percentiles(found),
            **facts,
        )


def score_answers(answers: Sequence[Answer], samples: LoadSamples) -> Accuracy:
    """How the answers compare with the labels. A refused cell counts as called wrong.

    Parameters
    ----------
    answers
        In the order of the samples.
    samples
        With labels of both classes.

    Returns
    -------
    Accuracy
    """
    assert samples.labels is not None
    called = np.array([answer.label for answer in answers], np.int64)
    called = np.where(called < 0, 1 - samples.labels, called)
    scores = np.array([answer.score for answer in answers], np.float64)
    found = score_calls(samples.labels, called, scores, samples.people)
    return Accuracy(
        cells=len(answers),
        patients=len(set(samples.people)),
        held_out=samples.held_out,
        weighted_f1=found.weighted_f1,
        auroc=found.auroc,
    )


def _cells_per_s(summary: Summary, scenario: MlperfScenario) -> float | None:
    """By LoadGen's own figure of each scenario."""
    names = {
        "offline": ("Samples per second", 1),
        "server": ("Completed samples per second", 1),
        "single-stream": ("QPS w/ loadgen overhead", 1),
        "multi-stream": ("Mean latency (ns)", 0),
    }
    name, cells = names[scenario]
    figure = summary.figures.get(name)
    if figure is None:
        return None
    return figure * cells if cells else 1e9 * CELLS_PER_QUERY / figure


def _percentiles(level: SweepLevel) -> dict[str, Any]:
    if not len(level.latencies_ms):
        return {}
    return {f"p{share}_ms": float(np.percentile(level.latencies_ms, share)) for share in (50, 90, 95, 99)}
