"""Runs each step of the GPU check in a process of its own.

The process writes a line as each step begins and another with what it found; whoever waits for it reads them. After a step that
broke the process, or the GPU for it, the steps that are left get a fresh one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from blastscope.benchmarks.gpu.schema import Findings

AGAIN = 75  # exit code: the GPU is lost for this process, the steps that are left want another
_TICK = 0.2

Command = Callable[[Sequence[str], Path], list[str]]  # for steps, and the file that their lines go to
Broken = Callable[[str, str], Findings]  # of a step that broke its process: its name and why


def run_apart(steps: Sequence[str], command: Command, broken: Broken, *, patience_s: float) -> Iterator[Findings]:
    """What each of `steps` found, in their order. A step that says nothing for `patience_s` seconds is ended."""
    left = list(steps)
    while left:
        with TemporaryDirectory() as place:
            file = Path(place) / "found"
            reason = _one_process(command(left, file), file, patience_s)
            begun, found = read_lines(file)
        yield from found
        left = left[len(found) :]
        if reason is None and not found:
            reason = "the process did nothing"
        if left and reason is not None:
            # the step that had begun is to blame, or else whatever comes before the first one
            blamed = left[:1] if len(begun) > len(found) or found else left
            yield from (broken(step, reason) for step in blamed)
            left = left[len(blamed) :]


def read_lines(file: Path) -> tuple[list[str], list[Findings]]:
    """The steps that began, and what those found that ended."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    begun = [line.removeprefix("begin ") for line in lines if line.startswith("begin ")]
    return begun, [Findings.model_validate_json(line) for line in lines if line.startswith("{") and line.endswith("}")]


def write_line(file: Path, line: str) -> None:
    """Writes a line for whoever waits; what was written stays, however the process ends."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def _one_process(words: list[str], file: Path, patience_s: float) -> str | None:
    """Why the process ended before its work did; None where it didn't, or asks to be begun anew."""
    heard: list[str] = []
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        listener = threading.Thread(target=_pass_on, args=(process, heard))
        listener.start()
        try:
            silent = _is_silent(process, file, patience_s)
        finally:
            process.kill()  # does nothing to one that has ended
            listener.join()
    if silent:
        return f"said nothing for {patience_s:.0f} s and was ended"
    if process.returncode in (0, AGAIN):
        return None
    lines = [line.strip() for line in heard if line.strip()]
    return f"the process {ended_by(process.returncode)}{f': {lines[-1]}' if lines else ''}"


def _is_silent(process: subprocess.Popen[str], file: Path, patience_s: float) -> bool:
    """Waits for the end: False; or True as soon as `file` hasn't grown for `patience_s` seconds."""
    last, size = time.monotonic(), 0
    while process.poll() is None:
        time.sleep(_TICK)
        now = file.stat().st_size if file.exists() else 0
        if now != size:
            last, size = time.monotonic(), now
        elif time.monotonic() - last > patience_s:
            return True
    return False


def _pass_on(process: subprocess.Popen[str], heard: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        heard.append(line)
        sys.stderr.write(line)


def ended_by(code: int) -> str:
    """How a process with that exit code ended."""
    try:
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:
        return f"ended with {code}"
