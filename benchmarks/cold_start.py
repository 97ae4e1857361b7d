"""Cold start and peak memory of one side, in a process of its own.

    python -m blastscope.benchmarks.cold_start BUNDLE PRECISION EXECUTION BACKEND LAYOUT [CACHE]

prints the clock's time at the first answer and the peak resident memory as JSON. With the backend `torch` the first argument
is a run, whose three models answer one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import ClassName

CELL = 7  # drawn by this seed


class Answered(StrictModel):
    """What the process says of itself."""

    moment: float  # seconds of the system's clock
    label: ClassName | None  # of cell 7 as it is drawn
    peak_mib: float | None  # None: only Linux tells


class Cold(StrictModel):
    """What a process costs before its second answer."""

    load_s: float  # from its start to its first answer
    peak_mib: float | None
    label: ClassName | None


def measure_cold(
    path: Path, precision: str, execution: str, backend: str, *, layout: str = "fused", cache: Path | None = None
) -> Cold:
    """Starts a process that opens `path` and answers once.

    Engines are taken from `cache`, by default the user's: warm if the same was opened before, cold if the folder is new.
    """
    command = [sys.executable, "-m", "blastscope.benchmarks.cold_start", str(path), precision, execution, backend, layout]
    command += [str(cache)] if cache else []
    start = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answered = Answered.model_validate_json(done.stdout)
    return Cold(load_s=answered.moment - start, peak_mib=answered.peak_mib, label=answered.label)


def _answer_once(path: Path, words: Sequence[str], cache: Path | None) -> tuple[float, ClassName | None]:
    """The moment of the first answer, and the answer."""
    from blastscope.runtime.io.synthetic import synthetic_cell

    image = synthetic_cell(CELL)
    precision, execution, backend, layout = words
    if backend == "torch":
        from blastscope.benchmarks.contenders import separate_models

        (label,) = separate_models(path)([image])
        return time.time(), label
    from blastscope import open_bundle

    with open_bundle(
        path,
        device="cpu",
        precision=precision,
        execution=execution,
        backend=backend,
        layout=layout,  # named: what `auto` measures after the first answer is no part of it, nor of the peak memory
        allow_ungated=True,
        cache_dir=cache,
    ) as scope:
        label = scope.classify(image).label
        return time.time(), label


def _main() -> None:
    path, *words = sys.argv[1:]
    moment, label = _answer_once(Path(path), words[:4], Path(words[4]) if words[4:] else None)
    print(Answered(moment=moment, label=label, peak_mib=_peak_mib()).model_dump_json())


def _peak_mib() -> float | None:
    """From /proc, since getrusage also counts what the parent held when it started this process."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    _main()
