"""Judges an int8 recipe by cross validation, for an ensemble that was trained on all patients and so holds nobody out.

Each fold's ensemble is made int8 by the recipe of the whole one, with ranges from cells that it was trained on, and judged on
the cells of its held-out patients: cells that trained none of its networks, set none of its ranges and chose nothing. Pooled,
each patient's cells are judged once. What is admitted is the recipe; the whole ensemble's int8 graph is made by it, as the
cross validation's scores stand for networks that were trained by the same configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blastscope.calibration.acceptance.trial import (
    EngineResult,
    Evaluator,
    PairedPredictions,
    SignedCodes,
    Trial,
    gate,
    open_engines,
)
from blastscope.calibration.calibration_data import CroppedCells, choose_calibration_cells, crop_cells, validation_cells
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.quantizer import Int8Builder, QuantConfig, write_model
from blastscope.runtime.backends.protocol import Backend
from blastscope.runtime.bundle import Bundle, read_bundle, read_golden
from blastscope.runtime.bundle.manifest import Manifest
from blastscope.runtime.errors import BundleError, DataError, MissingLibrary, UsageError
from blastscope.runtime.inference.validation import check_golden
from blastscope.runtime.io.cnmc import Dataset

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

logger = logging.getLogger(__name__)


def read_folds(bundle: Bundle, folder: Path | str) -> tuple[Bundle, ...]:
    """The bundles below `folder`, one a fold of the cross validation that stands for `bundle`.

    Parameters
    ----------
    bundle
        An ensemble that was trained with split = 'none'.
    folder
        Holds a bundle for each fold, exported from the cross validation's runs.

    Returns
    -------
    tuple of Bundle
        By name.

    Raises
    ------
    UsageError
        `bundle` holds patients out itself, or the folds aren't of one cross validation by its configuration over its patients.
    BundleError
        `folder` holds no bundle, a bundle can't be read, or has no fp32 fused graph.
    """
    manifest = bundle.manifest
    if manifest.training.split != "none":
        raise UsageError(f"bundle '{bundle.path}' holds patients out itself: calibrate it without folds")
    places = sorted(path.parent for path in Path(folder).glob("*/manifest.json"))
    if not places:
        raise BundleError(folder, "holds no bundles: export each run of the cross validation into a folder of its own here")
    folds = tuple(read_bundle(place) for place in places)
    for fold in folds:
        if fold.manifest.training.split != "patient":
            raise UsageError(f"fold '{fold.path}' was trained with split = '{fold.manifest.training.split}', not by patient")
        if fold.graph("fp32") is None:
            raise BundleError(fold.path, "no fp32 fused graph to make int8 from: export with fp32")
        if (other := _first_difference(manifest, fold.manifest)) is not None:
            raise UsageError(f"fold '{fold.path}' has another {other} than '{bundle.path}', and can't stand for it")
    held_out = sorted(name for fold in folds for name in fold.manifest.training.patients.validation)
    if held_out != sorted(manifest.training.patients.training):
        raise UsageError(
            f"the bundles in '{folder}' must hold out each patient of '{bundle.path}' once: some are missing or twice"
        )
    return folds


def _first_difference(one: Manifest, other: Manifest) -> str | None:
    """What tells the recipes of two ensembles apart, but for the part of the patients that they hold out."""
    pairs: dict[str, tuple[Any, Any]] = {
        "backbone": (one.backbone, other.backbone),
        "crop": (one.crop, other.crop),
        "vote": (one.vote, other.vote),
        "data": (one.training.data_sha256, other.training.data_sha256),
    }
    first, second = ({k: v for k, v in each.training.config.items() if k != "data"} for each in (one, other))
    pairs["configuration"] = (first, second)
    return next((name for name, (left, right) in pairs.items() if left != right), None)


def training_sample(bundle: Bundle, folder: Dataset, config: CalibrationConfig) -> CroppedCells:
    """Cells of the patients that `bundle` was trained on, balanced over classes and patients, with their crops.

    Raises
    ------
    DataError
        `folder` has none of them, or the crop refuses all.
    """
    trained = set(bundle.manifest.training.patients.training)
    chosen = choose_calibration_cells([cell for cell in folder.cells if cell.patient in trained], config.cells, config.seed)
    sample = crop_cells(chosen, bundle.manifest.crop)
    if not sample.cells:
        raise DataError(folder.root, f"no cell of the patients that '{bundle.path}' was trained on can calibrate")
    return sample


def evaluate_folds(
    folds: Sequence[Bundle], folder: Dataset, recipe: QuantConfig, config: CalibrationConfig, *, place: Path
) -> tuple[PairedPredictions, ...]:
    """The predictions of every fold's fp32 and int8 graph on its held-out patients' cells, pooled, for each available engine.

    Parameters
    ----------
    folds
        As `read_folds` gives them.
    folder
        The cells that they were trained on.
    recipe
        How each is made int8.
    config
        Of the calibration.
    place
        A folder for the int8 graphs.

    Returns
    -------
    tuple of PairedPredictions
        One for each engine.
    """
    by_engine: dict[str, list[PairedPredictions]] = {}
    for number, fold in enumerate(folds, 1):
        parent = fold.graph("fp32")
        assert parent is not None  # read_folds looked
        held_out = validation_cells(folder, fold.manifest.training)
        logger.info(
            "fold %s of %s: calibrating, then judging on %s cells of held-out patients", number, len(folds), len(held_out)
        )
        sample = training_sample(fold, folder, config)
        builder = Int8Builder(
            onnx.load_model_from_string(fold.read(parent)), sample.crops, config, histograms=recipe.method != "minmax"
        )
        child = place / f"fold-{number}.onnx"
        write_model(builder.build(recipe), child)
        for result in Evaluator(fold, held_out, config).evaluate(child).results:
            by_engine.setdefault(result.judged.engine, []).append(result.judged)
    return tuple(_pooled(parts) for parts in by_engine.values())


def _pooled(parts: Sequence[PairedPredictions]) -> PairedPredictions:
    return PairedPredictions(
        cells=tuple(cell for part in parts for cell in part.cells),
        parent=np.concatenate([part.parent for part in parts]),
        child=np.concatenate([part.child for part in parts]),
        refused=tuple(refusal for part in parts for refusal in part.refused),
        engine=parts[0].engine,
    )


def fold_trial(
    bundle: Bundle, child: Path, judge: Callable[[], tuple[PairedPredictions, ...]], config: CalibrationConfig
) -> Trial:
    """The trial of the whole ensemble's int8 graph `child`: gates over all folds' held-out patients, its own golden set.

    Parameters
    ----------
    bundle
        The whole ensemble.
    child
        Its int8 graph.
    judge
        Gives what `evaluate_folds` gives.
    config
        With the gate's limits.

    Returns
    -------
    Trial
    """
    golden = read_golden(bundle)
    with open_engines(child, "int8") as found:
        engines: dict[str, Backend] = {**found, SignedCodes.name: SignedCodes(child)}
        checks = {name: check_golden(engine, golden, tolerance=1.0) for name, engine in engines.items()}
    results = [EngineResult(one, gate(one, config), checks[one.engine]) for one in judge()]
    return Trial(tuple(results), config.draws)
