"""`blastscope bench`: measures latency against baselines; with `--loadgen` MLPerf's scenarios, and sweeps over load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blastscope.cli.options import Json, Threads, find_data
from blastscope.cli.terminal import deprecations_said, echo
from blastscope.runtime.errors import UsageError

if TYPE_CHECKING:
    from blastscope.benchmarks.baselines import Framework
    from blastscope.benchmarks.load import LoadResult, LoadRow
    from blastscope.benchmarks.model_benchmark import BenchmarkConfig
    from blastscope.benchmarks.results import RunComparison
    from blastscope.benchmarks.schema import BenchResult
    from blastscope.runtime.types import Layout

DEFAULT_NETWORKS = ["inception_resnet_v2", "shipped"]
LOADGEN_HELP = (
    "Instead: load as MLPerf's LoadGen makes it: single-stream, multi-stream, server, offline; sweeps: concurrency, "
    "request-rate; or all. May be repeated; --network may name a bundle's folder, --seconds is the least duration of each."
)


def bench(
    *,
    network: Annotated[
        list[str] | None, typer.Option(help="shipped, or a timm backbone with random weights; may be repeated.")
    ] = None,
    baseline: Annotated[Literal["torch", "none"], typer.Option(help="The baseline whose time the ratios are of.")] = "torch",
    framework: Annotated[
        list[str] | None,
        typer.Option(help="More baselines to time: torch, torch-compiled, onnxruntime, openvino or all; may be repeated."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, max=64, help="May be repeated. Default: 1 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in each of which every contender is timed.")] = 4,
    calls: Annotated[int, typer.Option(min=1, help="Calls of a contender in a round, at least.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.0, help="Duration of a contender's calls in a round.")] = 3.0,
    idle_timeout: Annotated[float, typer.Option(min=0.0, help="Seconds that a round waits for an idle machine.")] = 5.0,
    benchmark_app: Annotated[
        bool, typer.Option("--benchmark-app", help="Let OpenVINO's benchmark_app time the network too.")
    ] = False,
    cold_start: Annotated[bool, typer.Option(help="Measure cold starts too, each in a process of its own.")] = True,
    runtime: Annotated[bool, typer.Option(help="Time the runtime itself.")] = True,
    layout: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the runtime: fused, side-by-side, paired, staged; may be repeated. Default: what may be fastest."
        ),
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Time the network in stages too, with all voters and with the first alone.")
    ] = False,
    native: Annotated[Path | None, typer.Option(help="libblastscope.so: time it too, at batch 1 (`make native`).")] = None,
    threads: Threads = None,
    loadgen: Annotated[list[str] | None, typer.Option(help=LOADGEN_HELP)] = None,
    latency_bound_ms: Annotated[float, typer.Option(min=0.1, help="With --loadgen server: of the 99th percentile.")] = 100.0,
    compare: Annotated[Path | None, typer.Option(help="An older result (--json): say what is slower beyond noise.")] = None,
    result: Annotated[Path | None, typer.Option(help="With --compare: take this result instead of measuring.")] = None,
    output: Annotated[Path | None, typer.Option(help="A file to write the result to as well.")] = None,
    as_json: Json = False,
) -> None:
    """Time every engine, interleaved with three separate PyTorch models: inception_resnet_v2 and the shipped bundle.

    Exits 1 if --compare finds anything slower, 2 if the two runs can't be compared.
    """
    from blastscope.runtime.frames.report.writers import check_places

    if loadgen:
        if compare or result or output or native:
            raise UsageError("--compare, --result, --output and --native don't go with --loadgen: take its --json from stdout")
        run_loadgen(loadgen, network or DEFAULT_NETWORKS, seconds, latency_bound_ms, threads=threads, as_json=as_json)
        return
    if result and not compare:
        raise UsageError("--result goes with --compare: name the older result")
    old = _read_result(compare) if compare else None
    if output:
        check_places([output], [], others=(compare, result, native))
    if result:
        new = _read_result(result)
    else:
        from blastscope.benchmarks.interleaved_timing import TimingConfig
        from blastscope.benchmarks.model_benchmark import BenchmarkConfig

        config = BenchmarkConfig(
            torch_baseline=baseline == "torch",
            batches=tuple(batch or (1, 8)),
            timing=TimingConfig(rounds=rounds, min_calls=calls, seconds=seconds, idle_timeout_s=idle_timeout),
            threads=threads,
            frameworks=_parse_frameworks(framework or []),
            runtime=runtime,
            layouts=_parse_layouts(layout or []),
            cascade=cascade,
            cold_start=cold_start,
            benchmark_app=benchmark_app,
            data=find_data(),
            native=native,
        )
        new = _measure(network or DEFAULT_NETWORKS, config)
    _give(new, output, as_json=as_json, table=not result)
    if old is not None:
        _compare(old, new, to_stderr=as_json)


def _give(new: BenchResult, output: Path | None, *, as_json: bool, table: bool) -> None:
    """Writes the result into the file `output`, and prints it as JSON or as a table."""
    from blastscope.benchmarks.results import result_json, write_result

    if output:
        write_result(output, new)
    if as_json:
        typer.echo(result_json(new), nl=False)
    elif table:
        print_result(new)


def _read_result(path: Path) -> BenchResult:
    """The result in a file; what is deprecated in it is said on stderr."""
    from blastscope.benchmarks.results import read_result

    with deprecations_said():
        return read_result(path)


def _parse_frameworks(names: list[str]) -> tuple[Framework, ...]:
    from blastscope.benchmarks.baselines import FRAMEWORKS

    unknown = [name for name in names if name not in (*FRAMEWORKS, "all")]
    if unknown:
        raise UsageError(f"framework '{unknown[0]}' is not known: say {', '.join(FRAMEWORKS)} or all")
    return tuple(one for one in FRAMEWORKS if one in names or "all" in names)


def _parse_layouts(names: list[str]) -> tuple[Layout, ...]:
    from blastscope.runtime.types import LAYOUTS

    unknown = [name for name in names if name not in LAYOUTS]
    if unknown:
        raise UsageError(f"layout '{unknown[0]}' is not known: say {', '.join(LAYOUTS)}")
    return tuple(one for one in LAYOUTS if one in names)


def _measure(networks: list[str], config: BenchmarkConfig) -> BenchResult:
    from blastscope.benchmarks.bench import run_benchmark
    from blastscope.benchmarks.models import prepare_model

    return run_benchmark([prepare_model(network, config.data) for network in networks], config)


def _compare(old: BenchResult, new: BenchResult, *, to_stderr: bool) -> None:
    from blastscope.benchmarks.results import compare_runs

    comparison = compare_runs(old, new)
    if comparison.machine_differences:
        differences = "; ".join(comparison.machine_differences)
        raise UsageError(f"the comparison is not valid, the machine is another one: {differences}")
    for line in comparison_lines(comparison):
        echo(line, err=to_stderr)
    if comparison.slower:
        raise typer.Exit(1)


def comparison_lines(comparison: RunComparison) -> list[str]:
    """What changed, one line a row with the slower rows first; then the versions that changed."""
    order = ("slower", "faster", "busy", "too few rounds", "as before", "new", "gone")
    changes = sorted(comparison.changes, key=lambda change: order.index(change.verdict))
    summary = "something is slower" if comparison.slower else "nothing is slower beyond noise"
    return [summary, *(change.text for change in changes), *comparison.notes]


def print_result(result: BenchResult) -> None:
    """The rows as tables, with the machine above and the notes below."""
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from blastscope.benchmarks.schema import SCOPE_DESCRIPTIONS
    from blastscope.cli.terminal import show

    machine = result.machine
    facts = [machine.processor, f"{machine.cores} cores", *machine.features]
    facts += [f"{peak.execution} peak {peak.gmacs:.0f} GMAC/s" for peak in machine.peaks]
    parts: list[RenderableType] = [Text(", ".join(facts))]
    for scope in dict.fromkeys(row.scope for row in result.rows):
        table = Table("contender", "batch", "p50 ms", "p95", "p99", "max", "ratio", "of peak", "load s", "MiB", box=None)
        table.columns[0].overflow = "fold"  # a name that is cut short says nothing
        for column in table.columns[1:]:
            column.justify = "right"
        for row in (row for row in result.rows if row.scope == scope):
            times = (f"{value:.1f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
            optional = [(row.ratio, ".2f"), (row.peak_fraction, ".0%"), (row.load_s, ".2f"), (row.peak_mib, ".0f")]
            name = f"{row.name} (busy)" if row.busy else row.name
            table.add_row(
                name, str(row.batch), *times, *("" if value is None else format(value, form) for value, form in optional)
            )
        parts += [Text(f"\n{SCOPE_DESCRIPTIONS[scope]}"), table]
    show(*parts, *(Text(note) for note in result.notes))


def run_loadgen(
    names: list[str], networks: list[str], seconds: float, latency_bound_ms: float, *, threads: int | None, as_json: bool
) -> None:
    """Measures the scenarios `names` of each network, and prints a table, or JSON."""
    from blastscope.benchmarks.load import LoadConfig, run_load
    from blastscope.benchmarks.load.schema import SCENARIOS

    unknown = [name for name in names if name not in (*SCENARIOS, "all")]
    if unknown:
        raise UsageError(f"scenario '{unknown[0]}' is not known: say {', '.join(SCENARIOS)} or all")
    if seconds <= 0:
        raise UsageError("--loadgen takes --seconds above 0: LoadGen runs each scenario for so long at least")
    chosen = tuple(one for one in SCENARIOS if one in names or "all" in names)
    config = LoadConfig(chosen, seconds, latency_bound_ms, threads=threads, data=find_data())
    result = run_load({network: _bundle(network) for network in networks}, config)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        print_load(result)


def _bundle(network: str) -> Path:
    if Path(network).is_dir() or network.endswith(".zip"):
        return Path(network)
    from blastscope.benchmarks.models import prepare_model

    return prepare_model(network, find_data()).bundle


def print_load(result: LoadResult) -> None:
    """A row for each scenario and level, with what applies to all of them below."""
    from rich.table import Table
    from rich.text import Text

    from blastscope.cli.terminal import show

    table = Table("network", "scenario", "valid", "cells/s", "p50 ms", "p90", "p99", "F1", "AUROC", "J/cell", box=None)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for column in table.columns[3:]:
        column.justify = "right"
    for row in result.rows:
        f1, auroc = (row.accuracy.weighted_f1.value, row.accuracy.auroc.value) if row.accuracy else (None, None)
        optional = [(row.cells_per_s, ".1f"), (row.p50_ms, ".1f"), (row.p90_ms, ".1f"), (row.p99_ms, ".1f")]
        optional += [(f1, ".3f"), (auroc, ".3f"), (row.energy_j_per_cell, ".3f")]
        cells = ("" if value is None else format(value, form) for value, form in optional)
        table.add_row(f"{row.name}/{row.precision}", _described(row), "yes" if row.valid else "no", *cells)
    show(Text(result.machine.processor), table, *(Text(note) for note in dict.fromkeys(_notes(result))))


def _described(row: LoadRow) -> str:
    if row.latency_bound_ms is not None and row.target_rate is not None:
        return f"{row.scenario}, {row.target_rate:.1f}/s, p99 within {row.latency_bound_ms:g} ms"
    return row.scenario if row.level is None else f"{row.scenario} {row.level:.4g}"


def _notes(result: LoadResult) -> list[str]:
    notes = list(result.notes)
    for row in result.rows:
        if not row.valid:
            notes.append(f"{row.name}, {_described(row)}: {'; '.join(row.reasons) or 'invalid'}")
        notes.append(f"energy: {row.energy_note}")
    return notes


VERBS = (bench,)
