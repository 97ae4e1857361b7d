"""`blastscope inspect`, `verify` and `pack`: looks into, checks and packs a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blastscope.cli.options import BundleArgument, Json, RequireSignature
from blastscope.cli.session import bundle_at
from blastscope.cli.terminal import echo, say


def inspect(bundle: BundleArgument = None, *, require_signature: RequireSignature = None, as_json: Json = False) -> None:
    """Print what a bundle says of itself, its digests verified."""
    from blastscope.cli.tables import print_bundle

    print_bundle(bundle_at(bundle, require_signature), as_json=as_json)


def verify(
    bundle: BundleArgument = None,
    *,
    data: Annotated[Path | None, typer.Option(help="Labelled cells: print the scores of every precision side by side.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="With --data: CSV file of each cell's call and score, and of those left out, with why.")
    ] = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Check digests, the golden set and the parity of every engine here. Exits 1 when one answers outside its tolerance."""
    from blastscope.calibration.compare import CellCall, compare
    from blastscope.cli.tables import json_text
    from blastscope.runtime.errors import UsageError
    from blastscope.runtime.io.atomic import check_place
    from blastscope.runtime.io.csv_table import write_table

    if csv and not data:
        raise UsageError("--csv goes with --data: without labelled cells there is none to list")
    if csv:
        check_place(csv)
    comparison = compare(bundle_at(bundle, require_signature), data)
    if csv:
        write_table(csv, list(CellCall.model_fields), (list(cell.model_dump().values()) for cell in comparison.cells))
        say(f"written: {csv}")
    echo(json_text(comparison) if as_json else comparison.text())
    if not comparison.passed:
        raise typer.Exit(1)


def pack(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path, typer.Argument(help="The zip to write.")],
) -> None:
    """Write a bundle as a zip, the same bytes for the same bundle."""
    from blastscope.runtime.bundle import pack as write_zip

    echo(write_zip(bundle_at(bundle), out))


VERBS = (inspect, verify, pack)
