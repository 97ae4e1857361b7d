"""`calibrate_cascade`: a bundle and a folder of cells in; a measured cascade in its manifest, or a report that says why not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blastscope.calibration.acceptance.trial import open_engines
from blastscope.calibration.calibrate import open_writable_bundle
from blastscope.calibration.calibration_data import log_dataset_mismatch, validation_cells
from blastscope.calibration.cascade.report import CascadeReport, CurvePoint, FirstReport
from blastscope.calibration.cascade.threshold_selection import (
    FIRST_VOTERS,
    CascadeOutcome,
    EnginePredictions,
    FirstVoter,
    ThresholdChoice,
    choose_threshold,
    clopper_pearson_upper,
    evaluate_left_out,
)
from blastscope.calibration.config import CascadeConfig
from blastscope.calibration.evaluation import CellPredictions, evaluate
from blastscope.calibration.quantisation.qdq_placement import voter_mac_share
from blastscope.runtime.bundle import FORMAT, Bundle, update_bundle
from blastscope.runtime.bundle.manifest import CascadeResult, GraphEntry, Interval, Manifest
from blastscope.runtime.errors import BundleError, MissingLibrary
from blastscope.runtime.evaluation.metrics import flip_rate, patient_flip_rate, score_calls
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.types import Execution, Precision

logger = logging.getLogger(__name__)

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

ORDER: tuple[Precision, ...] = ("int8", "fp32", "fp16")
EXECUTED: dict[Precision, Execution] = {"fp32": "f32", "fp16": "f32", "int8": "int8"}  # on every CPU
POINTS = 120  # of a curve


def calibrate_cascade(bundle: Path | str, data: Path | str, config: CascadeConfig | None = None) -> CascadeReport:
    """Finds when a first voter may decide alone, and writes it into a bundle's manifest.

    Asked are the cells of validation patients, for int8 those that had no part in its ranges. A cascade that changes more calls
    than allowed on the patients left out, or saves nothing, leaves the bundle as it was.

    Parameters
    ----------
    bundle : Path or str
        Folder of the bundle.
    data : Path or str
        Folder of the cells that it was trained on.
    config : CascadeConfig, optional
        How many calls may change.

    Returns
    -------
    CascadeReport

    Raises
    ------
    DataError, BundleError
        The data or the bundle lack what is needed.
    EngineError
        A graph whose voters can't be told apart.
    """
    config = config or CascadeConfig()
    source = open_writable_bundle(bundle)
    entry = _graph(source, config.precision)
    model = onnx.load_model_from_string(source.read(entry))
    shares = {first: voter_mac_share(model, first) for first in FIRST_VOTERS}
    cells = _cells(source, data, entry.precision)
    with open_engines(source.file(entry), EXECUTED[entry.precision]) as found:
        if entry.precision != "int8":  # engines differ in int8 only
            found = dict(list(found.items())[:1])
        logger.info("asking the %s graph in %s about %s cells", entry.precision, " and ".join(found), len(cells))
        predictions = evaluate({name: engine.infer for name, engine in found.items()}, cells, source.manifest.crop)
    point = source.manifest.operating_point
    engines = EnginePredictions(predictions.probabilities, predictions.patients, shares, point.threshold if point else None)
    return _CascadeEvaluation(source, entry, predictions, engines, config).report()


def _graph(bundle: Bundle, wanted: Precision | None) -> GraphEntry:
    for precision in ORDER if wanted is None else (wanted,):
        if entry := bundle.graph(precision):
            return entry
    raise BundleError(bundle.path, f"no fused {wanted} graph to cascade")


def _cells(bundle: Bundle, data: Path | str, precision: Precision) -> Sequence[DatasetEntry]:
    folder = scan_dataset(data)
    log_dataset_mismatch(folder, bundle.manifest.training.data_sha256)
    known = validation_cells(folder, bundle.manifest.training)
    ranges = bundle.manifest.calibration if precision == "int8" else None
    used = set(ranges.cells) if ranges else set()
    return sorted((cell for cell in known if cell.path.name not in used), key=lambda cell: cell.sha256)


@dataclass(frozen=True)
class _CascadeEvaluation:
    """The networks' predictions, and what follows from them.

    Attributes
    ----------
    bundle : Bundle
        Whose cascade it is.
    entry : GraphEntry
        The fused graph that predicted.
    predictions : CellPredictions
        Of the cells, in each engine.
    engines : EnginePredictions
        The same with what each first voter costs, and the threshold.
    config : CascadeConfig
        The limits.
    """

    bundle: Bundle
    entry: GraphEntry
    predictions: CellPredictions
    engines: EnginePredictions
    config: CascadeConfig

    def report(self) -> CascadeReport:
        """Chooses a threshold, evaluates it, and writes it into the bundle if it keeps the limits."""
        choice = choose_threshold(self.engines, self.config.max_flip_rate)
        judged = max(evaluate_left_out(self.engines, self.config.max_flip_rate), key=lambda one: one.flip_rate)
        reason = self._reason(choice, judged)
        cascade = self._result(choice, judged) if choice and not reason else None
        after = self._settled(cascade) if cascade else self.bundle
        return CascadeReport(
            bundle=str(after.path),
            digest=after.digest,
            admitted=cascade is not None,
            reason=reason,
            precision=self.entry.precision,
            engines=tuple(self.engines.probabilities),
            cells=len(self.predictions.cells),
            patients=len(set(self.predictions.patients)),
            max_flip_rate=self.config.max_flip_rate,
            firsts=tuple(self._first(first) for first in FIRST_VOTERS),
            cascade=cascade,
            weighted_f1=self._scores(judged),
            left_out=tuple(f"{cell.path.name}: {why}" for cell, why in self.predictions.refused),
        )

    def _reason(self, choice: ThresholdChoice | None, judged: CascadeOutcome) -> str:
        allowed = f"{100 * self.config.max_flip_rate:g} % may"
        if judged.flip_rate > self.config.max_flip_rate:
            return f"{100 * judged.flip_rate:.2f} % of calls change on patients left out of the choice, where {allowed}"
        if choice is None or judged.skipped <= 0:
            return f"the networks are too unsure: no first voter decides a cell of a patient left out, where {allowed} change"
        return ""

    def _result(self, choice: ThresholdChoice, judged: CascadeOutcome) -> CascadeResult:
        flipped = self._flip_rate(judged)
        return CascadeResult(
            first=choice.first,
            threshold=choice.threshold,
            precision=self.entry.precision,
            engine=judged.engine,
            cells=len(self.predictions.cells),
            patients=len(set(self.predictions.patients)),
            flip_rate=flipped,
            flip_rate_upper=max(flipped.high, clopper_pearson_upper(int(np.sum(judged.call != judged.full)), len(judged.call))),
            max_flip_rate=self.config.max_flip_rate,
            patient_flip_rate=patient_flip_rate(judged.full, judged.call, self.predictions.patients, draws=self.config.draws),
            skipped=judged.skipped,
        )

    def _flip_rate(self, judged: CascadeOutcome) -> Interval:
        return flip_rate(judged.full, judged.call, self.predictions.patients, draws=self.config.draws)

    def _settled(self, cascade: CascadeResult) -> Bundle:
        before = self.bundle.manifest.model_dump()
        manifest = Manifest.model_validate({**before, "format": FORMAT, "cascade": cascade.model_dump()})
        return update_bundle(self.bundle, manifest, {})

    def _first(self, first: FirstVoter) -> FirstReport:
        choice = choose_threshold(self.engines, self.config.max_flip_rate, firsts=(first,))
        judged = max(evaluate_left_out(self.engines, self.config.max_flip_rate, firsts=(first,)), key=lambda one: one.flip_rate)
        return FirstReport(
            first=first,
            work=self.engines.shares[first],
            threshold=choice.threshold if choice else None,
            flip_rate=self._flip_rate(judged),
            skipped=judged.skipped,
            curve=_curve(self.engines, first),
        )

    def _scores(self, judged: CascadeOutcome) -> tuple[Interval, Interval] | None:
        labels = self.predictions.labels
        if len(set(labels)) < 2:
            return None
        scores = vote(self.engines.probabilities[judged.engine]).score
        found = [
            score_calls(labels, calls, scores, self.predictions.patients, draws=self.config.draws).weighted_f1
            for calls in (judged.full, judged.call)
        ]
        return found[0], found[1]


def _curve(engines: EnginePredictions, first: FirstVoter) -> tuple[CurvePoint, ...]:
    """Flips and saved work from the largest threshold down, in the engine in which most flip in the end."""
    calls = [engines.first_voter_calls(engine, first) for engine in engines.probabilities]
    worst = max(calls, key=lambda one: int(one.flips.sum()))
    order = np.argsort(-worst.largest, kind="stable")
    falling, changed = worst.largest[order], np.cumsum(worst.flips[order])
    picked = falling[np.linspace(0, len(order) - 1, POINTS).astype(int)]
    places = np.unique(np.searchsorted(-falling, -picked, side="right") - 1)  # equal values go together
    return tuple(
        CurvePoint(
            threshold=float(falling[place]),
            flip_rate=float(changed[place]) / len(order),
            skipped=(int(place) + 1) / len(order) * (1 - engines.shares[first]),
        )
        for place in places
    )
