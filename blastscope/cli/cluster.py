"""`--ray` of `classify` and `examine`: the same work on a Ray cluster, with Parquet files as results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress

from blastscope.cli.options import bundle_at
from blastscope.cli.terminal import echo, say
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.printable import printable

if TYPE_CHECKING:
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.integrations.ray_cluster import Task

RayAddress = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Work on this Ray cluster: auto, HOST:PORT, ray://HOST:PORT or local."),
]
Results = Annotated[Path | None, typer.Option("--results", help="With --ray: folder of Parquet files, gone on with if begun.")]


class ClusterJob(NamedTuple):
    """What is to be done on which cluster.

    Attributes
    ----------
    task : {'classify', 'examine'}
        What is done with each path.
    address : str
        Ray's address of the cluster.
    results : Path or None
        Folder of Parquet files.
    bundle : Path or None
        None: the shipped one.
    engine : mapping of str
        Keyword arguments of `open_bundle`.
    pixel_um : float or None
        Micrometres per pixel of all frames.
    spec : FrameSpecification or None
        What is assumed of frames and cells.
    """

    task: Task
    address: str
    results: Path | None
    bundle: Path | None
    engine: Mapping[str, Any]
    pixel_um: float | None = None
    spec: FrameSpecification | None = None


def run_on_cluster(job: ClusterJob, paths: Sequence[Path], *, alone: bool, as_json: bool) -> None:
    """Answers `paths` on a cluster, prints a line for each as it is answered, and exits 1 where some were refused.

    Raises `UsageError` without a folder for the results, and if not `alone`: with an option that the cluster knows nothing of.
    """
    if job.results is None:
        raise UsageError("--ray needs --results: the folder that the answers go to")
    if not alone:
        raise UsageError("--ray writes --results and nothing else: leave --group-by and all other outputs out")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers of each run
    from blastscope.runtime.integrations.ray_cluster import RayRun, Work
    from blastscope.runtime.io.paths import resolved

    places = [resolved(path) for path in paths]
    bundle, chosen = job.bundle, {name: value for name, value in job.engine.items() if value is not None}
    work = Work(job.task, bundle and resolved(bundle), bundle_at(bundle).digest, chosen, job.pixel_um, job.spec)
    refused = answered = 0
    console = Console(stderr=True)
    with (
        RayRun(job.address, work, job.results) as run,
        Progress(console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False) as progress,
    ):
        refused += run.refused_before(places)
        todo = progress.add_task(f"{job.task} on {len(run.processes)} actors", total=len(places))
        for path, row in run.answers(places):
            answered += 1
            refused += row["refusal"] is not None
            progress.stop()
            echo(json.dumps({"path": str(path), **row}) if as_json else cluster_line(path, row))
            progress.start()
            progress.update(todo, advance=1)
        lost = f", {run.lost} times an actor was lost and its work given out again" if run.lost else ""
    say(f"written: {job.results} ({answered} answered now, {len(places) - answered} before{lost})")
    if refused:
        echo(f"{refused} of {len(places)} were refused", err=True)
        raise typer.Exit(1)


def cluster_line(path: Path, row: Mapping[str, Any]) -> str:
    """One image or frame for people."""
    if row["refusal"]:
        return f"--   {row['refusal']:<16}{printable(path)}  ({printable(row['detail'])})"
    if "counts" in row:
        counts = row["counts"]
        told = (f"{counts[name]:>6} {name}" for name in ("cells", "all", "hem", "refused"))
        return f"{''.join(told)}  {printable(path)}"
    return f"{row['label'].upper()}  {row['probability']:.3f}  {row['voter']:<9}{printable(path)}"
