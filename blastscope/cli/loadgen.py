"""`blastscope bench --loadgen`: MLPerf's scenarios, and sweeps over concurrency and request rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from blastscope.cli.options import find_data
from blastscope.runtime.errors import UsageError

if TYPE_CHECKING:
    from blastscope.benchmarks.load import LoadResult, LoadRow

LOADGEN_HELP = (
    "Instead: load as MLPerf's LoadGen makes it: single-stream, multi-stream, server, offline; sweeps: concurrency, "
    "request-rate; or all. May be repeated; --network may name a bundle's folder, --seconds is the least duration of each."
)


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

    from blastscope.cli.tables import show

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
