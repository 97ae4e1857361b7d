"""Kills verbs at random moments and fills their disks: what stood before is whole, or what comes is.

    PYTHONPATH=tests/support python -m breaking --kills 200 --fills 20 --out .cache/breaking

Each attempt is a forked child that does the verb's work on a small bundle of drawn cells. After each, what the verb writes is
read in full. In the end the verb is let through: its result is that of an undisturbed one, and no temporary file and no lock is
left beside it or in a cache. For `--fills` the children write to a file system of a few megabytes, which needs root on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from breaking_verbs import VERBS, Broken, Verb, need, prepare

from blastscope.runtime.backends.tensorrt.key import library_version
from blastscope.runtime.errors import BlastscopeError, MissingLibrary
from blastscope.train import pipeline
from blastscope.train.backbone import import_timm

GLANCE_S = 0.002
MOUNTED_MB = 64
ROUND_BYTES = 4096  # a file system's block


@dataclass
class Row:
    """What was done to a verb."""

    verb: str
    kills: int = 0
    finished: int = 0  # attempts that were faster
    fills: int = 0
    refused: int = 0  # of the fills, with a typed error
    swept: int = 0  # hidden files that kills and full disks left, and the next attempt deleted
    faults: list[str] = field(default_factory=list)


def hidden(place: Path) -> list[str]:
    """Temporary files and locks below a verb's folder, its caches among them: none outlives the next attempt that succeeds."""
    return sorted(str(path.relative_to(place)) for path in place.rglob(".*"))


def finished(verb: Verb, base: Path, place: Path) -> None:
    """Judges what an undisturbed attempt gave, and what it left. Raises `Broken`."""
    verb.finish(base, place)
    left = hidden(place)
    need(not left, f"{len(left)} hidden files stay for good: {', '.join(left)}")


# ---- children


class Child(NamedTuple):
    """A verb at work. `told` gets what went wrong."""

    pid: int
    told: Path


