"""`blastscope build` and `engines`: builds and lists TensorRT engines; `blastscope devices`: what this machine has.

The progress of engine builds is told on stderr: a bar on a terminal, one line per engine elsewhere.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from blastscope.cli.options import BundleArgument, BundlePath, Json, bundle_at
from blastscope.cli.terminal import echo, log_handler, say
from blastscope.runtime.io.printable import for_terminal

if TYPE_CHECKING:
    from rich.table import Table

    from blastscope.export.engine_builds import BuiltEngine, PlannedEngine
    from blastscope.runtime.backends.tensorrt.builder import BuildStep
    from blastscope.runtime.backends.tensorrt.catalog import StoredEngine
    from blastscope.runtime.inference.diagnostics import DeviceState, Diagnostics, LibraryStatus
    from blastscope.runtime.types import Precision

PORTABLE = "portable"


def build(
    bundle: BundleArgument = None,
    *,
    runtime: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None, typer.Option(help="Default: the one that is installed.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16 or int8; may be repeated. Default: all that the bundle has.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="sm86, sm89 ... or portable; repeated, one engine serves all. Default: the GPU here, else portable."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Crops a call: least:likely:most.")] = "1:8:64",
    models: Annotated[
        Literal["ensemble", "all"], typer.Option(help="all: the three models alone too, where there are.")
    ] = "all",
    as_json: Json = False,
) -> None:
    """Build engines of a bundle's graphs into the user's cache, and print where each lies. TensorRT-RTX needs no GPU for it."""
    from blastscope.export.engine_builds import BuildRequest, build_engines, plan_engines
    from blastscope.runtime.backends.tensorrt.catalog import EngineHost
    from blastscope.runtime.backends.tensorrt.key import BatchProfile
    from blastscope.runtime.io.paths import default_cache_dir

    request = BuildRequest(runtime, _precisions(precision), models, BatchProfile.parse(batch), _targets(gpu))
    found, machine = bundle_at(bundle), EngineHost.here()
    planned = plan_engines(found, request, machine)
    if gpu is None and machine.no_gpu:
        say("no GPU can be used here, so the engines are portable ones, for GPUs from sm80 on: --gpu names others")
    rows: list[dict[str, object]] = []
    try:
        with Watcher(len(planned)) as watcher:
            started = time.monotonic()
            for built in build_engines(found, planned, default_cache_dir(), watcher):
                seconds, started = time.monotonic() - started, time.monotonic()
                how = f"built in {seconds:.1f} s" if built.built else "was there"
                watcher.say(f"{built.key.name}: {how}, {built.size / 1e6:.1f} MB")
                rows.append(_row(built, seconds))
    finally:  # with the bar gone; what was finished is told though a later one failed
        for row in [] if as_json else rows:
            echo(row["path"])
    if as_json:
        typer.echo(json.dumps(rows, indent=2))


def _precisions(names: list[str] | None) -> tuple[Precision, ...]:
    from blastscope.runtime.errors import UsageError
    from blastscope.runtime.types import PRECISIONS

    for name in names or ():
        if name not in PRECISIONS:
            raise UsageError(f"precision '{name}' is not known: say {', '.join(PRECISIONS)}")
    return tuple(one for one in PRECISIONS if one in (names or ()))


def _targets(names: list[str] | None) -> tuple[str, ...] | None:
    from blastscope.runtime.backends.tensorrt.key import sorted_targets
    from blastscope.runtime.errors import UsageError

    if names is None:
        return None
    words = [word for name in names for word in name.split(",")]
    if PORTABLE in words and len(set(words)) > 1:
        raise UsageError("an engine is portable or for named GPUs: build twice for both")
    return () if PORTABLE in words else sorted_targets(words)


def _row(built: BuiltEngine, seconds: float) -> dict[str, object]:
    facts = {"path": str(built.path), "size": built.size, "built": built.built, "seconds": round(seconds, 2)}
    return {**facts, "key": built.key.model_dump(mode="json")}


engines = typer.Typer(
    no_args_is_help=False, help="List the engines in the cache, explain why one is stale, remove or trust one."
)


@engines.callback(invoke_without_command=True)
def _engines(context: typer.Context, *, bundle: BundlePath = None, as_json: Json = False) -> None:
    """List the engines in the user's cache. With --bundle, an engine of another bundle counts as stale."""
    from blastscope.runtime.errors import UsageError

    if context.invoked_subcommand is None:
        _print(_kept(bundle), as_json=as_json)
    elif bundle or as_json:
        raise UsageError(f"options come after '{context.invoked_subcommand}'")  # here they would be passed over in silence


