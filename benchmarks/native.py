"""libblastscope beside the Python runtime: contenders of a comparison, starts of its process, and how the two compare.

python -m blastscope.benchmarks.native RESULT.json   exits 1 where a row of libblastscope misses one of the limits below
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from blastscope.benchmarks.contenders import BACKEND, RuntimeConfig
from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Image
from blastscope.benchmarks.libblastscope import NativeLibrary, NativeScope, PredictionStruct, image_of
from blastscope.benchmarks.models import BenchmarkModel
from blastscope.benchmarks.results import read_result
from blastscope.benchmarks.schema import SCOPE_DESCRIPTIONS, BenchResult, FirstLabel, Row, ratio_interval
from blastscope.runtime.errors import EngineError
from blastscope.runtime.types import CLASSES, ClassName

ENGINE = "libblastscope"
START_SOURCE = Path(__file__).with_name("native_start.c")
HEADERS = Path(__file__).resolve().parents[1] / "runtime" / "native" / "include"
LATENCY_LIMIT, START_LIMIT, MEMORY_LIMIT = 0.97, 0.5, 0.7  # of the Python runtime's, in the same run


@contextmanager
def open_native(library: Path, model: BenchmarkModel, config: RuntimeConfig) -> Iterator[NativeScope]:
    """The bundle of `model`, opened by the libblastscope at `library` with the options that the Python runtime gets.

    Raises
    ------
    NativeError
        It doesn't open.
    """
    with NativeLibrary(library).opened(
        model.bundle,
        device=b"cpu",
        precision=config.precision.encode(),
        execution=config.execution.encode(),
        workload=config.workload.encode(),
        layout=config.layout.encode(),
        threads=config.threads or 0,
        allow_ungated=1,
        call_unlike_training=1,
    ) as scope:
        yield scope


def native_classifier(scope: NativeScope) -> ClassifyFunction:
    """What is timed of libblastscope: `blastscope_classify` of one image, through ctypes."""
    classify_one, handle, prediction = scope.library.c.blastscope_classify, scope.handle, PredictionStruct()

    def classify(images: Sequence[Image]) -> list[ClassName | None]:
        (pixels,) = images
        image = image_of(pixels)
        scope.library.check(classify_one(handle, ctypes.byref(image), ctypes.byref(prediction)))
        return [None if prediction.label < 0 else CLASSES[prediction.label]]

    return classify


def measure_native_start(
    library: Path, bundle: Path, image: Image, options: Sequence[str], cache: Path | None = None
) -> tuple[float, FirstLabel]:
    """Starts a C program that opens `bundle` and classifies `image`: the seconds to its label, and what it printed.

    Parameters
    ----------
    library
        libblastscope.so.
    bundle
        The bundle's folder.
    image
        A cell, uint8 (H, W, 3) RGB.
    options
        Precision, execution and layout, as `open_bundle` takes them.
    cache
        Folder of compiled engines; None: the user's cache.

    Raises
    ------
    EngineError
        There is no C compiler, or the program fails.
    """
    height, width, _ = image.shape
    with TemporaryDirectory(prefix="blastscope-") as place:
        program, cell = Path(place) / "native_start", Path(place) / "cell.rgb"
        cell.write_bytes(np.ascontiguousarray(image).tobytes())
        link = [f"-L{library.parent}", "-lblastscope", f"-Wl,-rpath,{library.parent.resolve()}", "-Wl,--allow-shlib-undefined"]
        _run(["cc", "-O2", f"-I{HEADERS}", str(START_SOURCE), "-o", str(program), *link])
        command = [str(program), str(bundle), str(cell), str(width), str(height), *options, *([str(cache)] if cache else [])]
        start = time.time()
        first = FirstLabel.model_validate_json(_run(command))
    return first.time_s - start, first


def _run(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(f"'{command[0]}' failed: {getattr(error, 'stderr', None) or error}") from error


def compare_with_python(result: BenchResult) -> list[tuple[str, bool]]:
    """How each row of libblastscope compares with the Python runtime's of the same graph, and whether it keeps the limits.

    Parameters
    ----------
    result
        Of a run with `blastscope bench --native`.

    Returns
    -------
    list of (str, bool)
        A sentence for each row, in the order of the rows.
    """
    return [_compare_row(row, python) for row, python in _pairs(result.rows)]


def in_own_section(rows: Iterable[Row]) -> list[Row]:
    """The rows of a run without the PyTorch baseline, in the scope 'native': joined to a machine's others they replace none of
    them, which would lose the ratio to PyTorch of their own run.
    """
    return [row.model_copy(update={"scope": "native"}) if row.scope == "pixels" else row for row in rows]


def native_table(rows: Iterable[Row]) -> Iterator[str]:
    """The section of RESULTS.md on rows in the scope 'native', line by line; nothing where there are none."""
    pairs = _pairs(row for row in rows if row.scope == "native")
    if not pairs:
        return
    yield f"#### native: {SCOPE_DESCRIPTIONS['native']}\n"
    yield "With shares of the Python runtime's figures in the same run. `load s` is from process start to first label.\n"
    yield "| graph | calls | p50 ms | p95 | p99 | of Python's p50 (95 %) | load s | of Python's | peak MiB | of Python's | |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row, python in pairs:
        low, high = _interval(row, python)
        share = f"{row.p50_ms / python.p50_ms:.3f} ({low:.3f} to {high:.3f})"
        times = f"{row.p50_ms:.2f} | {row.p95_ms:.2f} | {row.p99_ms:.2f} | {share}"
        start = f"{_beside(row.load_s, python.load_s, 2)} | {_beside(row.peak_mib, python.peak_mib, 0)}"
        busy = max((one.other_cpu_share or 0 for one in (row, python) if one.busy), default=None)
        told = "" if busy is None else f"busy: other processes took up to {busy:.0%}"
        yield f"| `{row.name.removesuffix(f'/{ENGINE}')}` | {row.calls} | {times} | {start} | {told} |"
    yield ""


def _beside(ours: float | None, theirs: float | None, digits: int) -> str:
    return f"{ours:.{digits}f} | {ours / theirs:.2f}" if ours and theirs else " | "


def _pairs(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Each row of libblastscope with the Python runtime's of the same graph, in the order of the rows."""
    found = {row.name: row for row in rows if row.scope in ("pixels", "native") and row.batch == 1}
    pairs = [
        (row, found.get(name.replace(f"/{ENGINE}", f"/{BACKEND}")))
        for name, row in found.items()
        if name.endswith(f"/{ENGINE}")
    ]
    return [(row, python) for row, python in pairs if python]


