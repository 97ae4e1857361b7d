"""Cold start and peak memory of one side, in a process of its own: `python -m blastscope.benchmarks.load BUNDLE PRECISION BACKEND`.

Prints one JSON object: seconds from the process's start to the first answer, and the peak resident memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

from blastscope.runtime.record import Record


class Cold(Record):
    """What a process costs before its second answer."""

    load_s: float
    peak_mib: float


def measure_cold(bundle: Path, precision: str, backend: str) -> Cold:
    """Starts a process that opens `bundle` and answers once; its engine cache is warm when one was opened before."""
    command = [sys.executable, "-m", "blastscope.benchmarks.load", str(bundle), precision, backend]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cold.model_validate_json(done.stdout)


def measure_cold_torch(weights: Path) -> Cold:
    """The same for the three PyTorch models whose run is `weights`."""
    command = [sys.executable, "-m", "blastscope.benchmarks.load", str(weights), "fp32", "torch"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cold.model_validate_json(done.stdout)


def _answer_once(path: Path, precision: str, backend: str) -> None:
    from blastscope.runtime.drawn import draw_cell

    image = draw_cell(7)
    if backend == "torch":
        from blastscope.benchmarks.sides import separate_models

        separate_models(path)([image])
        return
    from blastscope import open_bundle

    with open_bundle(path, precision=precision, backend=backend, allow_ungated=True) as scope:
        scope.classify(image)


def _main() -> None:
    path, precision, backend = sys.argv[1:]
    _answer_once(Path(path), precision, backend)
    process = psutil.Process()
    peak = getattr(process.memory_info(), "peak_wset", None) or _peak_unix()
    print(json.dumps({"load_s": time.time() - process.create_time(), "peak_mib": peak / 2**20}))


def _peak_unix() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


if __name__ == "__main__":
    _main()