@engines.command("list")
def list_all(*, bundle: BundlePath = None, as_json: Json = False) -> None:
    """List the engines in the user's cache, as `blastscope engines` alone does."""
    _print(_kept(bundle), as_json=as_json)


@engines.command()
def explain(
    name: Annotated[str, typer.Argument(help="The engine's name or path, or the beginning of its name.")],
    *,
    bundle: BundlePath = None,
    as_json: Json = False,
) -> None:
    """Say what an engine was built from and for, and why it can't be used. Exits 1 when it is stale or unusable."""
    from blastscope.runtime.backends.tensorrt.catalog import pick_engine

    engine = pick_engine(_kept(bundle), name)
    echo(json.dumps(_facts(engine), indent=2) if as_json else _explained(engine))
    if engine.state in ("stale", "unusable"):
        raise typer.Exit(1)


@engines.command()
def remove(
    names: Annotated[list[str] | None, typer.Argument(help="Engines, as `explain` takes them.")] = None,
    *,
    stale: Annotated[bool, typer.Option("--stale", help="All that are stale or unusable.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every one.")] = False,
    bundle: BundlePath = None,
) -> None:
    """Delete engines from the user's cache, and print which."""
    from blastscope.runtime.backends.tensorrt.catalog import pick_engine, remove_engine, remove_unusable
    from blastscope.runtime.errors import UsageError
    from blastscope.runtime.io.paths import default_cache_dir

    kept = _kept(bundle)
    chosen = [pick_engine(kept, name) for name in names or ()]
    chosen += [engine for engine in kept if every or (stale and engine.state in ("stale", "unusable"))]
    if not chosen and not (stale or every):
        raise UsageError("which engine? name one, or say --stale or --all")
    for engine in dict.fromkeys(chosen):
        remove_engine(engine)
        echo(engine.path)
    remove_unusable(default_cache_dir())


@engines.command()
def trust(
    file: Annotated[Path, typer.Argument(help="An engine from another machine, with its sidecar (.json) beside it.")],
    *,
    bundle: BundlePath = None,
    as_json: Json = False,
) -> None:
    """Take an engine that was built elsewhere, if every field of its sidecar fits. An engine is code: know whose it is."""
    from blastscope.runtime.backends.tensorrt.catalog import EngineHost, trust_engine
    from blastscope.runtime.io.paths import default_cache_dir

    taken = trust_engine(file, bundle_at(bundle), EngineHost.here(), default_cache_dir())
    facts = {"path": str(taken.path), "sha256": taken.sha256, "key": taken.key.model_dump(mode="json")}
    echo(json.dumps(facts, indent=2) if as_json else taken.path)


def _kept(bundle: Path | None) -> list[StoredEngine]:
    from blastscope.runtime.backends.tensorrt.catalog import EngineHost, list_engines
    from blastscope.runtime.io.paths import default_cache_dir

    return list_engines(default_cache_dir(), EngineHost.here(), bundle_at(bundle) if bundle else None)


def _facts(engine: StoredEngine) -> dict[str, object]:
    key = engine.key.model_dump(mode="json") if engine.key else None
    facts = {"name": engine.name, "path": str(engine.path), "size": engine.size, "state": engine.state}
    return {**facts, "reasons": list(engine.reasons), "key": key}


def _print(kept: list[StoredEngine], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_facts(engine) for engine in kept], indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    from blastscope.cli.terminal import show

    if not kept:
        show(Text("no engines: 'blastscope build' makes them"))
        return
    table = Table("engine", "MB", "state", "why", box=None)
    for engine in kept:
        table.add_row(
            Text(engine.name, overflow="fold"), f"{engine.size / 1e6:.1f}", engine.state, Text("; ".join(engine.reasons))
        )
    show(table, Text(f"in {kept[0].path.parent}"))


