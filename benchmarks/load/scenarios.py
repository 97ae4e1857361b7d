"""MLPerf's LoadGen around a handle: it decides when which cell is sent, and judges; we answer.

LoadGen measures, in each scenario, as MLPerf Inference defines it (https://docs.mlcommons.org/inference):

    single-stream   the next cell when the last is answered: latency at the 90th percentile
    multi-stream    eight cells a query, the next query when the last is answered: latency at the 99th percentile
    server          single cells that come at random (Poisson), so many a second: the bound must hold at the 99th percentile
    offline         all cells at once: cells a second

In accuracy mode it sends every cell once and logs the answers; `read_answers` reads them back. A run is shorter than MLPerf's
rules ask for, so its results are no MLPerf submissions. The cells are images in memory (`load_samples`), with labels and
patients where they are known.
"""

from __future__ import annotations

import json
import random
import re
import struct
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.interleaved_timing import Image
from blastscope.benchmarks.load.schema import MlperfScenario
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import DataError, EngineError, MissingLibrary
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.session import Scope
from blastscope.runtime.types import CLASSES, Prediction, Refusal

try:
    import mlperf_loadgen
except ImportError as error:
    raise MissingLibrary("mlcommons-loadgen", "loadgen") from error

CELLS_PER_QUERY = 8  # of multi-stream, as MLPerf has it
PIECE = 256  # cells of an offline query that are in work at a time
ANSWER = struct.Struct("<if")  # index into CLASSES, -1 for a refusal; probability of ALL
PERCENTILES: dict[MlperfScenario, float] = {"single-stream": 90.0, "multi-stream": 99.0, "server": 99.0}
_NAMES: dict[MlperfScenario, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}


@dataclass(frozen=True)
class LoadSamples:
    """Images, and what is known of them.

    Attributes
    ----------
    images
        N images of single cells, uint8 (H, W, 3) RGB.
    labels
        (N,) index into CLASSES; None where there is nothing that calls can be compared with.
    people
        N persons, as ids.
    held_out
        Whether none of these persons' cells trained the networks.
    note
        Where the cells come from, or why there are no labels.
    """

    images: tuple[Image, ...]
    labels: NDArray[np.int64] | None
    people: tuple[str, ...]
    held_out: bool
    note: str


def load_samples(bundle: Bundle, data: Path | None, count: int) -> LoadSamples:
    """At most `count` cells for `bundle`: of held-out patients where it has some, else of any patient below `data`.

    Parameters
    ----------
    bundle
        What is going to answer.
    data
        Folder of C-NMC cells; None: cells are drawn, and have no labels that mean anything.
    count
        How many cells.

    Returns
    -------
    LoadSamples

    Raises
    ------
    DataError
        None of the cells can be read.
    """
    training = bundle.manifest.training
    if data is None or training.data_sha256 is None:
        images = tuple(cell.image for cell in synthetic_cells(count, seed=0))
        note = "drawn cells: C-NMC's aren't at hand" if data is None else "random weights: calls mean nothing"
        return LoadSamples(images, None, (), held_out=False, note=note)
    folder = scan_dataset(data)
    held_out = training.split == "patient" and bool(training.patients.validation)
    trained = folder.people_of(training.patients.training)
    wanted = set(training.patients.validation)
    cells = [cell for cell in folder.cells if not held_out or (cell.patient in wanted and cell.person not in trained)]
    chosen = random.Random(0).sample(cells, min(count, len(cells)))
    read = [(cell, read_image(cell.path)) for cell in chosen]
    kept = [(cell, image) for cell, image in read if not isinstance(image, Refusal)]
    if not kept:
        raise DataError(data, "holds no readable cell of the patients that the networks may be judged on")
    return LoadSamples(
        tuple(image for _, image in kept),
        np.array([CLASSES.index(cell.label) for cell, _ in kept], np.int64),
        tuple(cell.person for cell, _ in kept),
        held_out=held_out,
        note="held-out patients" if held_out else "patients that trained the networks: accuracy is too high for new ones",
    )


@dataclass(frozen=True)
class ScenarioSettings:
    """How a scenario is run.

    Attributes
    ----------
    scenario
        Which one.
    duration_s
        Least duration in seconds.
    latency_bound_ms
        What 99 % of the server scenario's queries must keep.
    rate
        Queries a second: those that the server scenario sends, or the guess by which offline's query is sized.
    """

    scenario: MlperfScenario
    duration_s: float
    latency_bound_ms: float
    rate: float


class Summary(NamedTuple):
    """LoadGen's summary of a performance run.

    Attributes
    ----------
    valid : bool
        LoadGen's verdict.
    reasons : tuple of str
        Why it isn't valid.
    figures : dict of str to float
        By LoadGen's names.
    cells : int
        How many were answered.
    """

    valid: bool
    reasons: tuple[str, ...]
    figures: dict[str, float]
    cells: int

    def percentile_ms(self, percentile: float) -> float | None:
        """The latency at `percentile` of the queries; None in the offline scenario."""
        found = self.figures.get(f"{percentile:.2f} percentile latency (ns)")
        return None if found is None else found / 1e6


class Answer(NamedTuple):
    """What was answered for one cell.

    Attributes
    ----------
    label : int
        Index into CLASSES, -1 for a refusal.
    score : float
        Probability of ALL.
    """

    label: int
    score: float


