"""The demonstration: a small bundle is trained, where PyTorch is installed, and the shipped one calls cells.

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
from PIL import Image

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.frames.report.contact_sheet import SheetCell, draw_grid
from blastscope.runtime.frames.report.theme import CALL_STYLES, FAINT, style_of, words_of
from blastscope.runtime.frames.report.thumbnails import THUMB_PX
from blastscope.runtime.io.atomic import write_file
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.people import person_of
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.runtime.types import CLASSES, Prediction, Refusal

logger = logging.getLogger(__name__)

NEEDED = ("torch", "timm", "lightning_fabric", "onnx", "onnxruntime")
CELLS_OF_A_CLASS = 12
CELLS_OF_A_PATIENT = 12
CONFIG = Path(__file__).with_name("demo.toml")


@dataclass(frozen=True)
class Called:
    """One cell of the demonstration with its label and the bundle's call.

    Attributes
    ----------
    cell : DatasetEntry
        With the expert's label, or that which it was drawn for.
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


def train_small_bundle(data: Path, out: Path) -> Bundle:
    """Trains a small ensemble for a few steps, exports it, calibrates and verifies it: each step as its verb does it."""
    from blastscope.calibration.calibrate import calibrate
    from blastscope.calibration.compare import compare_engines
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
    logger.info("%s", compare_engines(read_bundle(bundle), None).text())
    return read_bundle(bundle)


def choose_demo_cells(data: Path, bundle: Bundle, seed: int = 0) -> list[DatasetEntry]:
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
    """Writes the contact sheet of `calls`: a call that isn't the label has a note in colour."""
    read = [(item, read_image(item.cell.path)) for item in calls]
    sheet = draw_grid(
        [_sheet_cell(item, image) for item, image in read if not isinstance(image, Refusal)], title, demo_summary(calls)
    )
    write_file(path, lambda fresh: sheet.save(fresh, format="PNG", optimize=True))
    return path


def demo_summary(calls: Sequence[Called]) -> str:
    """How many were called what, and how many calls are right."""
    labels = [item.prediction.label for item in calls]
    counts = f"{labels.count('all')} called ALL, {labels.count('hem')} called HEM, {labels.count(None)} refused"
    right = sum(item.prediction.label == item.cell.label for item in calls)
    return f"{counts}; {right} of {len(calls) - labels.count(None)} calls agree with the label"


def _sheet_cell(item: Called, image: NDArray[np.uint8]) -> SheetCell:
    prediction, label = item.prediction, f"label: {item.cell.label.upper()}"
    picture = Image.fromarray(image).resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
    note = f"{prediction.voter}; {label}" if prediction.label else label
    wrong = prediction.label not in (None, item.cell.label)
    colour = CALL_STYLES[style_of(prediction)].colour
    return SheetCell(picture, colour, words_of(prediction), note, CALL_STYLES["all"].colour if wrong else FAINT)
