"""`blastscope demo`: trains, exports and classifies in small."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blastscope.cli.options import Json, find_data
from blastscope.cli.terminal import say

if TYPE_CHECKING:
    from blastscope.demo import Called


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the small run, its bundle and the picture.")] = Path("demo"),
    data: Annotated[Path | None, typer.Option(help="Real cells. Default: BLASTSCOPE_DATA, ../shared/data, else drawn.")] = None,
    as_json: Json = False,
) -> None:
    """Train, export and calibrate a small ensemble, then call cells with the shipped bundle and draw a picture of them."""
    import tempfile

    from blastscope import SHIPPED_BUNDLE
    from blastscope import demo as steps
    from blastscope.runtime.bundle import read_bundle

    with tempfile.TemporaryDirectory(prefix="blastscope-") as place:
        real = find_data(data)
        cells_at = real or steps.draw_data(Path(place) / "cells")
        say(f"cells: real ones from '{real}'" if real else "cells: none at hand (set BLASTSCOPE_DATA), so they are drawn")
        lacking = steps.missing_libraries()
        if lacking:
            say(f"without {', '.join(lacking)} no ensemble is trained: pip install 'blastscope[train,export]'")
        else:
            few = steps.few_cells(cells_at, Path(place) / "few") if real else cells_at
            steps.train_small_bundle(few, fresh(out))
        shipped = read_bundle(SHIPPED_BUNDLE)
        chosen = steps.choose_demo_cells(cells_at, shipped)
        known = real and steps.known(chosen, shipped)  # drawn patients may bear the same names
        if known:
            say("the shipped networks know these patients: agreement here is no score, README.md has those")
        if not real:
            say("drawn cells are unlike those of the training and would be refused: here they are called, which means nothing")
        calls = steps.call(chosen, drawn=not real)
        kind, caution = ("Real cells (C-NMC 2019)", "") if real else ("Drawn cells", ": the calls mean nothing")
        title = f"{kind}, called by the shipped bundle{', which knows their patients' if known else caution}"
        picture = steps.draw(calls, title, out / "cells.png")
    print_calls(calls, picture, as_json=as_json)


def fresh(out: Path) -> Path:
    """`out` without what an earlier demonstration left in it."""
    import shutil

    for name in ("run", "bundle"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    return out


def print_calls(calls: Sequence[Called], picture: Path, *, as_json: bool) -> None:
    """The calls as a table, and where the picture lies."""
    if as_json:
        rows = [{"file": item.cell.path.name, "expert": item.cell.label, **item.prediction.row()} for item in calls]
        typer.echo(json.dumps({"picture": str(picture), "cells": rows}, indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    from blastscope.cli.terminal import show

    table = Table("cell", "patient", "label", "call", "probability", "voter", box=None)
    for item in calls:
        prediction, called = item.prediction, (item.prediction.label or "refused").upper()
        share = "" if prediction.probability is None else f"{prediction.probability:.3f}"
        style = "" if prediction.label == item.cell.label else "yellow"
        row = (item.cell.path.name, item.cell.patient, item.cell.label.upper(), called, share, prediction.voter or "")
        table.add_row(*row, style=style)
    right = sum(item.prediction.label == item.cell.label for item in calls)
    made = sum(item.prediction.label is not None for item in calls)
    refused = f", {len(calls) - made} refused" if made < len(calls) else ""
    show(table, Text(f"{right} of {made} calls agree with the label{refused}. Picture: {picture}"))


VERBS = (demo,)
