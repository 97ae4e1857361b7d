"""Runs the readers on mutated inputs, each reader in a process of its own.

    PYTHONPATH=tests/support python -m fuzzing --seconds 3600 --out .cache/fuzz

An input that crashes a reader, takes ten seconds or a gigabyte of memory more, or raises anything but a
`BlastscopeError` is written to OUT/faults and counted, and the run goes on. OUT/fuzz.json holds the table that is printed.
With atheris installed, `--coverage` lets it choose the inputs by what they reach in our own code.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzzing.child import NOTE, NOTE_BYTES, READERS, Fault, feed
from fuzzing.guided import here, run_guided

SLOW_S = 10.0  # of processor time, for one input
STUCK_S = 120.0  # of time altogether: whoever waits takes no processor time
STARTING_S = 300.0  # imports and seeds, on a busy machine
GLANCE_S = 0.05
MOST_FAULTS = 20  # of one reader


@dataclass
class Row:
    """What a reader was fed."""

    reader: str
    inputs: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)  # files' names


def run(name: str, *, inputs: int, seconds: float, seed: int, out: Path) -> Row:
    """Feeds one reader.

    Parameters
    ----------
    name : str
        One of `READERS`, or another 'MODULE:FUNCTION' with a 'FUNCTION_seeds' beside it.
    inputs : int
        How many at most; the valid ones are the first.
    seconds : float
        How long at most; at least one input is fed.
    seed : int
        Decides the mutations.
    out : Path
        The folder for inputs that are faults.

    Returns
    -------
    Row
    """
    row, begun = Row(name), time.monotonic()
    while row.inputs < inputs and len(row.faults) < MOST_FAULTS:
        left = seconds - (time.monotonic() - begun)
        if left <= 0 and row.inputs:
            break
        with TemporaryDirectory(prefix="fuzz-") as place:
            row.inputs, fault = _watch(name, Path(place), first=row.inputs, inputs=inputs, seconds=left, seed=seed)
        if fault is None:
            continue
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{name.partition(':')[2]}-{fault.kind}-{sha256(fault.data).hexdigest()[:16]}"
        file.write_bytes(fault.data)
        file.with_suffix(".txt").write_text(fault.told, encoding="utf-8")
        row.faults.append(file.name)
        print(f"{name}: {fault.kind}: {file}\n{fault.told}", file=sys.stderr)
    row.seconds = round(time.monotonic() - begun, 1)
    return row


def _watch(name: str, folder: Path, *, first: int, inputs: int, seconds: float, seed: int) -> tuple[int, Fault | None]:
    """Feeds in a process, from number `first` on: the number after its last input, and that input's fault, if it is one."""
    note = folder / "note"
    note.write_bytes(NOTE.pack(first, 0).ljust(NOTE_BYTES, b"\0"))
    words = [
        "--child",
        name,
        "--first",
        first,
        "--inputs",
        inputs,
        "--seconds",
        max(seconds, 0),
        "--seed",
        seed,
        "--out",
        folder,
    ]
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-m", "fuzzing", *map(str, words)], stderr=errors, env=here())
    before, since, spent = first, time.monotonic(), 0.0
    slow = ""
    while process.poll() is None and not slow:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GLANCE_S)
        number, now, processor = _noted(note)[0], time.monotonic(), _processor_s(process.pid)
        if number != before:
            before, since, spent = number, now, processor
        elif before > first and processor - spent > SLOW_S:
            slow = f"more than {SLOW_S:g} s of processor time"
        elif now - since > (STUCK_S if before > first else STARTING_S):
            slow = f"more than {now - since:.0f} s"
    if slow:
        process.kill()
    process.wait()
    number, data = _noted(note)
    told = (folder / "stderr").read_text(encoding="utf-8", errors="replace")[-4000:]
    if (folder / "fault").exists():
        kind, _, told = (folder / "fault").read_text(encoding="utf-8").partition("\n")
        return number, Fault(kind, told, data)
    if number == first and process.returncode:
        raise SystemExit(f"{name}: the process ended before its first input:\n{told}")
    if slow:
        return number, Fault("slow", slow, data)
    if process.returncode:
        ended = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit code {process.returncode}"
        return number, Fault("crash", f"{ended}\n{told}", data)
    return number, None


def _processor_s(process: int) -> float:
    """The processor time that a process has taken; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _noted(note: Path) -> tuple[int, bytes]:
    with note.open("rb") as file:
        number, size = NOTE.unpack(file.read(NOTE.size))
        return number, file.read(size)


def main(words: Sequence[str] | None = None) -> int:
    """The command. Gives 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--reader",
        action="append",
        choices=[name.partition(":")[2] for name in READERS],
        help="one of them; all, if none is named",
    )
    parser.add_argument("--inputs", type=int, default=10**9, help="for each reader, at most")
    parser.add_argument("--seconds", type=float, default=60, help="in all, shared by the readers")
    parser.add_argument("--seed", type=int, default=0, help="decides the mutations")
    parser.add_argument("--out", type=Path, default=Path(".cache/fuzz"), help="folder for the table and the faults")
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the inputs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.child:
        feed(given.child, given.out, first=given.first, inputs=given.inputs, seconds=given.seconds, seed=given.seed)
        return 0
    names = [name for name in READERS if not given.reader or name.partition(":")[2] in given.reader]
    rows = []
    for name in names:
        share = given.seconds / len(names)
        if given.coverage:
            inputs, faults = run_guided(name, seconds=share, out=given.out)
            row = Row(name, inputs, round(share, 1), [file.name for file in faults])
        else:
            row = run(name, inputs=given.inputs, seconds=share, seed=given.seed, out=given.out / "faults")
        rows.append(row)
        print(
            f"{row.reader.partition(':')[2]:10} {row.inputs:9,} inputs in {row.seconds:6.0f} s, {len(row.faults)} faults",
            flush=True,
        )
    given.out.mkdir(parents=True, exist_ok=True)
    table = {"seed": given.seed, "coverage": given.coverage, "rows": [asdict(row) for row in rows]}
    (given.out / "fuzz.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
