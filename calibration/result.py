"""Applies the result of a calibration to the bundle, and writes its report."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from blastscope.calibration.acceptance.mixed_precision_search import SearchReport
from blastscope.calibration.acceptance.trial import Trial
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.calibration_data import CroppedCells
from blastscope.calibration.quantisation.quantizer import MethodRow, QuantConfig
from blastscope.calibration.report import CalibrationReport, RefusedCell
from blastscope.runtime.bundle import FORMAT, Bundle, describe_file, update_bundle
from blastscope.runtime.bundle.graphs import read_graph
from blastscope.runtime.bundle.manifest import CalibrationProvenance, GraphEntry, Manifest
from blastscope.runtime.io.hashing import bytes_sha256

LIBRARIES = ("onnx", "onnxruntime", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class CalibrationResult:
    """A finished calibration, before the bundle is changed. The entries are the int8 graphs with the files they lie in."""

    bundle: Bundle
    sample: CroppedCells
    trial: Trial
    first: Trial | None  # before layers were left in fp32
    entries: tuple[tuple[GraphEntry, Path], ...]
    config: CalibrationConfig
    recipe: QuantConfig
    methods: tuple[MethodRow, ...]
    search: SearchReport | None
    folds: int = 0  # that judged in place of the bundle's own held-out patients

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
        """The report, the bundle now being `after`."""
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
            int8_share=self._int8_share(),
            config=self.config,
            folds=self.folds,
        )

    def _int8_share(self) -> float:
        return self.search.int8_share if self.search and self.recipe.floats else 1.0

    def _patients(self) -> tuple[str, ...]:
        return tuple(sorted({cell.patient for cell in self.sample.cells}))

    def _provenance(self) -> CalibrationProvenance:
        digests = "".join(f"{cell.sha256}\n" for cell in self.sample.cells)
        return CalibrationProvenance(
            method=self.recipe.method,
            corrected=self.recipe.corrected,
            equalised=self.recipe.equalised,
            floats=self.recipe.floats,
            int8_share=self._int8_share(),
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
