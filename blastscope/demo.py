"""The demonstration: the whole road in small, where PyTorch is installed, then the shipped bundle on cells.

Its contact sheet shows cells with their calls, for people who would rather look than read.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.people import person_of
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.runtime.types import CLASSES, ClassName, Prediction, Refusal

TILE_PX = 172
TEXT_PX = 50
GAP_PX = 12
MARGIN_PX = 28
HEADER_PX = 74
PAPER, INK, FAINT = "#ffffff", "#1b1f24", "#6a737d"
COLOURS = {"all": "#c2410c", "hem": "#0e5aa7", None: "#6a737d"}  # apart for the colour-blind too
logger = logging.getLogger(__name__)

NEEDED = ("torch", "timm", "lightning_fabric", "onnx", "onnxruntime")
CELLS_OF_A_CLASS = 12
CELLS_OF_A_PATIENT = 12
CONFIG = Path(__file__).with_name("demo.toml")


@dataclass(frozen=True)
class Tile:
    """One cell on the sheet.

    Attributes
    ----------
    image : (H, W, 3) uint8 array
        RGB.
    prediction : Prediction
        What the bundle says.
    truth : {'hem', 'all'} or None
        None where nobody knows it.
    """

    image: NDArray[np.uint8]
    prediction: Prediction
    truth: ClassName | None = None


def draw_sheet(tiles: Sequence[Tile], title: str, *, columns: int = 6) -> Image.Image:
    """The picture of `tiles`, row by row, each framed in the colour of its call."""
    rows = -(-len(tiles) // columns)
    width = 2 * MARGIN_PX + columns * TILE_PX + (columns - 1) * GAP_PX
    height = HEADER_PX + rows * (TILE_PX + TEXT_PX + GAP_PX) + MARGIN_PX // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, 18), title, INK, ImageFont.load_default(19))
    pen.text((MARGIN_PX, 44), summary(tiles), FAINT, ImageFont.load_default(13))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        corner = (MARGIN_PX + column * (TILE_PX + GAP_PX), HEADER_PX + row * (TILE_PX + TEXT_PX + GAP_PX))
        _draw_tile(sheet, pen, tile, corner)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Writes the PNG under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    sheet.save(temporary, format="PNG", optimize=True)
    temporary.replace(path)


def summary(tiles: Sequence[Tile]) -> str:
    """How many were called what, and how many calls are right where the truth is known."""
    labels = [tile.prediction.label for tile in tiles]
    counts = f"{labels.count('all')} called ALL, {labels.count('hem')} called HEM, {labels.count(None)} refused"
    known = [tile for tile in tiles if tile.truth and tile.prediction.label]
    right = sum(tile.truth == tile.prediction.label for tile in known)
    return f"{counts}; {right} of {len(known)} calls agree with the expert" if known else counts


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]) -> None:
    x, y = corner
    colour = COLOURS[tile.prediction.label]
    sheet.paste(Image.fromarray(tile.image).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), corner)
    pen.rectangle((x - 1, y - 1, x + TILE_PX, y + TILE_PX), outline=colour, width=4)
    pen.text((x, y + TILE_PX + 6), _call_text(tile.prediction), colour, ImageFont.load_default(16))
    note, wrong = _note_text(tile)
    pen.text((x, y + TILE_PX + 27), note, COLOURS["all"] if wrong else FAINT, ImageFont.load_default(12))


def _call_text(prediction: Prediction) -> str:
    if prediction.label is None:
        return "refused"
    return f"{prediction.label.upper()}  {prediction.probability:.2f}"


def _note_text(tile: Tile) -> tuple[str, bool]:
    prediction = tile.prediction
    if prediction.refusal:
        return prediction.refusal.code, False
    if tile.truth is None:
        return f"voter {prediction.voter}", False
    wrong = tile.truth != prediction.label
    return f"{prediction.voter}, {'but ' if wrong else ''}expert: {tile.truth.upper()}", wrong


@dataclass(frozen=True)
class Called:
    """One cell of the demonstration with what the expert and the bundle say of it.

    Attributes
    ----------
    cell : DatasetEntry
        With the expert's label.
    prediction : Prediction
        What the bundle says.
    """

    cell: DatasetEntry
    prediction: Prediction


def missing_libraries() -> list[str]:
    """What the first half needs and this installation lacks."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def draw_data(folder: Path) -> Path:
    """Cells that this project draws, in a folder like C-NMC's, for machines without real ones."""
    return write_synthetic_dataset(folder, patients=16, cells_each=CELLS_OF_A_PATIENT, seed=1)


