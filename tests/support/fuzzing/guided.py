"""The same readers under atheris, which keeps the inputs that reach new code of ours and mutates them further.

Run as a module this is the process that feeds; `run_guided` starts it. OUT/corpus keeps what it found for the next run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
OPTIONS = ("-timeout=10", "-rss_limit_mb=2560", "-malloc_limit_mb=1024", "-print_final_stats=1", "-verbosity=0")


def here() -> dict[str, str]:
    """The environment of a process that imports what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run_guided(name: str, *, seconds: float, out: Path) -> tuple[int, list[Path]]:
    """Feeds the reader `name` for so many seconds: the number of inputs, and the files of those that are faults.

    Raises `SystemExit` where atheris is not installed.
    """
    short = name.partition(":")[2]
    corpus, faults = out / "corpus" / short, out / "faults"
    for folder in (corpus, faults):
        folder.mkdir(parents=True, exist_ok=True)
    before, inputs, end = set(faults.iterdir()), 0, time.monotonic() + seconds
    while (left := int(end - time.monotonic())) > 0:
        with TemporaryDirectory(prefix="fuzz-") as place:
            words = [name, place, f"-max_total_time={left}", f"-artifact_prefix={faults}/{short}-", *OPTIONS, str(corpus)]
            command = [sys.executable, "-m", "fuzzing.guided", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=here())
        found = RUNS.findall(done.stderr)
        inputs += int(found[-1]) if found else 0
        if not found and not set(faults.iterdir()) - before:
            raise SystemExit(f"{name}: atheris ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
        if done.returncode:
            print(f"{name}:\n{done.stderr[-4000:]}", file=sys.stderr)
    return inputs, sorted(set(faults.iterdir()) - before)


def _feed(name: str, folder: Path, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["blastscope"]):
        from blastscope.runtime.errors import BlastscopeError
        from fuzzing.child import reader, seeds
        from fuzzing.mutation import MOST_BYTES
    corpus = Path(options[-1])
    for number, seed in enumerate(seeds(name, folder)):
        (corpus / f"seed-{number}").write_bytes(seed)
    read = reader(name, folder)

    def feed(data: bytes) -> None:
        with suppress(BlastscopeError):
            read(data)

    atheris.Setup([sys.argv[0], f"-max_len={MOST_BYTES}", *options], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    _feed(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
