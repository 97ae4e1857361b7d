"""`export_run`: a training run in, a bundle with fp32 and fp16 graphs out.

`choose_golden` chooses crops with both calls, none near a tie, since every engine must call them as PyTorch did.

`parity_crops` gives the crops that graphs are compared on: validation cells where they are at hand, else synthetic cells.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.calibrate import check_writable
from blastscope.calibration.calibration_data import choose_calibration_cells, crop_cells, log_dataset_mismatch
from blastscope.calibration.evaluation import signed_vote_margins
from blastscope.export.onnx_export import make_graph
from blastscope.export.onnx_writer import ExportConfig, GraphFile, export_graphs
from blastscope.export.parity import require_finite_layers, torch_outputs
from blastscope.runtime.bundle import Bundle, describe_file, golden_bytes, write_bundle
from blastscope.runtime.bundle.archive import check_bundle_place
from blastscope.runtime.bundle.golden import Golden
from blastscope.runtime.bundle.manifest import GoldenEntry, GraphModels, Manifest
from blastscope.runtime.bundle.model_card import CARD_FILE
from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import CLASSES, VOTERS
from blastscope.train.ensemble_checkpoint import RunProvenance, TrainedEnsemble, load_ensemble
from blastscope.train.uncertainty import FILE as UNCERTAINTY_FILE
from blastscope.train.uncertainty import read_uncertainty

logger = logging.getLogger(__name__)

GOLDEN_FILE = "golden.safetensors"
CLEAR_MARGIN = 1.0  # logit units; bf16 moves a margin of a trained ensemble by 0.1 or so, int8 by a few tenths
GOLDEN_CANDIDATES = 96  # crops among which the golden set is chosen


def export_run(run: Path, out: Path, *, data: Path | None = None, config: ExportConfig | None = None) -> Bundle:
    """The bundle of a trained ensemble, each graph checked against PyTorch. Each step is logged.

    Parameters
    ----------
    run : Path
        Folder of the run.
    out : Path
        Where the bundle goes.
    data : Path, optional
        Folder of C-NMC cells: golden set and check are made on validation cells found there. On synthetic cells without it,
        when the configuration asks for it, and when the run kept no cells for validation.
    config : ExportConfig, optional
        Which graphs, and how.

    Returns
    -------
    Bundle

    Raises
    ------
    DataError
        A run or data that don't serve.
    EngineError
        A graph and PyTorch disagree.
    """
    config = config or ExportConfig()
    check_bundle_place(Path(out))
    check_writable(Path(out))
    trained = load_ensemble(run)
    uncertainty = _uncertainty(Path(run), trained.provenance)
    if uncertainty:
        trained.ensemble.divide_margins(uncertainty.temperature)
    checked = parity_crops(trained, data, config)
    require_finite_layers(make_graph(trained.ensemble, "ensemble"), checked.crops[: config.parity_cells])
    answers, novelty = torch_outputs(make_graph(trained.ensemble, "ensemble"), checked.crops)
    where = Path(run) if data is None else Path(data)
    golden = choose_golden(checked.crops, answers, novelty, count=config.golden_cells, seed=config.seed, source=where)
    models: tuple[GraphModels, ...] = ("ensemble",) if config.fused_only else ("ensemble", *VOTERS)
    with TemporaryDirectory(prefix="blastscope-") as folder:
        files: list[GraphFile] = []
        for name in models:
            logger.info("exporting %s", name)
            files += export_graphs(trained.ensemble, name, checked.crops[: config.parity_cells], Path(folder), config)
        manifest = Manifest(
            name=config.name or resolved(Path(run)).name[:80] or "run",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            backbone=trained.config.network.backbone,
            crop=trained.config.crop,
            graphs=tuple(file.entry for file in files),
            golden=golden_entry(golden, checked.source),
            training=trained.provenance.for_manifest(),
            uncertainty=uncertainty,
            measures_novelty=novelty is not None,
            card=describe_file(b"", CARD_FILE),
        )
        return write_export_bundle(Path(out), manifest, files, golden)


def _uncertainty(run: Path, trained: RunProvenance) -> Uncertainty | None:
    """Raises `DataError` for a file that was measured on other networks than this run's."""
    path = run / UNCERTAINTY_FILE
    if not path.is_file():
        return None
    found = read_uncertainty(path)
    if not found.fits(trained.config, trained.data_sha256 or ""):
        raise DataError(path, "was measured by another recipe or on other cells than this run's: delete it, or train anew")
    return found.uncertainty


def golden_entry(golden: Golden, source: Literal["drawn", "validation"]) -> GoldenEntry:
    """The manifest's entry of `golden`."""
    return GoldenEntry(**describe_file(golden_bytes(golden), GOLDEN_FILE).model_dump(), count=len(golden.crops), source=source)


