"""`calibrate_cascade`: a bundle and a folder of cells in; a measured cascade in its manifest, or a report that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blastscope.calibration.acceptance.evaluation import AskedCells, ask
from blastscope.calibration.acceptance.trial import engines
from blastscope.calibration.calibrate import open_to_change
from blastscope.calibration.cascade.report import CascadeReport, CurvePoint, FirstReport
from blastscope.calibration.cascade.threshold_selection import (
    FIRSTS,
    Candidates,
    Choice,
    First,
    Judged,
    choose,
    judge_left_out,
    upper_share,
)
from blastscope.calibration.config import CascadeConfig
from blastscope.calibration.progress import Tell
from blastscope.calibration.quantisation.calibration_data import note_other_cells, validation_cells
from blastscope.calibration.quantisation.macs import share_of
from blastscope.runtime.bundle import FORMAT, Bundle, update_bundle
from blastscope.runtime.bundle.manifest import CascadeResult, GraphEntry, Interval, Manifest
from blastscope.runtime.errors import BundleError, MissingLibrary
from blastscope.runtime.evaluation.metrics import flips, patient_flips, score_calls
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.types import Execution, Precision

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

ORDER: tuple[Precision, ...] = ("int8", "fp32", "fp16")
EXECUTED: dict[Precision, Execution] = {"fp32": "f32", "fp16": "f32", "int8": "int8"}  # on every CPU
POINTS = 120  # of a curve


def calibrate_cascade(
    bundle: Path | str, data: Path | str, config: CascadeConfig | None = None, *, tell: Tell | None = None
) -> CascadeReport:
    """Finds when a first voter may decide alone, and writes it into the manifest of the bundle in the folder `bundle`.

    Asked are the cells of validation patients below `data`, for int8 those that had no part in its ranges. A cascade that
    changes more calls than allowed on the patients left out, or saves nothing, leaves the bundle as it was. Raises `DataError`,
    `BundleError`, and `EngineError` for a graph whose voters can't be told apart.
    """
    config, say = config or CascadeConfig(), tell or (lambda _: None)
    opened = open_to_change(bundle)
    entry = _graph(opened, config.precision)
    model = onnx.load_model_from_string(opened.read(entry))
    shares = {first: share_of(model, first) for first in FIRSTS}
    cells = _cells(opened, data, entry.precision, say)
    with engines(opened.file(entry), EXECUTED[entry.precision]) as found:
        if entry.precision != "int8":  # engines differ in int8 only
            found = dict(list(found.items())[:1])
        say(f"asking the {entry.precision} graph in {' and '.join(found)} about {len(cells)} cells")
        asked = ask({name: engine.infer for name, engine in found.items()}, cells, opened.manifest.crop, tell=say)
    point = opened.manifest.operating_point
    candidates = Candidates(asked.answers, asked.patients, shares, point.threshold if point else None)
    return _Outcome(opened, entry, asked, candidates, config).report()


def _graph(bundle: Bundle, wanted: Precision | None) -> GraphEntry:
    for precision in ORDER if wanted is None else (wanted,):
        if entry := bundle.graph(precision):
            return entry
    raise BundleError(bundle.path, f"no fused {wanted} graph to cascade")


def _cells(bundle: Bundle, data: Path | str, precision: Precision, tell: Tell) -> Sequence[DatasetEntry]:
    folder = scan_dataset(data)
    note_other_cells(folder, bundle.manifest.training.data_sha256, tell)
    known = validation_cells(folder, bundle.manifest.training)
    ranges = bundle.manifest.calibration if precision == "int8" else None
    used = set(ranges.cells) if ranges else set()
    return sorted((cell for cell in known if cell.path.name not in used), key=lambda cell: cell.sha256)


@dataclass(frozen=True)
class _Outcome:
    """What the networks said, before anything is made of it."""

    bundle: Bundle
    entry: GraphEntry
    asked: AskedCells
    candidates: Candidates
    config: CascadeConfig

    def report(self) -> CascadeReport:
        """Chooses, judges, and writes what holds."""
        choice = choose(self.candidates, self.config.flips_at_most)
        judged = max(judge_left_out(self.candidates, self.config.flips_at_most), key=lambda one: one.flips)
        reason = self._reason(choice, judged)
        cascade = self._result(choice, judged) if choice and not reason else None
        after = self._settled(cascade) if cascade else self.bundle
        return CascadeReport(
            bundle=str(after.path),
            digest=after.digest,
            admitted=cascade is not None,
            reason=reason,
            precision=self.entry.precision,
            engines=tuple(self.candidates.answers),
            cells=len(self.asked.cells),
            patients=len(set(self.asked.patients)),
            flips_at_most=self.config.flips_at_most,
            firsts=tuple(self._first(first) for first in FIRSTS),
            cascade=cascade,
            weighted_f1=self._scores(judged),
            left_out=tuple(f"{cell.path.name}: {why}" for cell, why in self.asked.refused),
        )

    def _reason(self, choice: Choice | None, judged: Judged) -> str:
        allowed = f"{100 * self.config.flips_at_most:g} % may"
        if judged.flips > self.config.flips_at_most:
            return f"{100 * judged.flips:.2f} % of calls change on patients left out of the choice, where {allowed}"
        if choice is None or judged.skipped <= 0:
            return f"the networks are too unsure: no first voter decides a cell of a patient left out, where {allowed} change"
        return ""

    def _result(self, choice: Choice, judged: Judged) -> CascadeResult:
        flipped = self._flips(judged)
        return CascadeResult(
            first=choice.first,
            threshold=choice.threshold,
            precision=self.entry.precision,
            engine=judged.engine,
            cells=len(self.asked.cells),
            patients=len(set(self.asked.patients)),
            flips=flipped,
            flips_upper=max(flipped.high, upper_share(int(np.sum(judged.call != judged.full)), len(judged.call))),
            flips_at_most=self.config.flips_at_most,
            patient_flips=patient_flips(judged.full, judged.call, self.asked.patients, draws=self.config.draws),
            skipped=judged.skipped,
        )

    def _flips(self, judged: Judged) -> Interval:
        return flips(judged.full, judged.call, self.asked.patients, draws=self.config.draws)

    def _settled(self, cascade: CascadeResult) -> Bundle:
        before = self.bundle.manifest.model_dump()
        manifest = Manifest.model_validate({**before, "format": FORMAT, "cascade": cascade.model_dump()})
        return update_bundle(self.bundle, manifest, {})

    def _first(self, first: First) -> FirstReport:
        choice = choose(self.candidates, self.config.flips_at_most, firsts=(first,))
        judged = max(judge_left_out(self.candidates, self.config.flips_at_most, firsts=(first,)), key=lambda one: one.flips)
        return FirstReport(
            first=first,
            work=self.candidates.shares[first],
            threshold=choice.threshold if choice else None,
            flips=self._flips(judged),
            skipped=judged.skipped,
            curve=_curve(self.candidates, first),
        )

    def _scores(self, judged: Judged) -> tuple[Interval, Interval] | None:
        labels = self.asked.labels
        if len(set(labels)) < 2:
            return None
        told = self.candidates.answers[judged.engine]
        scores = vote(told).score
        found = [
            score_calls(labels, calls, scores, self.asked.patients, draws=self.config.draws).weighted_f1
            for calls in (judged.full, judged.call)
        ]
        return found[0], found[1]


def _curve(candidates: Candidates, first: First) -> tuple[CurvePoint, ...]:
    """Flips and saved work from the largest threshold down, in the engine in which most flip in the end."""
    opinions = [candidates.opinion(engine, first) for engine in candidates.answers]
    opinion = max(opinions, key=lambda one: int(one.flips.sum()))
    order = np.argsort(-opinion.largest, kind="stable")
    falling, changed = opinion.largest[order], np.cumsum(opinion.flips[order])
    picked = falling[np.linspace(0, len(order) - 1, POINTS).astype(int)]
    places = np.unique(np.searchsorted(-falling, -picked, side="right") - 1)  # equal values go together
    return tuple(
        CurvePoint(
            threshold=float(falling[place]),
            flips=float(changed[place]) / len(order),
            skipped=(int(place) + 1) / len(order) * (1 - candidates.shares[first]),
        )
        for place in places
    )