def few_cells(data: Path, folder: Path) -> Path:
    """A folder like C-NMC's with a few cells of each patient of `data`, as links where the system has them."""
    taken: Counter[str] = Counter()
    for cell in scan_dataset(data).cells:
        taken[cell.patient] += 1
        if taken[cell.patient] <= CELLS_OF_A_PATIENT:
            place = folder / "fold_0" / cell.label / cell.path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.symlink_to(resolved(cell.path))
            except OSError:
                shutil.copyfile(cell.path, place)
    return folder


def walk_road(data: Path, out: Path) -> Bundle:
    """Trains a small ensemble for a few steps, exports it, calibrates and verifies it: each step as its verb does it."""
    from blastscope.calibration.calibrate import calibrate
    from blastscope.calibration.compare import compare
    from blastscope.calibration.config import CalibrationConfig
    from blastscope.export.exporter import export_run
    from blastscope.export.onnx_writer import ExportConfig
    from blastscope.train.config import TrainConfig
    from blastscope.train.pipeline import train_ensemble

    logger.info("train: %s, a few steps, to show the way and not to be good", CONFIG.name)
    run = train_ensemble(data, TrainConfig.from_toml(CONFIG), out / "run")
    logger.info("export: fp32 and fp16 graphs, checked against PyTorch")
    bundle = out / "bundle"
    export_run(run, bundle, data=data, config=ExportConfig(name="demo", fused_only=True))
    logger.info("calibrate: int8, if the gate lets it in")
    report = calibrate(bundle, data, CalibrationConfig(cells=32))
    logger.info("%s", report.text())
    logger.info("verify: digests, golden set, every engine here")
    logger.info("%s", compare(read_bundle(bundle), None).text())
    return read_bundle(bundle)


def choose_cells(data: Path, bundle: Bundle, seed: int = 0) -> list[DatasetEntry]:
    """Cells of both classes in turn, of patients that the bundle was not trained on where there are some."""
    folder = scan_dataset(data)
    cells, training = folder.cells, folder.people_of(bundle.manifest.training.patients.training)
    strangers = [cell for cell in cells if cell.person not in training]
    chosen: list[DatasetEntry] = []
    for label in CLASSES:
        of_class = [cell for cell in strangers if cell.label == label] or [cell for cell in cells if cell.label == label]
        chosen += random.Random(seed).sample(of_class, min(CELLS_OF_A_CLASS, len(of_class)))
    return chosen


def known(cells: Sequence[DatasetEntry], bundle: Bundle) -> bool:
    """Whether the bundle's networks were trained on a patient of these cells."""
    training = bundle.manifest.training.patients.training
    return bool({cell.person for cell in cells} & {*training, *map(person_of, training)})


def call(cells: Sequence[DatasetEntry], bundle: Path = SHIPPED_BUNDLE, *, drawn: bool = False) -> list[Called]:
    """The bundle's calls on `cells`; on `drawn` ones too, although they are unlike all of the training's."""
    with open_bundle(bundle, unlike_training="call" if drawn else "refuse") as scope:
        predictions = scope.classify_files([cell.path for cell in cells])
        return [Called(cell, prediction) for cell, (_, prediction) in zip(cells, predictions, strict=True)]


def draw(calls: Sequence[Called], title: str, path: Path) -> Path:
    """Writes the contact sheet of `calls`."""
    tiles = []
    for item in calls:
        image = read_image(item.cell.path)
        if not isinstance(image, Refusal):
            tiles.append(Tile(image, item.prediction, item.cell.label))
    save_sheet(draw_sheet(tiles, title), path)
    return path
