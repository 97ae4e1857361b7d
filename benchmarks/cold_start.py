"""Cold start and peak memory of one contender, in a process of its own.

    python -m blastscope.benchmarks.cold_start BUNDLE PRECISION EXECUTION BACKEND LAYOUT [CACHE]

prints the time of the first label and the peak resident memory as JSON. With the backend `torch` the first argument is a run,
whose three models run one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import ClassName

CELL_SEED = 7  # of the synthetic cell that is classified


class FirstLabel(StrictModel):
    """What the child process prints."""

    time_s: float  # of the system's clock, when it had its first label
    label: ClassName | None
    peak_mib: float | None  # None: only Linux gives it


class ColdStart(StrictModel):
    """The cost of a process until its first label.

    Attributes
    ----------
    load_s
        Seconds from the start of the process to the label.
    peak_mib
        Its peak resident memory in MiB; None elsewhere than on Linux.
    label
        Of the synthetic cell; None where it was refused.
    """

    load_s: float
    peak_mib: float | None
    label: ClassName | None


def measure_cold_start(
    path: Path, precision: str, execution: str, backend: str, *, layout: str = "fused", cache: Path | None = None
) -> ColdStart:
    """Starts a process that opens `path` and classifies one cell.

    Parameters
    ----------
    path
        A bundle, or with the backend 'torch' the folder of a trained ensemble.
    precision, execution, backend, layout
        As `open_bundle` takes them.
    cache
        Folder of compiled engines: the first process to use an empty one compiles. None: the user's cache.

    Returns
    -------
    ColdStart
        Time, memory and label.

    Raises
    ------
    subprocess.CalledProcessError
        The process failed; its message is on stderr.
    """
    command = [sys.executable, "-m", "blastscope.benchmarks.cold_start", str(path), precision, execution, backend, layout]
    command += [str(cache)] if cache else []
    start = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    first = FirstLabel.model_validate_json(done.stdout)
    return ColdStart(load_s=first.time_s - start, peak_mib=first.peak_mib, label=first.label)


def _classify_once(path: Path, options: Sequence[str], cache: Path | None) -> tuple[float, ClassName | None]:
    """The time of the first label, in seconds of the system's clock, and the label."""
    from blastscope.runtime.io.synthetic import synthetic_cell

    image = synthetic_cell(CELL_SEED)
    precision, execution, backend, layout = options
    if backend == "torch":
        from blastscope.benchmarks.contenders import separate_torch_models

        (label,) = separate_torch_models(path)([image])
        return time.time(), label
    from blastscope import open_bundle

    with open_bundle(
        path,
        device="cpu",
        precision=precision,
        execution=execution,
        backend=backend,
        layout=layout,  # named: what `auto` measures after the first label is no part of it, nor of the peak memory
        allow_ungated=True,
        unlike_training="call",
        cache_dir=cache,
    ) as scope:
        label = scope.classify(image).label
        return time.time(), label


def _main() -> None:
    path, *options = sys.argv[1:]
    time_s, label = _classify_once(Path(path), options[:4], Path(options[4]) if options[4:] else None)
    print(FirstLabel(time_s=time_s, label=label, peak_mib=_peak_mib()).model_dump_json())


def _peak_mib() -> float | None:
    """From /proc, since getrusage also counts the memory of the parent at the time when it started this process."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    _main()
