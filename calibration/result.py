"""Applies the result of a calibration to the bundle, and writes its report."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from blastscope.calibration.acceptance.mixed_precision_search import SearchReport, StopReason
from blastscope.calibration.acceptance.trial import Trial
from blastscope.calibration.calibration_data import CroppedCells
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import QuantisationDrift
from blastscope.calibration.quantisation.quantizer import MethodRow, QuantConfig
from blastscope.runtime.bundle import FORMAT, Bundle, describe_file, update_bundle
from blastscope.runtime.bundle.graphs import read_graph
from blastscope.runtime.bundle.manifest import (
    CalibrationProvenance,
    Digest,
    GateResult,
    GraphEntry,
    Manifest,
    OperatingPoint,
    Scores,
)
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.strict_model import StrictModel

WHY: dict[StopReason, str] = {  # a search ended
    "passed": "the limits hold there",
    "share": "no more may stay fp32",
    "time": "time is up",
    "end": "every layer tried",
}
LIBRARIES = ("onnx", "onnxruntime", "numpy", "opencv-python-headless")  # whose versions the manifest records


class RefusedCell(StrictModel):
    """A cell that took no part, and why.

    Attributes
    ----------
    file : str
        Its name.
    reason : str
        The reason in words.
    """

    file: str
    reason: str


class CalibrationReport(StrictModel):
    """The outcome of `calibrate`. With `admitted` False the bundle has no int8 graph, and `failures` says why.

    Attributes
    ----------
    bundle : str
        The bundle's path.
    digest : str
        Digest of the bundle as it is now.
    admitted : bool
        Whether int8 is part of the bundle now.
    failures : tuple of str
        Which limits were missed.
    gates : tuple of GateResult
        One for each engine that judged.
    golden_difference : float
        Largest difference of a probability on the golden set.
    golden_flips : int
        Calls that changed on the golden set.
    tolerance : float or None
        Tolerance of int8 executions, where int8 was admitted.
    graphs : tuple of str
        Int8 files that the bundle now has.
    sample : tuple of str
        Calibration cells.
    sample_patients : tuple of str
        Whose cells these are.
    refused : tuple of RefusedCell
        Cells that took no part.
    operating_point : OperatingPoint or None
        The threshold, where one was asked for.
    scores : tuple of Scores
        The vote of parent and int8 on the gate's cells.
    recipe : QuantConfig
        How the graph that was judged last was made.
    methods : tuple of MethodRow
        Every one that was tried; none where `config` names the method.
    first_gates : tuple of GateResult
        The gate's results of the graph before layers were left in fp32; none where none were.
    search : SearchReport or None
        Which layers were left in fp32; None without a search.
    int8_share : float
        Share of the multiply-adds of all layers that can be int8 which is.
    config : CalibrationConfig
        The configuration, as the TOML file gave it.
    folds : int
        Folds of a cross validation, whose ensembles judged; 0: the bundle's own held-out patients did.
    """

    bundle: str
    digest: Digest
    admitted: bool
    failures: tuple[str, ...]
    gates: tuple[GateResult, ...] = Field(min_length=1)
    golden_difference: float
    golden_flips: int
    tolerance: float | None
    graphs: tuple[str, ...]
    sample: tuple[str, ...]
    sample_patients: tuple[str, ...]
    refused: tuple[RefusedCell, ...]
    operating_point: OperatingPoint | None
    scores: tuple[Scores, ...]
    recipe: QuantConfig
    methods: tuple[MethodRow, ...]
    first_gates: tuple[GateResult, ...]
    search: SearchReport | None
    int8_share: float
    config: CalibrationConfig
    folds: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 1 where the gate refused."""
        return 0 if self.admitted else 1

    def text(self) -> str:
        """The report for people."""
        gate, patients = self.gates[0], len(self.sample_patients)
        part, judged = "validation", f"{gate.cells} other cells of {gate.patients} validation patients"
        if self.folds:
            part = "training"
            judged = f"{gate.cells} cells of {gate.patients} patients, each held out of one of {self.folds} folds' ensembles"
        lines = [
            f"int8 {'admitted' if self.admitted else 'refused'}: {self.bundle}",
            f"  calibrated on   {len(self.sample)} cells of {patients} {part} patients ({self.recipe.name})",
            f"  judged on       {judged}",
            *self._method_lines(),
            *(line for gate in self.gates for line in _gate_lines(gate)),
            *self._search_lines(),
            f"  golden set      {self.golden_flips} calls changed, probabilities by at most {self.golden_difference:.3f}",
        ]
        if self.tolerance is not None:
            lines.append(f"  tolerance       {self.tolerance:.3f} of a probability")
        if self.operating_point:
            point = self.operating_point
            rates = f"sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f}"
            lines.append(f"  operating point {point.threshold:.4f}: {rates}")
        lines += [f"  failed          {failure}" for failure in self.failures]
        lines += [f"  left out        {cell.file}: {cell.reason}" for cell in self.refused]
        return "\n".join(lines)

    def _method_lines(self) -> list[str]:
        lines = []
        for row in self.methods:
            name = f"{row.recipe.name}{' (taken)' if row.chosen else ''}"
            lines.append(f"{'':18}{name:<44}{_distance(row.distance)}")
        return [f"  methods tried   {lines[0].strip()}", *lines[1:]] if lines else []

    def _search_lines(self) -> list[str]:
        if self.search is None:
            floats = ", ".join(self.recipe.floats)
            return [f"  stay fp32       {floats}; {100 * self.int8_share:.1f} % of the work in int8"] if floats else []
        lines = [line for gate in self.first_gates for line in _gate_lines(gate)[:2]]
        lines = ["  before that, all in int8:", *lines] if lines else []
        lines.append(f"  layers searched on {self.search.cells} cells that don't judge, until {WHY[self.search.stopped]}:")
        for step in self.search.path:
            layers = f"{step.deed} {step.layers[0] if step.layers else 'int8'}"
            layers += f" to {step.layers[-1]}" if len(step.layers) > 1 else ""
            lines.append(f"    {layers:<42}{_distance(step.distance)}, {100 * step.int8_share:.1f} % of the work in int8")
        if self.recipe.floats:
            taken = "" if self.search.passed else "; of the graphs on the way the one that drifts least"
            lines.append(f"  taken           {100 * self.int8_share:.1f} % of the work in int8{taken}")
            lines.append(f"  stay fp32       {', '.join(self.recipe.floats)}")
        return lines


