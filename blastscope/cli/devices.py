"""`blastscope devices`: devices and libraries of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from blastscope.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from blastscope.runtime.inference.diagnostics import DeviceState, Diagnostics, LibraryStatus


def devices(*, as_json: Json = False) -> None:
    """Print devices, drivers and libraries, the precisions and engines usable on each, and why others aren't."""
    from blastscope.cli.tables import json_text
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

    from blastscope.cli.tables import show

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


VERBS = (devices,)