def measure_performance(scope: Scope, images: Sequence[Image], settings: ScenarioSettings) -> Summary:
    """Runs a scenario in LoadGen's performance mode.

    Raises
    ------
    EngineError
        A cell wasn't answered, or LoadGen's summary can't be read.
    """
    with TemporaryDirectory(prefix="blastscope-loadgen-") as folder:
        answered = _run(scope, images, settings, "PerformanceOnly", Path(folder))
        text = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    return read_summary(text, answered)


def measure_accuracy(scope: Scope, images: Sequence[Image], settings: ScenarioSettings) -> tuple[Answer, ...]:
    """Runs a scenario in LoadGen's accuracy mode, which sends every cell once; the answers in the order of `images`.

    Raises
    ------
    EngineError
        A cell wasn't answered.
    """
    with TemporaryDirectory(prefix="blastscope-loadgen-") as folder:
        _run(scope, images, settings, "AccuracyOnly", Path(folder))
        text = (Path(folder) / "mlperf_log_accuracy.json").read_text(encoding="utf-8")
    return read_answers(text, len(images))


def read_summary(text: str, cells: int) -> Summary:
    """LoadGen's `mlperf_log_summary.txt`."""
    facts = dict(re.findall(r"^ *([^:\n]+?) *: *(\S+) *$", text, re.MULTILINE))
    if "Result is" not in facts:
        raise EngineError("loadgen's summary has no result")
    figures = {}
    for name, value in facts.items():
        try:
            figures[name] = float(value)
        except ValueError:
            continue
    reasons = tuple(f"{name}: no" for name, value in facts.items() if name.endswith("satisfied") and value.lower() == "no")
    return Summary(facts["Result is"] == "VALID", reasons, figures, cells)


def read_answers(text: str, count: int) -> tuple[Answer, ...]:
    """LoadGen's `mlperf_log_accuracy.json`, in the order of the cells. Raises `EngineError` where one of `count` is missing."""
    found = {row["qsl_idx"]: Answer(*ANSWER.unpack(bytes.fromhex(row["data"]))) for row in json.loads(text)}
    if sorted(found) != list(range(count)):
        raise EngineError(f"loadgen logged answers for {len(found)} of {count} cells")
    return tuple(found[index] for index in range(count))


class _SystemUnderTest:
    """Answers LoadGen's queries from a handle. What a query raises is kept: LoadGen's threads know no exceptions."""

    def __init__(self, scope: Scope, images: Sequence[Image], scenario: MlperfScenario) -> None:
        self._scope, self._images, self._scenario = scope, images, scenario
        self.answered = 0
        self.error: BaseException | None = None

    def issue(self, samples: list[Any]) -> None:
        """Called with samples that are due; returns at once in the server scenario, where answers come from other threads."""
        try:
            if self._scenario == "server":
                for sample in samples:
                    future = self._scope.submit(self._images[sample.index])
                    future.add_done_callback(partial(self._finish, sample))
                return
            for start in range(0, len(samples), PIECE):
                piece = samples[start : start + PIECE]
                if len(piece) == 1:
                    predictions = [self._scope.classify(self._images[piece[0].index])]
                else:
                    predictions = self._scope.classify_many([self._images[sample.index] for sample in piece])
                self._complete(piece, predictions)
        except Exception as error:  # noqa: BLE001  raised again once LoadGen has come to its end
            self.error = self.error or error
            self._complete(samples, [None] * len(samples))

    def flush(self) -> None:
        """Called at the end of a sequence: nothing is held back here."""

    def _finish(self, sample: Any, done: Future[Prediction]) -> None:
        error = done.exception()
        self.error = self.error or error
        self._complete([sample], [None if error else done.result()])

    def _complete(self, samples: Sequence[Any], predictions: Sequence[Prediction | None]) -> None:
        buffers = [array("B", _packed(prediction)) for prediction in predictions]
        responses = [
            mlperf_loadgen.QuerySampleResponse(sample.id, buffer.buffer_info()[0], len(buffer))
            for sample, buffer in zip(samples, buffers, strict=True)
        ]
        mlperf_loadgen.QuerySamplesComplete(responses)  # copies the buffers
        self.answered += len(samples)


def _packed(prediction: Prediction | None) -> bytes:
    if prediction is None or prediction.label is None or prediction.score is None:
        return ANSWER.pack(-1, 0.5)
    return ANSWER.pack(CLASSES.index(prediction.label), prediction.score)


def _run(scope: Scope, images: Sequence[Image], settings: ScenarioSettings, mode: str, folder: Path) -> int:
    """Cells that were answered; the logs lie in `folder` then."""
    system = _SystemUnderTest(scope, images, settings.scenario)
    test = mlperf_loadgen.TestSettings()
    test.scenario = getattr(mlperf_loadgen.TestScenario, _NAMES[settings.scenario])
    test.mode = getattr(mlperf_loadgen.TestMode, mode)
    test.min_duration_ms = int(1000 * settings.duration_s)
    test.min_query_count = 1
    test.multi_stream_samples_per_query = CELLS_PER_QUERY
    test.server_target_qps = test.offline_expected_qps = settings.rate
    test.server_target_latency_ns = int(1e6 * settings.latency_bound_ms)
    logs = mlperf_loadgen.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    count = len(images)
    subject = mlperf_loadgen.ConstructSUT(system.issue, system.flush)
    library = mlperf_loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)  # all of them lie in memory
    try:
        mlperf_loadgen.StartTestWithLogSettings(subject, library, test, logs, "")
    finally:
        mlperf_loadgen.DestroyQSL(library)
        mlperf_loadgen.DestroySUT(subject)
    if system.error is not None:
        raise EngineError(f"a cell wasn't answered: {system.error}") from system.error
    return system.answered
