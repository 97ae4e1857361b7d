"""Cells of a site's own frames, labelled by its people, as further cells to train on.

PLACE/cells        a link to C-NMC's cells, or to whatever folder was named
PLACE/site/all/    the site's cells on black, in C-NMC's scale and naming: UID_<person>_<frame>_<cell>_all.png
PLACE/site/hem/
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.labels import frames_named_in, read_labels
from blastscope.runtime.evaluation.site_cells import cut_labelled_cells
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.atomic import write_folder
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.types import ClassName

logger = logging.getLogger(__name__)

THREADS = 2  # that examine frames
Cells = list[tuple[ClassName, NDArray[np.uint8]]]


def add_site_cells(data: Path, table: Path, place: Path, *, spec: FrameSpecification) -> Path:
    """Cuts the labelled cells out of a site's frames, and puts them beside the cells in `data`.

    Cells are found anew and put on black as `examine` does, and those whose box meets a labelled one are taken. A person is
    who stands in the table's column `patient`, or whose frames lie in one folder. C-NMC's labels, splits and scores are by
    person: of somebody with cells of both classes those of the more frequent one are taken.

    Parameters
    ----------
    data : Path
        Folder of labelled cells, as `train` takes it.
    table : Path
        Corrections, or a table of labels, as `validate` takes them. Frames are found from where the command runs or from the
        table's own folder.
    place : Path
        The folder to write, whole or not at all; one that stands there is replaced.
    spec : FrameSpecification
        What is assumed of frames and cells.

    Returns
    -------
    Path
        `place`, for `train`, `export --data` and `calibrate --data`.

    Raises
    ------
    DataError
        The table can't be read, or no cell of it can be used.
    """
    labels = read_labels(table, frames_named_in(table))
    found = cut_labelled_cells(labels, spec, threads=THREADS)
    people: dict[str, Cells] = defaultdict(list)
    for cell in found.cells:
        people[cell.patient or str(resolved(cell.frame).parent)].append((cell.label, cell.pixels))
    kept = {person: _of_one_class(cells) for person, cells in people.items()}
    dropped = sum(len(cells) for cells in people.values()) - sum(len(cells) for cells in kept.values())
    if not any(kept.values()):
        raise DataError(table, "no cell that is labelled all or hem was found in its frames, so there is nothing to train on")
    write_folder(place, partial(_fill, resolved(data), kept))
    counts = Counter(label for cells in kept.values() for label, _ in cells)
    logger.info("cells of this site: %d ALL and %d HEM of %d persons, in '%s'", counts["all"], counts["hem"], len(kept), place)
    left = Counter(reason for _, reason in found.left_out)
    for reason, count in (*left.items(), ("of persons with more cells of the other class", dropped)):
        if count:
            logger.info("labelled cells that were left out: %d, %s", count, reason)
    return place


def _of_one_class(cells: Cells) -> Cells:
    counts = Counter(label for label, _ in cells)
    return [(label, cell) for label, cell in cells if label == counts.most_common(1)[0][0]]


def _fill(data: Path, people: dict[str, Cells], folder: Path) -> None:
    try:
        (folder / "cells").symlink_to(data, target_is_directory=True)
    except OSError as error:
        raise DataError(folder / "cells", f"no link to '{data}' can be made: {error.strerror or error}") from error
    for person, cells in people.items():
        # the same person has the same id in every run; C-NMC's are numbers, or numbers behind an H
        number = int(hashlib.sha256(person.encode("utf-8", "surrogateescape")).hexdigest()[:12], 16)
        for count, (label, cell) in enumerate(cells, 1):
            place = folder / "site" / label / f"UID_s{number}_1_{count}_{label}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(cv2.imencode(".png", cell[..., ::-1])[1].tobytes())
