"""`calibrate`: a bundle and a folder of cells in; int8 graphs, if the gate lets them, and a report out."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.int8_file import make_int8
from blastscope.calibration.report import CalibrationReport, RefusedCell
from blastscope.calibration.sample import CroppedCells, choose_cells, crop_cells, named_cells, validation_cells, without
from blastscope.calibration.trial import Trial, try_out
from blastscope.runtime.bundle import FORMAT, Bundle, describe_file, read_bundle, update_bundle
from blastscope.runtime.bundle.digest import bytes_sha256
from blastscope.runtime.bundle.manifest import CalibrationProvenance, GraphEntry, Manifest
from blastscope.runtime.cells import find_cells
from blastscope.runtime.errors import BundleError, DataError

LIBRARIES = ("onnx", "onnxruntime", "numpy", "opencv-python-headless")

Tell = Callable[[str], None]


def calibrate(
    bundle: Path | str, data: Path | str, config: CalibrationConfig | None = None, *, tell: Tell | None = None
) -> CalibrationReport:
    """Makes int8 graphs for the bundle in the folder `bundle` from cells below `data`, and admits them if the gate holds.

    The bundle is changed in one step; a refused int8 leaves its graphs as they were. Raises `DataError` where `data` lacks what
    is needed or `config` names cells that can't calibrate, `BundleError` for a bundle without an fp32 fused graph.
    """
    config, say = config or CalibrationConfig(), tell or (lambda _: None)
    if not Path(bundle).is_dir():
        raise BundleError(bundle, "not a folder: a zip can't be changed, unpack it and pack it again afterwards")
    opened = read_bundle(bundle)
    fused = opened.graph("fp32")
    if fused is None:
        raise BundleError(bundle, "no fp32 fused graph to make int8 from: export with fp32")
    say(f"looking for validation cells below '{data}'")
    folder, training = find_cells(data), opened.manifest.training
    known = validation_cells(folder, training)
    chosen = (
        named_cells(known, config.files, folder, training) if config.files else choose_cells(known, config.cells, config.seed)
    )
    sample = crop_cells(chosen, opened.manifest.crop)
    if not sample.cells:
        raise DataError(data, f"the crop refuses every calibration cell, the first as {sample.refused[0][1]}")
    rest = sorted(set(known) - set(chosen), key=lambda cell: cell.sha256)
    with TemporaryDirectory(prefix="blastscope-") as place:
        say(f"measuring ranges on {len(sample.cells)} cells")
        child = Path(place) / "fused.onnx"
        sample = without(sample, make_int8(opened.file(fused), child, sample.crops, config))
        say(f"judging int8 on {len(rest)} other cells in every engine at hand")
        trial = try_out(opened, child, rest, config)
        made = [_entry(fused, child, trial)]
        for entry in opened.manifest.graphs if not trial.failures else ():
            if entry.precision == "fp32" and entry.models != "fused":
                say(f"quantising '{entry.models}'")
                single = Path(place) / f"{entry.models}.onnx"
                make_int8(opened.file(entry), single, sample.crops, config)
                made.append(_entry(entry, single, trial))
        outcome = _Outcome(opened, sample, trial, tuple(made), config)
        return outcome.report(outcome.settle())


@dataclass(frozen=True)
class _Outcome:
    """A finished calibration, before the bundle is changed."""

    bundle: Bundle
    sample: CroppedCells
    trial: Trial
    made: tuple[tuple[GraphEntry, Path], ...]
    config: CalibrationConfig

    @property
    def admitted(self) -> bool:
        return not self.trial.failures

    def settle(self) -> Bundle:
        """The bundle as it is from now on."""
        before = self.bundle.manifest
        changes: dict[str, object] = {}
        added: dict[str, Path | bytes] = {}
        if self.admitted:
            kept = tuple(entry for entry in before.graphs if entry.precision != "int8")
            patients = before.training.patients.model_copy(update={"calibration": self._patients()})
            changes = {
                "graphs": kept + tuple(entry for entry, _ in self.made),
                "training": before.training.model_copy(update={"patients": patients}),
                "calibration": self._provenance(),
                "scores": self.trial.scores,
                "cascade": None if _judged_on_int8(before) else before.cascade,
            }
            added = {entry.file: path for entry, path in self.made}
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
        """What there is to say, the bundle now being `after`."""
        trial = self.trial
        refused = (*self.sample.refused, *trial.worst.judged.refused)
        return CalibrationReport(
            bundle=str(after.path),
            digest=after.digest,
            admitted=self.admitted,
            failures=trial.failures,
            gates=tuple(verdict.gate for verdict in trial.verdicts),
            golden_difference=trial.golden_difference,
            golden_flips=trial.golden_flips,
            tolerance=trial.tolerance if self.admitted else None,
            graphs=tuple(entry.file for entry in after.manifest.graphs if entry.precision == "int8"),
            sample=tuple(cell.path.name for cell in self.sample.cells),
            sample_patients=self._patients(),
            refused=tuple(RefusedCell(file=cell.path.name, reason=reason) for cell, reason in refused),
            operating_point=after.manifest.operating_point,
            scores=trial.scores,
            config=self.config,
        )

    def _patients(self) -> tuple[str, ...]:
        return tuple(sorted({cell.patient for cell in self.sample.cells}))

    def _provenance(self) -> CalibrationProvenance:
        digests = "".join(f"{cell.sha256}\n" for cell in self.sample.cells)
        return CalibrationProvenance(
            method=self.config.method,
            cells=tuple(cell.path.name for cell in self.sample.cells),
            cells_sha256=bytes_sha256(digests.encode()),
            seed=self.config.seed,
            versions={name: importlib.metadata.version(name) for name in LIBRARIES},
        )


def _entry(parent: GraphEntry, path: Path, trial: Trial) -> tuple[GraphEntry, Path]:
    entry = GraphEntry(
        **describe_file(path, f"int8/{parent.models}.onnx").model_dump(),
        models=parent.models,
        precision="int8",
        parent=parent.sha256,
        tolerances={"int8": trial.tolerance},
        passes=parent.passes,
        gate=trial.worst.gate if parent.models == "fused" else None,
    )
    return entry, path


def _judged_on_int8(manifest: Manifest) -> bool:
    """Whether there is a cascade that a new int8 graph makes void."""
    return manifest.cascade is not None and manifest.cascade.precision == "int8"


def _dumped(changed: Manifest, changes: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in changed.model_dump().items() if key in changes}
