"""The process that feeds one reader, and may crash.

It notes each input in a file that is mapped into memory before the reader sees it, so that the input survives the process.
"""

from __future__ import annotations

import mmap
import random
import resource
import struct
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from blastscope.runtime.errors import BlastscopeError
from fuzzing.mutation import MOST_BYTES, mutate

NOTE = struct.Struct("<QQ")  # number of the input, its length
NOTE_BYTES = NOTE.size + MOST_BYTES
MEMORY_BYTES = 1 << 30  # an input may raise the process's peak by so much
ADDRESS_BYTES = 8 << 30  # beyond today's: the process must not take the machine's memory with it
READERS = (
    *(f"fuzzing.pictures:{name}" for name in ("image", "tiff", "zarr", "lif", "nd2")),
    *(f"fuzzing.others:{name}" for name in ("manifest", "archive", "graph", "settings", "labels", "page")),
)


class Fault(NamedTuple):
    """An input that a reader didn't take as it should."""

    kind: str  # 'error', 'memory', 'slow' or 'crash'
    told: str
    data: bytes


def seeds(name: str, folder: Path) -> list[bytes]:
    """Valid inputs of the reader `name`, 'MODULE:FUNCTION', made in `folder`."""
    module, _, function = name.partition(":")
    found: list[bytes] = getattr(import_module(module), f"{function}_seeds")(folder)
    return found


def reader(name: str, folder: Path) -> Callable[[bytes], None]:
    """What reads an input; `folder` holds what it writes."""
    module, _, function = name.partition(":")
    made: Callable[[bytes], None] = getattr(import_module(module), function)(folder)
    return made


def check(read: Callable[[bytes], None], data: bytes) -> Fault | None:
    """Feeds one input. A `BlastscopeError` is the answer to a bad one; any other error is a fault, and so is much memory."""
    before = _peak_bytes()
    try:
        read(data)
    except BlastscopeError:
        pass
    except Exception:  # noqa: BLE001  # whatever else comes is what is looked for
        return Fault("error", traceback.format_exc(), data)
    grown = _peak_bytes() - before
    return Fault("memory", f"{grown >> 20} MB", data) if grown > MEMORY_BYTES else None


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def feed(name: str, folder: Path, *, first: int, inputs: int, seconds: float, seed: int) -> None:
    """Feeds the inputs from number `first` on, until `inputs` or `seconds` have passed or one is a fault.

    The valid inputs come first. A fault is written to `folder / 'fault'`, its kind before its text; the input is in the note.
    """
    work = folder / "work"
    work.mkdir(exist_ok=True)
    valid, read = seeds(name, work), reader(name, work)
    with (folder / "note").open("r+b") as file:
        note = mmap.mmap(file.fileno(), NOTE_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (_address_bytes() + ADDRESS_BYTES,) * 2)
    end = time.monotonic() + seconds
    number = first
    while number < inputs and (number == first or time.monotonic() < end):
        data = valid[number] if number < len(valid) else mutate(valid, random.Random(f"{seed} {number}"))
        note[NOTE.size : NOTE.size + len(data)] = data
        note[: NOTE.size] = NOTE.pack(number + 1, len(data))
        if fault := check(read, data):
            (folder / "fault").write_text(f"{fault.kind}\n{fault.told}", encoding="utf-8")
            sys.exit(1)
        number += 1


def _address_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
