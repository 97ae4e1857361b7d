"""Runs the steps of the GPU check in child processes.

The child writes a line as each step begins and another with its findings, and the parent reads them. After a step that crashed
the child, or lost the GPU for it, the remaining steps get a new child.
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

RESTART_EXIT_CODE = 75  # of a child for which the GPU is lost: the remaining steps need another one
_POLL_INTERVAL_S = 0.2
_BEGIN = "begin "

MakeCommand = Callable[[Sequence[str], Path], list[str]]  # from steps and the file for the child's lines
MakeFailure = Callable[[str, str], Findings]  # from a step that crashed its child, and the reason


def run_isolated(
    steps: Sequence[str], make_command: MakeCommand, make_failure: MakeFailure, *, step_timeout_s: float
) -> Iterator[Findings]:
    """Runs steps in child processes.

    Parameters
    ----------
    steps
        Names, in the order in which they run.
    make_command
        Gives the command line of a child that runs these steps and writes its lines with `write_line`.
    make_failure
        Gives the findings of a step that crashed its child or hung.
    step_timeout_s
        Seconds after which a child that writes nothing is killed.

    Yields
    ------
    Findings
        One for each step, in the order of `steps`.
    """
    remaining = list(steps)
    while remaining:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "found"
            reason = _run_child(make_command(remaining, file), file, step_timeout_s)
            begun, found = read_lines(file)
        yield from found
        remaining = remaining[len(found) :]
        if reason is None and not found:
            reason = "the process did nothing"
        if remaining and reason is not None:
            # the step that had begun failed; without one the child can't start, and no step can run
            failed = remaining[:1] if len(begun) > len(found) or found else remaining
            yield from (make_failure(step, reason) for step in failed)
            remaining = remaining[len(failed) :]


def read_lines(file: Path) -> tuple[list[str], list[Findings]]:
    """The steps that began, and the findings of those that ended."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    begun = [line.removeprefix(_BEGIN) for line in lines if line.startswith(_BEGIN)]
    return begun, [Findings.model_validate_json(line) for line in lines if line.startswith("{") and line.endswith("}")]


def write_line(file: Path, line: str) -> None:
    """Appends a line for the parent; it stays, however this process ends."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def _run_child(command: list[str], file: Path, step_timeout_s: float) -> str | None:
    """Why the child ended before its work did; None where it finished, or asks for a restart."""
    stderr_lines: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        reader = threading.Thread(target=_forward_stderr, args=(process, stderr_lines))
        reader.start()
        try:
            silent = _wait_until_silent(process, file, step_timeout_s)
        finally:
            process.kill()  # does nothing to one that has ended
            reader.join()
    if silent:
        return f"no output for {step_timeout_s:.0f} s: the process was killed"
    if process.returncode in (0, RESTART_EXIT_CODE):
        return None
    lines = [line.strip() for line in stderr_lines if line.strip()]
    return f"the process {describe_exit(process.returncode)}{f': {lines[-1]}' if lines else ''}"


def _wait_until_silent(process: subprocess.Popen[str], file: Path, step_timeout_s: float) -> bool:
    """True as soon as `file` hasn't grown for `step_timeout_s` seconds; False when the process ends before that."""
    last, size = time.monotonic(), 0
    while process.poll() is None:
        time.sleep(_POLL_INTERVAL_S)
        now = file.stat().st_size if file.exists() else 0
        if now != size:
            last, size = time.monotonic(), now
        elif time.monotonic() - last > step_timeout_s:
            return True
    return False


def _forward_stderr(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        sys.stderr.write(line)


def describe_exit(code: int) -> str:
    """How a process with this exit code ended, to follow 'the process'."""
    try:
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:
        return f"ended with {code}"
