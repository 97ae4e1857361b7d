"""Which cells calibrate and which judge."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastscope.calibration.calibration_data import (
    choose_calibration_cells,
    crop_cells,
    drop_rows,
    log_dataset_mismatch,
    named_cells,
    validation_cells,
)
from blastscope.runtime.bundle.manifest import Patients, TrainingProvenance
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.io.synthetic import write_synthetic_dataset

SPEC = CropSpecification(side_px=32)


def made_up(patients: dict[str, int]) -> list[DatasetEntry]:
    """Cells of `patients`, name -> how many; names with H are normal."""
    cells = []
    for patient, count in patients.items():
        label = "hem" if patient.startswith("H") else "all"
        for number in range(count):
            name = f"UID_{patient}_1_{number}_{label}"
            cells.append(DatasetEntry(Path(f"{name}.bmp"), label, patient, "1", str(number), f"{patient}-{number:04d}"))  # type: ignore[arg-type]
    return cells


def training(**changes: object) -> TrainingProvenance:
    facts: dict[str, object] = {
        "data_sha256": None,
        "split": "patient",
        "seed": 0,
        "config": {},
        "versions": {},
        "patients": Patients(training=("H1", "2"), validation=("H3", "4")),
    }
    return TrainingProvenance.model_validate({**facts, **changes})


COUNTS = st.dictionaries(st.sampled_from(["1", "2", "3", "4", "H1", "H2", "H3"]), st.integers(1, 20), min_size=1)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(1, 60), st.integers(0, 5), st.randoms())
def test_a_sample_is_balanced_and_does_not_depend_on_the_order(
    counts: dict[str, int], size: int, seed: int, shuffle: object
) -> None:
    cells = made_up(counts)
    chosen = choose_calibration_cells(cells, size, seed)
    assert len(chosen) == len(set(chosen)) == min(size, len(cells))
    shuffle.shuffle(cells)  # type: ignore[attr-defined]
    assert choose_calibration_cells(cells, size, seed) == chosen
    for label in ("all", "hem"):
        taken = Counter(cell.patient for cell in chosen if cell.label == label)
        left = {cell.patient for cell in cells if cell.label == label and cell not in chosen}
        # whoever has cells left has given as many as anybody, less one at most
        assert all(taken[patient] >= max(taken.values(), default=0) - 1 for patient in left)
    classes = Counter(cell.label for cell in chosen)
    both = [sum(cell.label == label for cell in cells) for label in ("all", "hem")]
    if min(both) >= size:
        assert abs(classes["all"] - classes["hem"]) <= 1


def test_cells_that_are_not_the_trainings_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=2, cells_each=1, size_px=96))
    caplog.set_level(logging.INFO, "blastscope")
    for digest in (None, folder.sha256, "0" * 64):
        log_dataset_mismatch(folder, digest)
    assert len(caplog.messages) == 1
    assert "isn't what was trained on" in caplog.messages[0]


def test_only_validation_patients_are_taken(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=4, cells_each=2, size_px=96))
    assert {cell.patient for cell in validation_cells(folder, training())} == {"H3", "4"}


@pytest.mark.parametrize("split", ["image", "none"])
def test_a_split_that_leaves_no_patient_to_judge_is_refused(tmp_path: Path, split: str) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=4, cells_each=1, size_px=96))
    with pytest.raises(DataError, match=f"split = '{split}'"):
        validation_cells(folder, training(split=split))


def test_a_folder_without_validation_patients_is_refused(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=4, cells_each=1, size_px=96))
    with pytest.raises(DataError, match="no cells of class hem"):
        validation_cells(folder, training(patients=Patients(training=("H1",), validation=("4", "H99"))))


def test_named_cells_of_training_patients_are_refused_by_name(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=4, cells_each=1, size_px=96))
    cells = validation_cells(folder, training())
    fine = cells[0].path.name
    trained = next(cell.path.name for cell in folder.cells if cell.patient == "H1")
    assert named_cells(cells, [fine, fine], folder, training()) == cells[:1]
    with pytest.raises(DataError, match=f"training patients can't calibrate: {trained}"):
        named_cells(cells, [fine, trained], folder, training())
    with pytest.raises(DataError, match=r"not here: nobody\.png"):
        named_cells(cells, ["nobody.png"], folder, training())
    strangers = Patients(training=("H1", "2"), validation=("4",))
    with pytest.raises(DataError, match="doesn't know"):
        named_cells(cells[:0], [fine], folder, training(patients=strangers))


def test_cells_that_the_crop_refuses_are_named(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=2, cells_each=2, size_px=96))
    bad = folder.cells[1]
    cv2.imwrite(str(bad.path), np.full((96, 96, 3), 200, np.uint8))  # no black around it
    cropped = crop_cells(folder.cells, SPEC)
    assert [cell for cell, _ in cropped.refused] == [bad]
    assert bad not in cropped.cells
    assert cropped.crops.shape == (3, 32, 32, 3)


def test_rows_taken_out_of_a_sample_are_named_in_it(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path, patients=2, cells_each=2, size_px=96))
    sample = crop_cells(folder.cells, SPEC)
    less = drop_rows(sample, [(1, "the range of conv is zero")])
    assert less.refused == ((sample.cells[1], "the range of conv is zero"),)
    np.testing.assert_array_equal(less.crops, np.delete(sample.crops, 1, axis=0))
    assert drop_rows(sample, []).cells == replace(sample).cells
