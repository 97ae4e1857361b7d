"""Drawn cells: the same everywhere, croppable, and learnable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell, synthetic_cells, write_synthetic_dataset


def test_a_seed_draws_the_same_bytes_on_every_machine() -> None:
    drawn = b"".join(synthetic_cell(seed).tobytes() for seed in range(4))
    assert hashlib.sha256(drawn).hexdigest() == "375665230a6ffcaa7d8ff43654d23347c62696c4d56f37dba6c04330694ba835"


def test_naming_what_the_seed_would_choose_changes_nothing() -> None:
    for seed in range(6):
        assert any(
            np.array_equal(synthetic_cell(seed), synthetic_cell(seed, malignant=malignant)) for malignant in (False, True)
        )


def test_every_drawn_cell_lies_on_black_at_the_scale_of_real_ones() -> None:
    for drawn in synthetic_cells(24, seed=5):
        crop = crop_cell(drawn.image, CropSpecification())
        assert isinstance(crop, Crop)
        sides = crop.box[2] - crop.box[0], crop.box[3] - crop.box[1]
        assert all(140 <= side <= 290 for side in sides)
        assert not drawn.image[0].any()


def test_blasts_are_larger_than_normal_cells_on_the_whole() -> None:
    area = {
        label: [int(cell.image.any(axis=2).sum()) for cell in synthetic_cells(24, 9) if cell.label == label]
        for label in ("hem", "all")
    }
    assert np.mean(area["all"]) > 1.2 * np.mean(area["hem"])


def test_a_small_frame_holds_a_small_cell() -> None:
    image = synthetic_cell(3, size_px=96)
    assert image.shape == (96, 96, 3)
    assert isinstance(crop_cell(image, CropSpecification()), Crop)
    with pytest.raises(UsageError, match="32"):
        synthetic_cell(3, size_px=16)


def test_a_drawn_folder_is_found_like_the_archive(tmp_path: Path) -> None:
    root = write_synthetic_dataset(tmp_path / "drawn", patients=4, cells_each=3, seed=2, size_px=96)
    found = scan_dataset(root)
    assert [(cell.label, cell.patient) for cell in found.cells[::3]] == [
        ("all", "2"),
        ("hem", "H1"),
        ("all", "4"),
        ("hem", "H3"),
    ]
    assert len(found.cells) == 12
    assert not found.duplicates
    assert not found.rejected
    assert isinstance(read_image(found.cells[0].path), np.ndarray)
    assert (
        scan_dataset(write_synthetic_dataset(tmp_path / "again", patients=4, cells_each=3, seed=2, size_px=96)).sha256
        == found.sha256
    )
    assert (
        scan_dataset(write_synthetic_dataset(tmp_path / "other", patients=4, cells_each=3, seed=3, size_px=96)).sha256
        != found.sha256
    )
