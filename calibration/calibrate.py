"""`calibrate`: a bundle and a folder of cells in; int8 graphs, if the gate lets them, and a report out.

`open_writable_bundle` checks that the bundle can be changed before an hour of work goes into the change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.acceptance.mixed_precision_search import Search, SearchReport, mac_shares
from blastscope.calibration.acceptance.trial import Evaluator, PairedPredictions, Trial
from blastscope.calibration.calibration_data import (
    CroppedCells,
    choose_calibration_cells,
    crop_cells,
    drop_rows,
    log_dataset_mismatch,
    merge_cells,
    named_cells,
    validation_cells,
)
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import DriftMetric
from blastscope.calibration.fold_gate import evaluate_folds, fold_trial, read_folds, training_sample
from blastscope.calibration.quantisation.quantizer import (
    Int8Builder,
    MethodRow,
    QuantConfig,
    choose_method,
    default_quant_config,
    make_int8,
    matching_layers,
    write_model,
)
from blastscope.calibration.result import CalibrationReport, CalibrationResult, int8_entry
from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.bundle.graphs.reading import bad_weight, check_weights
from blastscope.runtime.bundle.manifest import GraphEntry
from blastscope.runtime.bundle.opening import check_changeable
from blastscope.runtime.errors import BundleError, DataError, DeviceError, EngineError, MissingLibrary, UsageError
from blastscope.runtime.io.atomic import check_place
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry, scan_dataset
from blastscope.runtime.io.cpu_info import int8_sums_overflow
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.temporary_file import sibling

logger = logging.getLogger(__name__)

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx and onnxruntime", "export") from error
load_onnxruntime("export")  # its absence is told now, and not after the cells were read

SEARCHED = 4  # at most one of so many cells that set no range is kept from the gate


def calibrate(
    bundle: Path | str,
    data: Path | str,
    config: CalibrationConfig | None = None,
    *,
    folds: Path | str | None = None,
) -> CalibrationReport:
    """Makes int8 graphs for the bundle in the folder `bundle` from cells below `data`, and admits them if the gate holds.

    Some validation cells set the ranges, others choose the method, and the rest judge. Where they refuse the graph, the layers
    that cost most stay fp32, and they judge once more. An ensemble that was trained on all patients has no such cells: with
    `folds` its cross validation's ensembles judge (calibration/fold_gate.py), and method and layers are those that `config`
    names. The bundle is changed in one step; a refused int8 leaves its graphs as they were.

    Parameters
    ----------
    bundle
        Folder of the bundle.
    data
        Folder of the cells that it was trained on.
    config
        How int8 is made and what the gate admits.
    folds
        Folder with a bundle for each fold of the cross validation; None: the bundle's own held-out patients judge.

    Returns
    -------
    CalibrationReport

    Raises
    ------
    DataError
        `data` lacks what is needed, or `config` names cells that can't calibrate.
    UsageError
        `config` leaves no cell to judge, or `folds` don't stand for the bundle.
    BundleError
        A bundle has no fp32 fused graph.
    DeviceError
        This CPU can't compute the weights that `config` wants.
    """
    config = config or CalibrationConfig()
    if config.weight_bits == 8 and int8_sums_overflow():
        raise DeviceError(
            "weights of 8 bits can't be judged on this CPU, which has no VNNI and would compute them wrongly: "
            "take weight_bits = 7, or calibrate on a machine with VNNI"
        )
    source = open_writable_bundle(bundle)
    fused = source.graph("fp32")
    if fused is None:
        raise BundleError(bundle, "no fp32 fused graph to make int8 from: export with fp32")
    for entry in source.manifest.graphs:
        check_weights(source, entry)
    parts = read_folds(source, folds) if folds else ()
    split = _trained_cells(source, data, config) if parts else _split_cells(source, data, config)
    logger.info("measuring ranges on %s cells", len(split.sample.cells))
    model = onnx.load_model_from_string(source.read(fused))
    builder = Int8Builder(model, split.sample.crops, config, histograms=config.method != "minmax")
    with TemporaryDirectory(prefix="blastscope-") as place:
        if parts:
            candidate = _candidate_by_folds(source, parts, builder, scan_dataset(data), Path(place))
        else:
            candidate = _make_candidate(source, builder, split, config, Path(place))
        entries = [int8_entry(fused, candidate.child, candidate.trial)]
        if not candidate.trial.failures:
            entries += _single_models(source, builder, split.sample.crops, candidate, Path(place))
        outcome = CalibrationResult(
            bundle=source,
            sample=drop_rows(split.sample, builder.refused),
            trial=candidate.trial,
            first=candidate.first,
            entries=tuple(entries),
            config=config,
            recipe=candidate.recipe,
            methods=candidate.methods,
            search=candidate.search,
            int8_share=1 - sum(share for name, share in mac_shares(builder).items() if name in candidate.recipe.floats),
            folds=len(parts),
        )
        return outcome.report(outcome.apply())


def _single_models(
    bundle: Bundle, builder: Int8Builder, crops: NDArray[np.uint8], candidate: _Candidate, place: Path
) -> Iterator[tuple[GraphEntry, Path]]:
    """The int8 graphs of the voters alone, by the recipe that was admitted, with their entries."""
    for entry in bundle.manifest.graphs:
        if entry.precision == "fp32" and entry.models != "ensemble":
            logger.info("quantising '%s'", entry.models)
            single = place / f"{entry.models}.onnx"
            parent = onnx.load_model_from_string(bundle.read(entry))
            floats = matching_layers(builder.model, candidate.recipe.floats, parent)
            recipe = candidate.recipe.model_copy(update={"floats": floats})
            make_int8(bundle.file(entry), single, crops, builder.config, recipe=recipe)
            require_finite_weights(single)
            yield int8_entry(entry, single, candidate.trial)


def require_finite_weights(graph: Path) -> None:
    """Raises `EngineError` where a weight of the graph file is NaN or infinite."""
    if (name := bad_weight(graph.read_bytes())) is not None:
        raise EngineError(f"the int8 graph's '{name}' holds what is not a number")


@dataclass(frozen=True)
class _CellSplit:
    """Validation cells by their part in the calibration; no cell has two.

    Attributes
    ----------
    sample : CroppedCells
        Set the ranges.
    search : CroppedCells
        Choose the method.
    gate : tuple of DatasetEntry
        Judge the graph.
    """

    sample: CroppedCells
    search: CroppedCells
    gate: tuple[DatasetEntry, ...]


@dataclass(frozen=True)
class _Candidate:
    """An int8 fused graph that was judged, and how it was made.

    Attributes
    ----------
    child : Path
        The int8 graph.
    recipe : QuantConfig
        How it was made.
    trial : Trial
        The figures that the gate judges.
    first : Trial or None
        Those before layers went back to fp32; None where none did.
    methods : tuple of MethodRow
        What was measured to choose the method.
    search : SearchReport or None
        The steps of the search for these layers; None without a search.
    """

    child: Path
    recipe: QuantConfig
    trial: Trial
    first: Trial | None
    methods: tuple[MethodRow, ...]
    search: SearchReport | None


def _split_cells(bundle: Bundle, data: Path | str, config: CalibrationConfig) -> _CellSplit:
    logger.info("looking for validation cells below '%s'", data)
    folder, training, spec = scan_dataset(data), bundle.manifest.training, bundle.manifest.crop
    log_dataset_mismatch(folder, training.data_sha256)
    known = validation_cells(folder, training)
    chosen = (
        named_cells(known, config.files, folder, training)
        if config.files
        else choose_calibration_cells(known, config.cells, config.seed)
    )
    sample = crop_cells(chosen, spec)
    if not sample.cells:
        raise DataError(data, f"the crop refuses every calibration cell, the first as {sample.refused[0][1]}")
    rest = sorted(set(known) - set(chosen), key=lambda cell: cell.sha256)
    if not rest:
        raise UsageError(f"no validation cells are left to judge int8: calibrate on fewer than {len(known)}")
    wanted = min(config.search_cells, len(rest) // SEARCHED) if config.method == "auto" else 0
    search = choose_calibration_cells(rest, wanted, config.seed)
    return _CellSplit(sample, crop_cells(search, spec), tuple(cell for cell in rest if cell not in set(search)))


def _trained_cells(bundle: Bundle, data: Path | str, config: CalibrationConfig) -> _CellSplit:
    """Cells that the bundle was trained on set the ranges; its folds judge."""
    if config.files:
        raise UsageError("'files' names validation cells, and an ensemble with folds has none: leave it out")
    folder = scan_dataset(data)
    log_dataset_mismatch(folder, bundle.manifest.training.data_sha256)
    return _CellSplit(training_sample(bundle, folder, config), crop_cells((), bundle.manifest.crop), ())


def _candidate_by_folds(
    bundle: Bundle, folds: tuple[Bundle, ...], builder: Int8Builder, folder: Dataset, place: Path
) -> _Candidate:
    """Makes the graph by the method that the configuration names, and lets the folds judge it."""
    config, recipe, child = builder.config, default_quant_config(builder.config), place / "ensemble.onnx"
    write_model(builder.build(recipe), child)
    require_finite_weights(child)

    def judge() -> tuple[PairedPredictions, ...]:
        return evaluate_folds(folds, folder, recipe, config, place=place)

    return _Candidate(child, recipe, fold_trial(bundle, child, judge, config), None, (), None)


def _make_candidate(
    bundle: Bundle, builder: Int8Builder, split: _CellSplit, config: CalibrationConfig, folder: Path
) -> _Candidate:
    """Chooses the method, tries the graph, and searches where it fails."""
    recipe, methods = _choose_method(builder, split, config)
    child, evaluator = folder / "ensemble.onnx", Evaluator(bundle, split.gate, config)

    def judged(recipe: QuantConfig) -> Trial:
        write_model(builder.build(recipe), child)
        require_finite_weights(child)
        logger.info("judging int8 on %s other cells in every engine at hand", len(split.gate))
        return evaluator.evaluate(child)

    trial = judged(recipe)
    if config.float_layers or not (trial.failures and config.search):
        return _Candidate(child, recipe, trial, None, methods, None)
    cells = merge_cells(drop_rows(split.sample, builder.refused), split.search)
    logger.info(
        "int8 fails the gate: searching for the layers that cost most, on %s cells that don't judge it", len(cells.cells)
    )
    metric = DriftMetric(builder.model, cells.cells, cells.crops)
    mended, search = Search(builder, metric, config, target_drift_ratio=trial.target_drift_ratio).run(recipe)
    if not mended.floats:
        return _Candidate(child, recipe, trial, None, methods, search)
    return _Candidate(child, mended, judged(mended), trial, methods, search)


def _choose_method(
    builder: Int8Builder, split: _CellSplit, config: CalibrationConfig
) -> tuple[QuantConfig, tuple[MethodRow, ...]]:
    cells = split.search if split.search.cells else split.sample  # where there are too few to keep any apart
    return choose_method(builder, DriftMetric(builder.model, cells.cells, cells.crops), config)


def open_writable_bundle(path: Path | str) -> Bundle:
    """The bundle in the folder `path`. Raises `BundleError`, and `DataError` where nothing can be written beside it."""
    check_changeable(path)
    bundle = read_bundle(path)
    check_writable(Path(path))
    return bundle


def check_writable(folder: Path) -> None:
    """Raises `DataError` where the bundle `folder` can't be written: a changed bundle grows beside it, and takes its place."""
    try:
        check_place(sibling(resolved(folder), "trial"))
    except DataError as error:
        raise DataError(folder, error.problem) from error  # nobody knows the trial