def write_export_bundle(out: Path, manifest: Manifest, files: list[GraphFile], golden: Golden) -> Bundle:
    """Writes the bundle of `files` and `golden` at `out`."""
    sources: dict[str, Path | bytes] = {file.entry.file: file.path for file in files}
    return write_bundle(out, manifest, {**sources, manifest.golden.file: golden_bytes(golden)})


def choose_golden(
    crops: NDArray[np.uint8],
    answers: NDArray[np.float32],
    novelty: NDArray[np.float32] | None = None,
    *,
    count: int,
    seed: int,
    source: Path,
) -> Golden:
    """The golden set, half of each call where enough are clear.

    Drawn among the clear half of each call, and not its clearest: probabilities of exactly 1.0 would hide a wrong engine.

    Parameters
    ----------
    crops : (N, S, S, 3) uint8 array
        To choose from, RGB.
    answers : (N, 3, 2) float32 array
        The networks' probabilities of them.
    novelty : (N,) float32 array, optional
        The networks' novelty of them.
    count : int
        How many are chosen.
    seed : int
        Of the choice.
    source : Path
        Where the crops come from, for the error.

    Returns
    -------
    Golden

    Raises
    ------
    DataError
        All cells get one call.
    """
    margins = signed_vote_margins(answers)
    rng = np.random.default_rng([seed, 3])
    sides = [np.flatnonzero(margins < 0), np.flatnonzero(margins >= 0)]
    if not all(len(side) for side in sides):
        only = CLASSES[int(len(sides[1]) > 0)]
        raise DataError(source, f"the ensemble calls all {len(crops)} cells '{only}': a golden set needs both calls")
    wanted = _shares([_clear_count(side, margins) for side in sides], [len(side) for side in sides], count)
    rows = np.concatenate([_choose_clear_rows(side, margins, want, rng) for side, want in zip(sides, wanted, strict=True)])
    rows.sort()
    distances = None if novelty is None else np.ascontiguousarray(novelty[rows])
    return Golden(np.ascontiguousarray(crops[rows]), np.ascontiguousarray(answers[rows]), distances)


def _clear_count(side: NDArray[np.int64], margins: NDArray[np.float64]) -> int:
    return int((np.abs(margins[side]) >= CLEAR_MARGIN).sum())


def _shares(clear: Sequence[int], available: Sequence[int], count: int) -> list[int]:
    """How many cells of each call are chosen: half of `count`, but clear cells of one call before unclear ones of the other."""
    shares = [1, 1]
    for limits in (clear, available):
        while sum(shares) < count and any(share < limit for share, limit in zip(shares, limits, strict=True)):
            open_sides = [side for side in (0, 1) if shares[side] < limits[side]]
            shares[min(open_sides, key=lambda side: shares[side])] += 1
    return shares


def _choose_clear_rows(
    side: NDArray[np.int64], margins: NDArray[np.float64], want: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    by_margin = side[np.argsort(-np.abs(margins[side]), kind="stable")]
    pool = by_margin[: max(min(_clear_count(side, margins), (len(side) + 1) // 2), want)]
    return rng.choice(pool, size=min(want, len(pool)), replace=False)


@dataclass(frozen=True, slots=True)
class ParityCrops:
    """Crops, and where they come from.

    Attributes
    ----------
    crops : ndarray of uint8
        Shape (N, S, S, 3), uint8, RGB.
    source : {'drawn', 'validation'}
        Drawn, or cells of the validation part.
    """

    crops: NDArray[np.uint8]
    source: Literal["drawn", "validation"]


def parity_crops(trained: TrainedEnsemble, data: Path | None, config: ExportConfig) -> ParityCrops:
    """Crops of validation cells found below `data`, or drawn ones when there are none or the configuration asks for them."""
    count = max(GOLDEN_CANDIDATES, config.parity_cells)
    spec = trained.config.crop
    if config.drawn or data is None or not trained.provenance.validation:
        logger.info("drawing cells to check the graphs on")
        return ParityCrops(synthetic_crops(count, spec, config.seed), "drawn")
    logger.info("cropping validation cells of '%s'", data)
    # by name: the patients don't tell the parts apart after a split by image, and the folder may have moved
    names = {Path(cell.file).name for cell in trained.provenance.validation}
    folder = scan_dataset(data)
    log_dataset_mismatch(folder, trained.provenance.data_sha256)
    cells = [cell for cell in folder.cells if cell.path.name in names]
    if len(cells) < len(names):
        logger.info("only %s of the run's %s validation cells are there", len(cells), len(names))
    crops = crop_cells(choose_calibration_cells(cells, count, config.seed), spec).crops
    if not len(crops):
        raise DataError(data, "none of the run's validation cells is here: name the folder that it was trained on")
    return ParityCrops(crops, "validation")


def synthetic_crops(count: int, spec: CropSpecification, seed: int) -> NDArray[np.uint8]:
    """(count, S, S, 3) crops of drawn cells, normal ones and blasts in turn."""
    crops = [crop_cell(cell.image, spec) for cell in synthetic_cells(count, seed)]
    return np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)])
