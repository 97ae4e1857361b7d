"""`compare_engines`: every available engine against the golden set, and every precision against labelled cells."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from blastscope.calibration.acceptance.trial import available_backends
from blastscope.calibration.evaluation import Infer, evaluate
from blastscope.runtime.backends.protocol import EngineOptions, open_engine
from blastscope.runtime.bundle import Bundle, Golden, read_golden
from blastscope.runtime.bundle.graphs.reading import check_weights
from blastscope.runtime.bundle.manifest import GraphEntry, Interval, Scores
from blastscope.runtime.errors import DataError, UnavailableError
from blastscope.runtime.evaluation.metrics import score_calls
from blastscope.runtime.frames.detection.loading import detector_graphs, golden_difference, open_graph
from blastscope.runtime.inference.validation import check_golden
from blastscope.runtime.inference.voting import Votes, vote
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry, scan_dataset
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, ClassName, Execution, Precision


class EngineRow(StrictModel):
    """One backend and one way of executing one graph, on the golden set.

    Attributes
    ----------
    backend : str
        Its name.
    precision : {'fp32', 'fp16', 'int8'}
        Number type of the graph's file.
    execution : {'f32', 'bf16', 'f16', 'int8'}
        The number type that it was computed in.
    difference : float or None
        Largest difference of a probability; None: no answer to compare.
    flips : int or None
        Calls that changed.
    tolerance : float
        The largest difference that may be.
    passed : bool
        Whether the answers hold.
    note : str
        Why there is no answer.
    """

    backend: str
    precision: Precision
    execution: Execution
    difference: float | None
    flips: int | None
    tolerance: float
    passed: bool
    note: str = ""


class DetectorRow(StrictModel):
    """One backend and one graph of the detector, on its golden pictures.

    Attributes
    ----------
    backend : str
        Its name.
    precision : {'fp32', 'int8'}
        Number type of the graph's file.
    difference : float or None
        Largest difference of a probability in the maps; None: no answer to compare.
    tolerance : float
        The largest difference that may be.
    passed : bool
        Whether the answers hold.
    note : str
        Why there is no answer.
    """

    backend: str
    precision: Precision
    difference: float | None
    tolerance: float
    passed: bool
    note: str = ""


class CellCall(StrictModel):
    """One cell: what the graphs of one precision call it, or why they weren't asked.

    Attributes
    ----------
    file : str
        The cell's file, from the data's folder on.
    label : ClassName or None
        Its class; None where the file was left out before its label was read.
    patient : str or None
        Whose cell it is.
    precision : Precision or None
        Precision of the graphs that were asked; None where the cell was left out.
    call : ClassName or None
        What the graphs call it; None for a cell without a call.
    score : float or None
        The deciding voter's probability of ALL, 0 to 1.
    refusal : str or None
        Why there is no call, in words.
    """

    file: str
    label: ClassName | None
    patient: str | None
    precision: Precision | None = None
    call: ClassName | None = None
    score: float | None = None
    refusal: str | None = None


class EngineComparison(StrictModel):
    """What `verify` found. The digests were verified when the bundle was read.

    Attributes
    ----------
    bundle, digest : str
        Its path, and its digest in hex.
    engines : tuple of EngineRow
        One for each backend, graph and way of executing it.
    detectors : tuple of DetectorRow
        One for each backend and graph of the detector; none where the bundle has no detector.
    missing : tuple of str
        Backends that aren't installed.
    scores : tuple of Scores
        On the data, one for each precision.
    data : str or None
        The folder of labelled cells, where one was given.
    left_out : tuple of (str, str)
        Files of the data that are not scored, with the reason.
    trained_on : int
        Cells of the data whose patients took part in the training: not scored either.
    cells : tuple of CellCall
        The calls on the data, in each precision; then what is left out. Not in JSON.
    """

    bundle: str
    digest: str
    engines: tuple[EngineRow, ...]
    detectors: tuple[DetectorRow, ...] = ()
    missing: tuple[str, ...]
    scores: tuple[Scores, ...] = ()
    data: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    trained_on: int = 0
    cells: tuple[CellCall, ...] = Field(default=(), exclude=True, repr=False)

    @property
    def passed(self) -> bool:
        """Every engine repeats the golden set, and there is one at least; so does every engine of the detector."""
        return bool(self.engines) and all(row.passed for row in self.engines) and all(row.passed for row in self.detectors)

    def text(self) -> str:
        """The comparison for people."""
        lines = [
            f"{self.bundle}: every digest is right",
            f"  {self.digest}",
            "",
            _row("engine", "difference", "at most", "flips", ""),
        ]
        for row in self.engines:
            name = f"{row.backend} {row.precision}" + (f" in {row.execution}" if row.precision != row.execution else "")
            lines.append(_engine_line(name, row, "-" if row.flips is None else str(row.flips)))
        lines += [_engine_line(f"{row.backend} detector, {row.precision}", row, "") for row in self.detectors]
        lines += [f"  not installed: {name}" for name in self.missing]
        if self.scores:
            cells, patients = self.scores[0].cells, self.scores[0].patients
            of = f"{cells} of {cells + len(self.left_out)}" if self.left_out else f"{cells}"
            lines += ["", f"{of} cells are scored, of {patients} patients without a part in the training, in '{self.data}'"]
            lines += [f"  left out: {file}: {reason}" for file, reason in self.left_out]
            if self.trained_on:
                lines.append(f"  not scored: {self.trained_on} cells of patients that took part in the training")
            lines.append(_row("vote of", "weighted F1", "AUROC", "sensitivity", "specificity"))
            for score in self.scores:
                figures = (score.weighted_f1, score.auroc, score.sensitivity, score.specificity)
                lines.append(_row(score.precision, *map(_interval, figures)))
        return "\n".join(line.rstrip() for line in lines)


def compare_engines(bundle: Bundle, data: Path | None = None) -> EngineComparison:
    """Runs the golden set on every installed backend, precision and execution; with `data`, scores every fused graph.

    Scored are the cells of patients that took no part in the training; what is left out is told. Raises `DataError` where
    `data` has none of them.
    """
    golden = read_golden(bundle)
    cells = _cells_to_score(bundle, data) if data else None  # first: what is wrong with the data is told before minutes of work
    for entry in bundle.manifest.graphs:
        check_weights(bundle, entry)
    available, missing = available_backends()
    rows = [row for name, executions in available.items() for row in _engine_rows(bundle, name, executions, golden)]
    detectors = tuple(row for name in available for row in _detector_rows(bundle, name))
    scored = _score(bundle, *cells, rows) if cells else _Scored()
    return EngineComparison(
        bundle=_shown(bundle.path),
        digest=bundle.digest,
        engines=tuple(rows),
        detectors=detectors,
        missing=tuple(f"{name} ({reason})" for name, reason in missing.items()),
        scores=scored.scores,
        data=_shown(data) if data else None,
        left_out=tuple((row.file, row.refusal or "") for row in scored.cells if row.precision is None),
        trained_on=scored.trained_on,
        cells=scored.cells,
    )


def _engine_line(name: str, row: EngineRow | DetectorRow, flips: str) -> str:
    found = "-" if row.difference is None else f"{row.difference:.2g}"
    return _row(name, found, f"{row.tolerance:.2g}", flips, "passed" if row.passed else f"FAILED {row.note}")


def _shown(text: Path | str) -> str:
    """`text` as JSON can hold it: a name that is no UTF-8 tells its bytes as numbers."""
    return os.fsencode(text).decode(errors="backslashreplace")


def _fused(bundle: Bundle) -> list[GraphEntry]:
    return [entry for entry in bundle.manifest.graphs if entry.models == "ensemble"]


def _engine_rows(bundle: Bundle, backend: str, executions: tuple[Execution, ...], golden: Golden) -> Iterator[EngineRow]:
    for entry in _fused(bundle):
        for execution in entry.tolerances:
            if execution in executions:
                yield _engine_row(bundle, entry, backend, execution, golden)


def _engine_row(bundle: Bundle, entry: GraphEntry, backend: str, execution: Execution, golden: Golden) -> EngineRow:
    tolerance = entry.tolerances[execution]
    known = {"backend": backend, "precision": entry.precision, "execution": execution, "tolerance": tolerance}
    try:
        engine = open_engine(bundle.file(entry), EngineOptions(execution=execution), backend=backend, sha256=entry.sha256)
    except UnavailableError as error:
        return EngineRow.model_validate(
            {**known, "difference": None, "flips": None, "passed": False, "note": _shown(str(error))}
        )
    try:
        check = check_golden(engine.lanes[0], golden, tolerance)
    finally:
        engine.close()
    finite = check.difference if np.isfinite(check.difference) else None
    note = "" if finite is not None else "the answers are not probabilities"
    return EngineRow.model_validate({**known, "difference": finite, "flips": check.flips, "passed": check.passed, "note": note})


def _detector_rows(bundle: Bundle, backend: str) -> Iterator[DetectorRow]:
    entry = bundle.manifest.detector
    if entry is None:
        return
    for precision, (graph, tolerance) in detector_graphs(entry).items():
        known = {"backend": backend, "precision": precision, "tolerance": tolerance}
        try:
            network = open_graph(bundle, graph, backend=backend, threads=0, int8=precision == "int8")
        except UnavailableError as error:
            yield DetectorRow.model_validate({**known, "difference": None, "passed": False, "note": _shown(str(error))})
            continue
        try:
            difference = golden_difference(bundle, entry, network)
        finally:
            network.close()
        finite = difference if np.isfinite(difference) else None
        note = "" if finite is not None else "the maps have another shape, or hold what is no number"
        yield DetectorRow.model_validate({**known, "difference": finite, "passed": difference <= tolerance, "note": note})


class _Scored(NamedTuple):
    """What scoring on labelled cells gave; empty without a data set.

    Attributes
    ----------
    scores : tuple of Scores
        A row for each precision.
    cells : tuple of CellCall
        Label, call and score of each cell.
    trained_on : int
        Cells that were left out, since their patients took part in the training.
    """

    scores: tuple[Scores, ...] = ()
    cells: tuple[CellCall, ...] = ()
    trained_on: int = 0


def _cells_to_score(bundle: Bundle, data: Path) -> tuple[Dataset, list[DatasetEntry]]:
    """The folder of cells, and those of patients that took no part in the training."""
    folder = scan_dataset(data)
    trained = folder.people_of(bundle.manifest.training.patients.training)
    cells = [cell for cell in folder.cells if cell.person not in trained]
    if {cell.label for cell in cells} != set(CLASSES):
        raise DataError(data, "no cells of both classes of patients that took no part in the training: nothing fair to score")
    return folder, cells


def _score(bundle: Bundle, folder: Dataset, cells: list[DatasetEntry], rows: list[EngineRow]) -> _Scored:
    with ExitStack() as stack:
        networks: dict[str, Infer] = {}
        for entry in _fused(bundle):
            if row := next((row for row in rows if row.precision == entry.precision and row.passed), None):
                options = EngineOptions(execution=row.execution)
                engine = open_engine(bundle.file(entry), options, backend=row.backend, sha256=entry.sha256)
                stack.callback(engine.close)
                networks[entry.precision] = engine.lanes[0].infer
        predictions = evaluate(networks, cells, bundle.manifest.crop)
    point = bundle.manifest.operating_point
    scores: list[Scores] = []
    calls: list[CellCall] = []
    for entry in _fused(bundle):
        if entry.precision in predictions.probabilities:
            votes = vote(predictions.probabilities[entry.precision], point.threshold if point else None)
            scores.append(
                score_calls(predictions.labels, votes.label, votes.score, predictions.patients).summary(entry.precision)
            )
            calls += _calls(folder, predictions.cells, entry.precision, votes)
    return _Scored(tuple(scores), (*calls, *_left_out(folder, predictions.refused)), len(folder.cells) - len(cells))


def _calls(folder: Dataset, cells: Sequence[DatasetEntry], precision: Precision, votes: Votes) -> Iterator[CellCall]:
    for cell, label, score in zip(cells, votes.label, votes.score, strict=True):
        known = {"file": _from(folder, cell.path), "label": cell.label, "patient": cell.patient, "precision": precision}
        yield CellCall.model_validate({**known, "call": CLASSES[int(label)], "score": float(score)})


def _left_out(folder: Dataset, refused: Iterable[tuple[DatasetEntry, str]]) -> Iterator[CellCall]:
    for cell, reason in refused:
        yield CellCall(file=_from(folder, cell.path), label=cell.label, patient=cell.patient, refusal=reason)
    for path, reason in folder.rejected:
        yield CellCall(file=_from(folder, path), label=None, patient=None, refusal=reason)
    for path, kept in folder.duplicates:
        yield CellCall(file=_from(folder, path), label=None, patient=None, refusal=f"a copy of '{_from(folder, kept)}'")


def _from(folder: Dataset, path: Path) -> str:
    return _shown(path.relative_to(folder.root).as_posix())


def _row(*columns: str) -> str:
    widths = (28, 24, 24, 24, 24)
    return "  " + "".join(f"{text:<{width}}" for text, width in zip(columns, widths, strict=True))


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f}, {interval.high:.3f})"