def start(work: Callable[[Path, Path], object], base: Path, place: Path, told: Path) -> Child:
    """Forks a child that works, and exits with 0, 4 for an error that blastscope raises on purpose, or 1."""
    told.write_text("")
    if pid := os.fork():
        with suppress(PermissionError, ProcessLookupError):  # the child was faster
            os.setpgid(pid, pid)
        return Child(pid, told)
    os.setpgid(0, 0)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")  # where a verb takes the user's
    out = os.open(told.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(out, stream)
    status = 0
    try:
        work(base, place)
    except BlastscopeError as error:
        told.write_text(f"{type(error).__name__}: {error}")
        status = 4
    except BaseException:  # noqa: BLE001 whatever it is, the parent is told
        told.write_text(traceback.format_exc())
        status = 1
    os._exit(status)


def wait(child: Child, seconds: float | None) -> int | None:
    """The exit status, negative for a signal; None where the child was still at work and was killed."""
    handle = os.pidfd_open(child.pid)
    try:
        over = bool(select.select([handle], [], [], seconds)[0])
        if not over:
            os.killpg(child.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    finally:
        os.close(handle)
    return status if over else None


def undisturbed(work: Callable[[Path, Path], object], base: Path, place: Path, told: Path) -> float:
    """Seconds that the work takes. Raises `Broken` where it fails."""
    begun = time.monotonic()
    child = start(work, base, place, told)
    status = wait(child, None)
    need(status == 0, f"an undisturbed attempt ends with {status}: {told.read_text()}")
    return time.monotonic() - begun


def lay_down(verb: Verb, base: Path, place: Path) -> None:
    """Makes the verb's folder anew, with what stood there before."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    verb.begin(base, place)


def kill(name: str, base: Path, place: Path, told: Path, *, count: int, chance: random.Random, row: Row) -> None:
    """Kills the verb `count` times. What finished is judged, and the next attempt begins from what stood before."""
    verb = VERBS[name]
    lay_down(verb, base, place)
    longest = undisturbed(verb.act, base, place, told)
    finished(verb, base, place)
    disturbed, left = False, 0
    while row.kills < count or disturbed:
        if not disturbed:
            lay_down(verb, base, place)
        child = start(verb.act, base, place, told)
        status = wait(child, chance.uniform(0, longest) if row.kills < count else None)
        if disturbed := status is None:
            row.kills += 1
            verb.check(base, place)
            left = len(hidden(place))
        else:
            need(status == 0, f"after {row.kills} kills an attempt ends with {status}: {told.read_text()}")
            row.finished += 1
            finished(verb, base, place)
            row.swept, left = row.swept + left, 0


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own at `folder`. Raises `Broken` where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={MOUNTED_MB}m", "tmpfs"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"no file system can be mounted, which needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(name: str, base: Path, disk: Path, told: Path, *, count: int, row: Row) -> None:
    """Lets the disk of the verb fill up after 0, 1, 2 ... `count` parts of what it writes in all."""
    verb, place, ballast = VERBS[name], disk / name, disk / "ballast"
    needed = 0
    lay_down(verb, base, place)
    free = _free(disk)
    child = start(verb.act, base, place, told)
    handle = os.pidfd_open(child.pid)
    while not select.select([handle], [], [], GLANCE_S)[0]:
        needed = max(needed, free - _free(disk))
    os.close(handle)
    status = wait(child, None)
    need(status == 0, f"with room an attempt ends with {status}: {told.read_text()}")
    for part in range(count):
        lay_down(verb, base, place)
        left = needed * part // count // ROUND_BYTES * ROUND_BYTES
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(_free(disk) - left, 1))
        status = wait(start(verb.act, base, place, told), None)
        row.fills += 1
        row.refused += status == 4
        need(status in (0, 4), f"with {left} bytes left an attempt ends with {status}: {told.read_text()}")
        need(status == 0 or "space" in told.read_text(), f"with {left} bytes left another error: {told.read_text()}")
        ballast.unlink()
        verb.check(base, place)
        left = len(hidden(place))
        undisturbed(verb.act, base, place, told)
        finished(verb, base, place)
        row.swept += left


def _free(disk: Path) -> int:
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


def main(words: Sequence[str] | None = None) -> int:
    """The command. Gives 1 where something was neither old nor new."""
    parser = argparse.ArgumentParser(prog="python -m breaking", description=__doc__.splitlines()[0])
    parser.add_argument("--verb", action="append", choices=list(VERBS), help="one of them; all, if none is named")
    parser.add_argument("--kills", type=int, default=200, help="in all, shared by the verbs")
    parser.add_argument("--fills", type=int, default=0, help="of each verb's disk")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--out", type=Path, default=Path(".cache/breaking"), help="folder for all of it; deleted first")
    given = parser.parse_args(words)
    out, names = given.out.resolve(), given.verb or list(VERBS)
    shutil.rmtree(out, ignore_errors=True)
    (out / "base").mkdir(parents=True)
    import_timm()
    pipeline._report = lambda *_: None  # pictures, which take longer than the training
    undisturbed(lambda base, _: prepare(base), out / "base", out, out / "told")
    chance, rows = random.Random(given.seed), []
    for number, name in enumerate(names):
        row = Row(name)
        rows.append(row)
        try:
            if name == "build":
                library_version("tensorrt-rtx")
            share = given.kills * (number + 1) // len(names) - given.kills * number // len(names)
            if share:
                kill(name, out / "base", out / name, out / "told", count=share, chance=chance, row=row)
            if given.fills:
                with small_disk(out / "disk") as disk:
                    fill(name, out / "base", disk, out / "told", count=given.fills, row=row)
        except MissingLibrary as error:
            print(f"{name}: left out, {error}")
        except (Broken, BlastscopeError) as error:
            row.faults.append(str(error))
        print(
            f"{name:10} {row.kills:4} kills, {row.finished:3} attempts were faster; {row.fills:3} full disks, "
            f"{row.refused:3} with a typed error; {row.swept:3} hidden files swept; {row.faults or 'no fault'}",
            flush=True,
        )
    (out / "breaking.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
