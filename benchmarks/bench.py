"""`run_benchmark`: every network's engines, interleaved with the baselines, in one run; and cold starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from blastscope.benchmarks.cold_start import ColdStart, measure_cold_start
from blastscope.benchmarks.model_benchmark import DEFAULT_EXECUTION, BenchmarkConfig, ModelBenchmark
from blastscope.benchmarks.models import BenchmarkModel
from blastscope.benchmarks.roofline import measure_peaks
from blastscope.benchmarks.runtime_targets import BACKEND
from blastscope.benchmarks.schema import BenchResult, Row, describe_machine, installed_versions
from blastscope.runtime.types import LAYOUTS

logger = logging.getLogger(__name__)


def run_benchmark(models: Sequence[BenchmarkModel], config: BenchmarkConfig) -> BenchResult:
    """Measures every model at every batch, with each precision and type that this machine can compute in.

    Labels are compared with those of another engine on the same graph file.

    Parameters
    ----------
    models
        The networks.
    config
        What is compared.

    Returns
    -------
    BenchResult
        A row for each contender and batch; its notes name what this machine can't run.

    Raises
    ------
    WrongAnswer
        A contender gives wrong labels.
    ModuleNotFoundError
        PyTorch is to be the baseline and isn't installed.
    """
    if config.torch_baseline:
        import torch  # noqa: F401  a machine without it fails now, not after the first measurement
    logger.info("measuring the machine's peak")
    peaks = list(measure_peaks(config.threads))
    rows: list[Row] = []
    notes: list[str] = []
    for model in models:
        benchmark = ModelBenchmark(model, config, peaks, notes)
        found: list[Row] = []
        for batch in config.batches:
            logger.info("%s, batch %s", model.name, batch)
            found += benchmark.compare_contenders(batch)
        if config.benchmark_app:
            logger.info("%s: benchmark_app", model.name)
            found += benchmark.compare_benchmark_app()
        if config.runtime:
            benchmark.note_int8_layers()
        rows += _with_cold_starts(found, model) if config.cold_start else found
    machine = describe_machine(peaks)
    return BenchResult(machine=machine, versions=installed_versions(), rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


def _with_cold_starts(rows: Sequence[Row], model: BenchmarkModel) -> list[Row]:
    names = dict.fromkeys(row.name for row in rows if row.scope == "pixels")
    found = {name: _cold_start(name, model) for name in names}
    fields = {name: {"load_s": one.load_s, "peak_mib": one.peak_mib} for name, one in found.items() if one}
    return [row.model_copy(update=fields.get(row.name, {})) if row.scope == "pixels" else row for row in rows]


def _cold_start(name: str, model: BenchmarkModel) -> ColdStart | None:
    """Of the runtime and of three PyTorch models. Compiling is no start, and other baselines start as their library does."""
    graph, engine = name.removeprefix(f"{model.name}/").split("/")
    layouts = {BACKEND: "fused", **{f"{BACKEND}-{layout}": layout for layout in LAYOUTS}}
    if engine != "torch" and (engine not in layouts or engine == f"{BACKEND}-paired"):  # of the other workload
        return None
    logger.info("cold start of %s", name)
    if engine == "torch":
        return measure_cold_start(model.run, "fp32", "f32", "torch")
    precision, _, execution = graph.partition("-")
    execution = execution or DEFAULT_EXECUTION[precision]  # type: ignore[index]
    return measure_cold_start(model.bundle, precision, execution, BACKEND, layout=layouts[engine])
