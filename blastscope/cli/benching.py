"""`blastscope bench`: for whoever measures latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blastscope.cli.options import Json, Threads
from blastscope.cli.places import find_data
from blastscope.cli.road import say

if TYPE_CHECKING:
    from blastscope.benchmarks.rows import BenchResult


def bench(
    *,
    network: Annotated[
        list[str] | None, typer.Option(help="shipped, or a timm backbone with random weights; may be repeated.")
    ] = None,
    against: Annotated[Literal["torch", "none"], typer.Option(help="The peer whose time the ratios are of.")] = "torch",
    batch: Annotated[list[int] | None, typer.Option(min=1, max=64, help="May be repeated. Default: 1 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.0, help="Of one turn of one side.")] = 3.0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time every engine in turn with three separate PyTorch models: inception_resnet_v2 and the shipped bundle."""
    from blastscope.benchmarks.bench import Plan
    from blastscope.benchmarks.bench import bench as run
    from blastscope.benchmarks.networks import prepare
    from blastscope.benchmarks.turns import Pace

    names = network or ["inception_resnet_v2", "shipped"]
    contenders = [prepare(name, find_data(), say) for name in names]
    plan = Plan(against == "torch", tuple(batch or (1, 8)), Pace(rounds=rounds, seconds=seconds), threads)
    result = run(contenders, plan, say)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        print_result(result)


def print_result(result: BenchResult) -> None:
    """The rows as a table, with the machine above and what was left out below."""
    from rich.table import Table
    from rich.text import Text

    from blastscope.cli.tables import show

    machine = result.machine
    features = ", ".join(machine.features)
    table = Table("side", "batch", "p50 ms", "p95", "p99", "max", "ratio", "load s", "peak MiB", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in result.rows:
        times = (f"{value:.1f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
        optional = [(row.ratio, ".2f"), (row.load_s, ".2f"), (row.peak_mib, ".0f")]
        table.add_row(
            row.name, str(row.batch), *times, *("" if value is None else format(value, form) for value, form in optional)
        )
    show(Text(f"{machine.processor}, {machine.cores} cores, {features}"), table, *(Text(note) for note in result.notes))


VERBS = (bench,)
