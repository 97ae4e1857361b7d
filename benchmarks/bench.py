"""`run_benchmark`: every network's engines, interleaved with the baselines, in one run; and cold starts."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from blastscope.benchmarks.contenders import BACKEND
from blastscope.benchmarks.model_benchmark import DEFAULT_EXECUTION, BenchmarkConfig, ModelBenchmark
from blastscope.benchmarks.models import BenchmarkModel
from blastscope.benchmarks.native import ENGINE, in_own_section, measure_native_start
from blastscope.benchmarks.roofline import measure_peaks
from blastscope.benchmarks.schema import BenchResult, FirstLabel, Row, describe_machine, library_versions
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import LAYOUTS, ClassName

logger = logging.getLogger(__name__)

CELL_SEED = 7  # of the synthetic cell that is classified


class ColdStart(StrictModel):
    """The cost of a process until its first label.

    Attributes
    ----------
    load_s
        Seconds from the start of the process to the label.
    peak_mib
        Its peak resident memory in MiB; None elsewhere than on Linux.
    label
        Of the synthetic cell; None where it was refused.
    """

    load_s: float
    peak_mib: float | None
    label: ClassName | None


def measure_cold_start(
    path: Path, precision: str, execution: str, backend: str, *, layout: str = "fused", cache: Path | None = None
) -> ColdStart:
    """Starts a process that opens `path` and classifies one cell.

    Parameters
    ----------
    path
        A bundle, or with the backend 'torch' the folder of a trained ensemble.
    precision, execution, backend, layout
        As `open_bundle` takes them.
    cache
        Folder of compiled engines: the first process to use an empty one compiles. None: the user's cache.

    Returns
    -------
    ColdStart
        Time, memory and label.

    Raises
    ------
    subprocess.CalledProcessError
        The process failed; its message is on stderr.
    """
    command = [sys.executable, "-m", "blastscope.benchmarks.bench", str(path), precision, execution, backend, layout]
    command += [str(cache)] if cache else []
    start = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    first = FirstLabel.model_validate_json(done.stdout)
    return ColdStart(load_s=first.time_s - start, peak_mib=first.peak_mib, label=first.label)


def _classify_once(path: Path, options: Sequence[str], cache: Path | None) -> tuple[float, ClassName | None]:
    """The time of the first label, in seconds of the system's clock, and the label."""
    image = synthetic_cell(CELL_SEED)
    precision, execution, backend, layout = options
    if backend == "torch":
        from blastscope.benchmarks.contenders import separate_torch_models

        (label,) = separate_torch_models(path)([image])
        return time.time(), label
    from blastscope import open_bundle

    with open_bundle(
        path,
        device="cpu",
        precision=precision,
        execution=execution,
        backend=backend,
        layout=layout,  # named: what `auto` measures after the first label is no part of it, nor of the peak memory
        allow_ungated=True,
        unlike_training="call",
        cache_dir=cache,
    ) as scope:
        label = scope.classify(image).label
        return time.time(), label


def _main() -> None:
    path, *options = sys.argv[1:]
    time_s, label = _classify_once(Path(path), options[:4], Path(options[4]) if options[4:] else None)
    print(FirstLabel(time_s=time_s, label=label, peak_mib=_peak_mib()).model_dump_json())


def _peak_mib() -> float | None:
    """From /proc, since getrusage also counts the memory of the parent at the time when it started this process."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    _main()


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
        rows += _with_cold_starts(found, model, config.native) if config.cold_start else found
    if config.native and not config.torch_baseline:
        rows = in_own_section(rows)
    machine = describe_machine(peaks)
    return BenchResult(machine=machine, versions=library_versions(), rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


def _with_cold_starts(rows: Sequence[Row], model: BenchmarkModel, native: Path | None) -> list[Row]:
    names = dict.fromkeys(row.name for row in rows if row.scope == "pixels")
    found = {name: _cold_start(name, model, native) for name in names}
    fields = {name: {"load_s": one.load_s, "peak_mib": one.peak_mib} for name, one in found.items() if one}
    return [row.model_copy(update=fields.get(row.name, {})) if row.scope == "pixels" else row for row in rows]


def _cold_start(name: str, model: BenchmarkModel, native: Path | None) -> ColdStart | None:
    """Of the runtime, libblastscope and three PyTorch models; compiling is no start, and others start as their library."""
    graph, engine = name.removeprefix(f"{model.name}/").split("/")
    layouts = {BACKEND: "fused", **{f"{BACKEND}-{layout}": layout for layout in LAYOUTS}}
    if engine not in ("torch", ENGINE) and (engine not in layouts or engine == f"{BACKEND}-paired"):  # of the other workload
        return None
    logger.info("cold start of %s", name)
    if engine == "torch":
        return measure_cold_start(model.run, "fp32", "f32", "torch")
    precision, _, execution = graph.partition("-")
    execution = execution or DEFAULT_EXECUTION[precision]  # type: ignore[index]
    if engine == ENGINE:
        assert native is not None  # its row is there
        load_s, first = measure_native_start(native, model.bundle, synthetic_cell(CELL_SEED), (precision, execution, "fused"))
        return ColdStart(load_s=load_s, peak_mib=first.peak_mib, label=first.label)
    return measure_cold_start(model.bundle, precision, execution, BACKEND, layout=layouts[engine])