def _interval(row: Row, python: Row) -> tuple[float, float]:
    return ratio_interval(*([np.array(one) for one in side.samples_ms] for side in (row, python)))


def _compare_row(row: Row, python: Row) -> tuple[str, bool]:
    low, high = _interval(row, python)
    latency = row.p50_ms / python.p50_ms
    interval = f"95 %: {low:.3f} to {high:.3f}, at most {LATENCY_LIMIT}"
    text = f"{row.name}: image to label {latency:.3f} of Python's median ({interval})"
    kept = latency <= LATENCY_LIMIT
    for what, ours, theirs, limit in (
        ("process start to first label", row.load_s, python.load_s, START_LIMIT),
        ("peak memory", row.peak_mib, python.peak_mib, MEMORY_LIMIT),
    ):
        if ours and theirs:
            text += f"; {what} {ours / theirs:.2f} (at most {limit})"
            kept = kept and ours / theirs <= limit
    return text + (f"; busy: {row.other_cpu_share or 0:.0%} taken by others" if row.busy else ""), kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints how libblastscope compares. Returns the exit code: 1 where a limit isn't kept, 2 where nothing was compared."""
    parser = argparse.ArgumentParser(prog="python -m blastscope.benchmarks.native", description="Compare with Python.")
    parser.add_argument("result", type=Path, help="a result of `blastscope bench --native`")
    found = compare_with_python(read_result(parser.parse_args(arguments).result))
    for text, kept in found:
        sys.stdout.write(f"{text}: {'kept' if kept else 'MISSED'}\n")
    return 2 if not found else 0 if all(kept for _, kept in found) else 1


if __name__ == "__main__":
    sys.exit(main())