def _distance(found: QuantisationDrift) -> str:
    return f"{100 * found.flip_rate:5.2f} % flipped, F1 {0 - found.f1_drop_points:+.2f}, drift {found.drift:.4f}"


def _gate_lines(gate: GateResult) -> tuple[str, ...]:
    patients = (f"{'':18}{gate.patient_flip_rate.percent()} of patients called otherwise",) if gate.patient_flip_rate else ()
    return (
        f"  in {gate.engine:<12} {gate.flip_rate.percent()} of votes flipped, at most {100 * gate.max_flip_rate:g} % may",
        f"{'':18}{gate.f1_drop_points:.2f} points of weighted F1 lost, at most {gate.max_f1_drop_points:g}",
        *patients,
    )


@dataclass(frozen=True)
class CalibrationResult:
    """A finished calibration, before the bundle is changed. The entries are the int8 graphs with the files they lie in.

    Attributes
    ----------
    bundle : Bundle
        The bundle before the change.
    sample : CroppedCells
        The calibration cells.
    trial : Trial
        What the gate found.
    first : Trial or None
        Before layers were left in fp32.
    entries : tuple of (GraphEntry, Path)
        The int8 graphs with the files they lie in.
    config : CalibrationConfig
        The configuration, as the TOML file gave it.
    recipe : QuantConfig
        How the int8 graph was made.
    methods : tuple of MethodRow
        Every configuration that was tried.
    search : SearchReport or None
        Which layers were left in fp32; None without a search.
    int8_share : float
        The int8 layers' share of the multiply-adds of all layers that can be int8.
    folds : int
        Folds whose ensembles judged in place of the bundle's own held-out patients; 0: none.
    """

    bundle: Bundle
    sample: CroppedCells
    trial: Trial
    first: Trial | None
    entries: tuple[tuple[GraphEntry, Path], ...]
    config: CalibrationConfig
    recipe: QuantConfig
    methods: tuple[MethodRow, ...]
    search: SearchReport | None
    int8_share: float = 1.0
    folds: int = 0

    @property
    def admitted(self) -> bool:
        """Whether the graph comes into the bundle."""
        return not self.trial.failures

    def apply(self) -> Bundle:
        """Writes what changes into the bundle, and returns it."""
        before = self.bundle.manifest
        changes: dict[str, object] = {}
        added: dict[str, Path | bytes] = {}
        if self.admitted:
            kept = tuple(entry for entry in before.graphs if entry.precision != "int8")
            patients = before.training.patients.model_copy(update={"calibration": self._patients()})
            changes = {
                "graphs": kept + tuple(entry for entry, _ in self.entries),
                "training": before.training.model_copy(update={"patients": patients}),
                "calibration": self._provenance(),
                "scores": self.trial.scores,
                "cascade": None if _judged_on_int8(before) else before.cascade,
            }
            added = {entry.file: path for entry, path in self.entries}
        if self.config.operating_point:
            changes["operating_point"] = self.trial.operating_point(self.config.operating_point.sensitivity)
            changes["cascade"] = None  # it was judged by other calls
        if not changes:
            return self.bundle
        changes["format"] = FORMAT
        # built anew, not copied: a copy isn't checked
        manifest = Manifest.model_validate({**before.model_dump(), **_dumped(before.model_copy(update=changes), changes)})
        return update_bundle(self.bundle, manifest, added)

    def report(self, after: Bundle) -> CalibrationReport:
        """The report, for the bundle as it is now, `after`."""
        trial = self.trial
        refused = (*self.sample.refused, *trial.worst.judged.refused)
        return CalibrationReport(
            bundle=str(after.path),
            digest=after.digest,
            admitted=self.admitted,
            failures=trial.failures,
            gates=tuple(result.gate for result in trial.results),
            golden_difference=trial.golden_difference,
            golden_flips=trial.golden_flips,
            tolerance=trial.tolerance if self.admitted else None,
            graphs=tuple(entry.file for entry in after.manifest.graphs if entry.precision == "int8"),
            sample=tuple(cell.path.name for cell in self.sample.cells),
            sample_patients=self._patients(),
            refused=tuple(RefusedCell(file=cell.path.name, reason=reason) for cell, reason in refused),
            operating_point=after.manifest.operating_point,
            scores=trial.scores,
            recipe=self.recipe,
            methods=self.methods,
            first_gates=tuple(result.gate for result in self.first.results) if self.first else (),
            search=self.search,
            int8_share=self.int8_share,
            config=self.config,
            folds=self.folds,
        )

    def _patients(self) -> tuple[str, ...]:
        return tuple(sorted({cell.patient for cell in self.sample.cells}))

    def _provenance(self) -> CalibrationProvenance:
        digests = "".join(f"{cell.sha256}\n" for cell in self.sample.cells)
        return CalibrationProvenance(
            method=self.recipe.method,
            corrected=self.recipe.corrected,
            equalised=self.recipe.equalised,
            floats=self.recipe.floats,
            int8_share=self.int8_share,
            cells=tuple(cell.path.name for cell in self.sample.cells),
            cells_sha256=bytes_sha256(digests.encode()),
            seed=self.config.seed,
            versions={name: importlib.metadata.version(name) for name in LIBRARIES},
        )


def int8_entry(parent: GraphEntry, path: Path, trial: Trial) -> tuple[GraphEntry, Path]:
    """The manifest's entry for the int8 graph in `path`, made from `parent`."""
    file = describe_file(path, f"int8/{parent.models}.onnx")
    read_graph(path, file.sha256, models=parent.models)  # what the runtime would refuse is told here
    entry = GraphEntry(
        **file.model_dump(),
        models=parent.models,
        precision="int8",
        parent=parent.sha256,
        tolerances={"int8": trial.tolerance},
        passes=parent.passes,
        gate=trial.worst.gate if parent.models == "ensemble" else None,
    )
    return entry, path


def _judged_on_int8(manifest: Manifest) -> bool:
    """Whether there is a cascade that a new int8 graph makes void."""
    return manifest.cascade is not None and manifest.cascade.precision == "int8"


def _dumped(changed: Manifest, changes: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in changed.model_dump().items() if key in changes}
