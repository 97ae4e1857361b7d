"""`blastscope bench`: measures latency against baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blastscope.cli.options import Json, Threads
from blastscope.cli.session import find_data
from blastscope.cli.train_export import say
from blastscope.runtime.errors import UsageError

if TYPE_CHECKING:
    from blastscope.benchmarks.baselines import Family
    from blastscope.benchmarks.bench import Plan
    from blastscope.benchmarks.comparison import Comparison
    from blastscope.benchmarks.schema import BenchResult
    from blastscope.runtime.types import Layout


def bench(
    *,
    network: Annotated[
        list[str] | None, typer.Option(help="shipped, or a timm backbone with random weights; may be repeated.")
    ] = None,
    against: Annotated[Literal["torch", "none"], typer.Option(help="The peer whose time the ratios are of.")] = "torch",
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help="More peers in the same turns: torch, torch-compiled, onnxruntime, openvino or all; may be repeated."
        ),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, max=64, help="May be repeated. Default: 1 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 4,
    calls: Annotated[int, typer.Option(min=1, help="Of one turn of one side, at least.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.0, help="Of one turn of one side.")] = 3.0,
    patience: Annotated[float, typer.Option(min=0.0, help="Seconds that a round waits for an idle machine.")] = 5.0,
    outside: Annotated[bool, typer.Option("--outside", help="Let OpenVINO's benchmark_app check the network's times.")] = False,
    cold: Annotated[bool, typer.Option(help="Measure cold starts too, each in a process of its own.")] = True,
    own: Annotated[bool, typer.Option(help="Let the runtime itself take part.")] = True,
    layout: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the runtime: fused, side-by-side, paired, staged; may be repeated. Default: what may be fastest."
        ),
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Time the network in stages too, with all voters and with the first alone.")
    ] = False,
    threads: Threads = None,
    compare: Annotated[Path | None, typer.Option(help="An older result (--json): say what is slower beyond noise.")] = None,
    measured: Annotated[Path | None, typer.Option(help="With --compare: take this result instead of measuring.")] = None,
    keep: Annotated[Path | None, typer.Option(help="A file to write the result to as well.")] = None,
    as_json: Json = False,
) -> None:
    """Time every engine in turn with three separate PyTorch models: inception_resnet_v2 and the shipped bundle.

    Exits 1 if --compare finds anything slower, 2 if the two runs can't be compared.
    """
    from blastscope.benchmarks.results import read_result, result_text, write_result

    if measured and not compare:
        raise UsageError("--measured goes with --compare: name the older result")
    old = read_result(compare) if compare else None
    if measured:
        result = read_result(measured)
    else:
        from blastscope.benchmarks.bench import Plan
        from blastscope.benchmarks.interleaved_timing import Pace

        plan = Plan(
            against_torch=against == "torch",
            batches=tuple(batch or (1, 8)),
            pace=Pace(rounds=rounds, calls=calls, seconds=seconds, patience_s=patience),
            threads=threads,
            peers=_families(peers or []),
            own=own,
            layouts=_layouts(layout or []),
            cascade=cascade,
            cold=cold,
            outside=outside,
            data=find_data(),
        )
        result = _measure(network or ["inception_resnet_v2", "shipped"], plan)
    if keep:
        write_result(keep, result)
    if as_json:
        typer.echo(result_text(result), nl=False)
    elif not measured:
        print_result(result)
    if old is not None:
        _compare(old, result, to_stderr=as_json)


def _families(wished: list[str]) -> tuple[Family, ...]:
    from blastscope.benchmarks.baselines import FAMILIES

    unknown = [one for one in wished if one not in (*FAMILIES, "all")]
    if unknown:
        raise UsageError(f"peer '{unknown[0]}' is not known: say {', '.join(FAMILIES)} or all")
    return tuple(one for one in FAMILIES if one in wished or "all" in wished)


def _layouts(wished: list[str]) -> tuple[Layout, ...]:
    from blastscope.runtime.types import LAYOUTS

    unknown = [one for one in wished if one not in LAYOUTS]
    if unknown:
        raise UsageError(f"layout '{unknown[0]}' is not known: say {', '.join(LAYOUTS)}")
    return tuple(one for one in LAYOUTS if one in wished)


def _measure(names: list[str], plan: Plan) -> BenchResult:
    from blastscope.benchmarks.bench import bench as run
    from blastscope.benchmarks.models import prepare

    return run([prepare(name, plan.data, say) for name in names], plan, say)


def _compare(old: BenchResult, new: BenchResult, *, to_stderr: bool) -> None:
    from blastscope.benchmarks.comparison import compare

    found = compare(old, new)
    if found.obstacles:
        raise UsageError(f"the comparison is not valid, the machine is another one: {'; '.join(found.obstacles)}")
    for line in comparison_lines(found):
        typer.echo(line, err=to_stderr)
    if found.slower:
        raise typer.Exit(1)


def comparison_lines(found: Comparison) -> list[str]:
    """What changed, the slower rows first; then what could explain it."""
    order = ("slower", "faster", "busy", "too few rounds", "as before", "new", "gone")
    changes = sorted(found.changes, key=lambda change: order.index(change.verdict))
    verdict = "something is slower" if found.slower else "nothing is slower beyond noise"
    return [verdict, *(change.text for change in changes), *found.notes]


def print_result(result: BenchResult) -> None:
    """The rows as a table, with the machine above and what was left out below."""
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from blastscope.benchmarks.schema import SAYS
    from blastscope.cli.tables import show

    machine = result.machine
    told = [machine.processor, f"{machine.cores} cores", *machine.features]
    told += [f"{peak.execution} peak {peak.gmacs:.0f} GMAC/s" for peak in machine.peaks]
    parts: list[RenderableType] = [Text(", ".join(told))]
    for what in dict.fromkeys(row.what for row in result.rows):
        table = Table("side", "batch", "p50 ms", "p95", "p99", "max", "ratio", "of peak", "load s", "MiB", box=None)
        table.columns[0].overflow = "fold"  # a name that is cut short tells nothing
        for column in table.columns[1:]:
            column.justify = "right"
        for row in (row for row in result.rows if row.what == what):
            times = (f"{value:.1f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
            optional = [(row.ratio, ".2f"), (row.share, ".0%"), (row.load_s, ".2f"), (row.peak_mib, ".0f")]
            name = f"{row.name} (busy)" if row.busy else row.name
            table.add_row(
                name, str(row.batch), *times, *("" if value is None else format(value, form) for value, form in optional)
            )
        parts += [Text(f"\n{SAYS[what]}"), table]
    show(*parts, *(Text(note) for note in result.notes))


VERBS = (bench,)
