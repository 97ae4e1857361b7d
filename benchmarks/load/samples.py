"""The cells that a load test sends: images in memory, with labels and patients where they are known."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.interleaved_timing import Image
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import CLASSES, Refusal


@dataclass(frozen=True)
class LoadSamples:
    """Images, and what is known of them.

    Attributes
    ----------
    images
        N images of single cells, uint8 (H, W, 3) RGB.
    labels
        (N,) index into CLASSES; None where there is nothing that calls can be compared with.
    people
        N persons, as ids.
    held_out
        Whether none of these persons' cells trained the networks.
    note
        Where the cells come from, or why there are no labels.
    """

    images: tuple[Image, ...]
    labels: NDArray[np.int64] | None
    people: tuple[str, ...]
    held_out: bool
    note: str


def load_samples(bundle: Bundle, data: Path | None, count: int, seed: int = 0) -> LoadSamples:
    """At most `count` cells for `bundle`: of held-out patients where it has some, else of any patient below `data`.

    Parameters
    ----------
    bundle
        What is going to answer.
    data
        Folder of C-NMC cells; None: cells are drawn, and have no labels that mean anything.
    count
        How many cells.
    seed
        Of the draw.

    Returns
    -------
    LoadSamples

    Raises
    ------
    DataError
        None of the cells can be read.
    """
    training = bundle.manifest.training
    if data is None or training.data_sha256 is None:
        images = tuple(cell.image for cell in synthetic_cells(count, seed=seed))
        note = "drawn cells: C-NMC's aren't at hand" if data is None else "random weights: calls mean nothing"
        return LoadSamples(images, None, (), held_out=False, note=note)
    folder = scan_dataset(data)
    held_out = training.split == "patient" and bool(training.patients.validation)
    trained = folder.people_of(training.patients.training)
    wanted = set(training.patients.validation)
    cells = [cell for cell in folder.cells if not held_out or (cell.patient in wanted and cell.person not in trained)]
    chosen = random.Random(seed).sample(cells, min(count, len(cells)))
    read = [(cell, read_image(cell.path)) for cell in chosen]
    kept = [(cell, image) for cell, image in read if not isinstance(image, Refusal)]
    if not kept:
        raise DataError(data, "holds no readable cell of the patients that the networks may be judged on")
    return LoadSamples(
        tuple(image for _, image in kept),
        np.array([CLASSES.index(cell.label) for cell, _ in kept], np.int64),
        tuple(cell.person for cell, _ in kept),
        held_out=held_out,
        note="held-out patients" if held_out else "patients that trained the networks: accuracy is too high for new ones",
    )