def _explained(engine: StoredEngine) -> str:
    lines = [f"{engine.path}", f"state     {engine.state}", *(f"because   {reason}" for reason in engine.reasons)]
    if engine.key:
        key = engine.key
        where = (
            f"'{key.gpu.name}' ({key.gpu.target}, driver {key.gpu.driver})" if key.gpu else ", ".join(key.targets) or PORTABLE
        )
        lines += [
            f"graph     {key.models} {key.precision}, sha256 {key.graph}",
            f"library   {key.library} {key.version}",
            f"gpu       {where}",
            f"batch     {key.profile}",
            f"platform  {key.platform}",
        ]
    return "\n".join(lines)


class Watcher:
    """A `BuildObserver` of `count` builds."""

    def __init__(self, count: int) -> None:
        self._count, self._begun = count, 0
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,  # results go to stdout by themselves: rich would lead them to stderr
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=1, phase="")

    def __enter__(self) -> Self:
        self._progress.start()
        log_handler.show = self.say
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        log_handler.show = say
        if kind is KeyboardInterrupt:
            self.say("cancelled: nothing half-built is left behind")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(for_terminal(text), markup=False, highlight=False, soft_wrap=True)

    def begin(self, planned: PlannedEngine) -> None:
        """The next engine."""
        self._begun += 1
        name = f"{planned.key.models} {planned.key.precision} for {planned.key.place}"
        self._progress.reset(self._task, description=f"{self._begun} of {self._count}: {name}", phase="", total=1)
        if not self._progress.console.is_terminal:
            self.say(f"{self._begun} of {self._count}: {name}, {planned.key.library} {planned.key.version}")

    def step(self, step: BuildStep) -> None:
        """Called from the build's thread, which rich allows."""
        if step.steps > 1:  # a phase of one step says nothing by its bar
            self._progress.update(self._task, completed=step.done, total=step.steps, phase=step.phase)


def devices(*, as_json: Json = False) -> None:
    """Print devices, drivers and libraries, the precisions and engines usable on each, and why others aren't."""
    from blastscope.cli.terminal import json_text
    from blastscope.runtime.inference.diagnostics import collect_diagnostics
    from blastscope.runtime.io.paths import default_cache_dir

    found = collect_diagnostics(default_cache_dir())
    if as_json:
        typer.echo(json_text(found))
    else:
        print_inventory(found)


def print_inventory(found: Diagnostics) -> None:
    """The devices for people."""
    from rich.text import Text

    from blastscope.cli.terminal import show

    for device in found.devices:
        show(Text(_title(device), style="bold"), _services(device.services))
    if found.no_gpu:
        show(Text("cuda: none", style="bold"), Text(f"  {found.no_gpu}"))
    else:
        show(Text(f"NVIDIA's driver {found.driver}, CUDA {found.cuda}"))
    show(Text("parts of a GPU's engines", style="bold"), _services(found.parts))
    if found.other_engines:
        show(Text("engines in the cache that can't be used", style="bold"))
        show(*(Text(f"  {name}: {reason}") for name, reason in found.other_engines.items()))


def _title(device: DeviceState) -> str:
    facts = [device.name]
    if device.capability:
        facts.append(f"compute capability {device.capability}")
    if device.memory_mib:
        free = "" if device.free_mib is None else f", {device.free_mib} free"
        facts.append(f"{device.memory_mib} MiB{free}")
    return f"{device.device}: {', '.join(facts)}"


def _services(services: tuple[LibraryStatus, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for service in services:
        can = ", ".join(service.computes) or ("" if service.problem else "ready")
        engines = f"{len(service.engines)} engines ready" if service.engines else ""
        rest = "; ".join(part for part in (engines, service.problem or "") if part)
        table.add_row("", service.library, service.version or "-", can, Text(rest))
    return table


VERBS = (build, devices)
GROUPS = {"engines": engines}
