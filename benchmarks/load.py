"""Cold start and peak memory of one side, in a process of its own.

    python -m blastscope.benchmarks.load BUNDLE PRECISION EXECUTION BACKEND

prints the clock's time at the first answer and the peak resident memory as JSON. With the backend `torch` the first argument
is a run, whose three models answer one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from blastscope.runtime.record import Record


class Answered(Record):
    """What the process says of itself."""

    moment: float  # seconds of the system's clock
    peak_mib: float | None  # None: only Linux tells


class Cold(Record):
    """What a process costs before its second answer."""

    load_s: float  # from its start to its first answer
    peak_mib: float | None


def measure_cold(path: Path, precision: str, execution: str, backend: str) -> Cold:
    """Starts a process that opens `path` and answers once; its engine cache is warm if the same was opened before."""
    command = [sys.executable, "-m", "blastscope.benchmarks.load", str(path), precision, execution, backend]
    start = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answered = Answered.model_validate_json(done.stdout)
    return Cold(load_s=answered.moment - start, peak_mib=answered.peak_mib)


def _answer_once(path: Path, precision: str, execution: str, backend: str) -> None:
    from blastscope.runtime.drawn import draw_cell

    image = draw_cell(7)
    if backend == "torch":
        from blastscope.benchmarks.sides import separate_models

        separate_models(path)([image])
        return
    from blastscope import open_bundle

    with open_bundle(path, precision=precision, execution=execution, backend=backend, allow_ungated=True) as scope:
        scope.classify(image)


def _main() -> None:
    path, precision, execution, backend = sys.argv[1:]
    _answer_once(Path(path), precision, execution, backend)
    print(Answered(moment=time.time(), peak_mib=_peak_mib()).model_dump_json())


def _peak_mib() -> float | None:
    """From /proc, since getrusage also counts what the parent held when it started this process."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    _main()
