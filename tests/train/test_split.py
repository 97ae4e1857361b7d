"""train/split.py: laws of a split by patient, and the warning of the other one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.types import ClassName
from blastscope.train.config import DataConfig
from blastscope.train.split import LeakageWarning, nearest_subset, split_cells

counts_of_patients = st.lists(st.integers(1, 60), min_size=2, max_size=9)


def cells_of(label: ClassName, counts: list[int]) -> list[DatasetEntry]:
    prefix = "H" if label == "hem" else ""
    return [
        DatasetEntry(
            Path(f"{label}/{patient}-{number}.bmp"),
            label,
            f"{prefix}{patient}",
            "1",
            str(number),
            f"{label}{patient}{number}",
            person=f"{prefix}{patient}",
        )
        for patient, count in enumerate(counts)
        for number in range(count)
    ]


def patients_of(cells: list[DatasetEntry], rows: NDArray[np.int64]) -> set[str]:
    return {cells[row].patient for row in rows}


@given(hem=counts_of_patients, malignant=counts_of_patients, seed=st.integers(0, 99))
def test_every_cell_is_in_one_part_and_no_patient_in_both(hem: list[int], malignant: list[int], seed: int) -> None:
    cells = cells_of("hem", hem) + cells_of("all", malignant)
    split = split_cells(cells, DataConfig(seed=seed))
    assert sorted([*split.training, *split.validation]) == list(range(len(cells)))
    assert not patients_of(cells, split.training) & patients_of(cells, split.validation)


@given(hem=counts_of_patients, malignant=counts_of_patients, seed=st.integers(0, 99))
def test_both_parts_have_patients_of_both_classes(hem: list[int], malignant: list[int], seed: int) -> None:
    cells = cells_of("hem", hem) + cells_of("all", malignant)
    split = split_cells(cells, DataConfig(seed=seed))
    for rows in (split.training, split.validation):
        assert {cells[row].label for row in rows} == {"hem", "all"}


@given(counts=counts_of_patients, share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_no_choice_of_whole_patients_comes_nearer_to_the_share(counts: list[int], share: float, seed: int) -> None:
    picked = nearest_subset(counts, share, np.random.default_rng(seed))
    assert 1 <= len(picked) < len(counts)
    every = [c for size in range(1, len(counts)) for c in combinations(range(len(counts)), size)]
    nearest = min(abs(sum(counts[i] for i in subset) - share * sum(counts)) for subset in every)
    assert abs(sum(counts[i] for i in picked) - share * sum(counts)) == pytest.approx(nearest, abs=1e-6)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    cells = cells_of("hem", [20] * 10) + cells_of("all", [30] * 20)
    first, again, other = (split_cells(cells, DataConfig(seed=seed)) for seed in (1, 1, 2))
    assert first.validation.tolist() == again.validation.tolist() != other.validation.tolist()


@given(
    hem=st.lists(st.integers(1, 60), min_size=3, max_size=9),
    malignant=st.lists(st.integers(1, 60), min_size=3, max_size=9),
)
def test_every_patient_validates_in_exactly_one_fold(hem: list[int], malignant: list[int]) -> None:
    cells = cells_of("hem", hem) + cells_of("all", malignant)
    folds = [split_cells(cells, DataConfig(fold=fold)) for fold in range(3)]
    assert sorted(row for split in folds for row in split.validation) == list(range(len(cells)))
    for split in folds:
        assert not patients_of(cells, split.training) & patients_of(cells, split.validation)
        assert {cells[row].label for row in split.validation} == {"hem", "all"}


@given(
    hem=st.lists(st.integers(0, 4), min_size=6, max_size=12).filter(lambda whose: len(set(whose)) > 2),
    malignant=st.lists(st.integers(0, 4), min_size=6, max_size=12).filter(lambda whose: len(set(whose)) > 2),
    seed=st.integers(0, 99),
    fold=st.sampled_from([None, 0, 1, 2]),
)
def test_no_person_with_many_ids_stands_on_both_sides(
    hem: list[int], malignant: list[int], seed: int, fold: int | None
) -> None:
    cells = [
        replace(cell, person=f"{label}{whose[int(cell.patient.removeprefix('H'))]}")
        for label, whose in (("hem", hem), ("all", malignant))
        for cell in cells_of("hem" if label == "hem" else "all", [1 + place % 3 for place in range(len(whose))])
    ]
    split = split_cells(cells, DataConfig(seed=seed, fold=fold))
    assert not {cells[row].person for row in split.training} & {cells[row].person for row in split.validation}
    for rows in (split.training, split.validation):
        assert {cells[row].label for row in rows} == {"hem", "all"}


def test_a_split_by_image_warns_of_leakage_and_keeps_class_shares() -> None:
    cells = cells_of("hem", [50, 50]) + cells_of("all", [100, 100])
    with pytest.warns(LeakageWarning, match="every validation score is too high"):
        split = split_cells(cells, DataConfig(split="image"))
    assert [sum(cells[row].label == label for row in split.validation) for label in ("hem", "all")] == [30, 60]
    assert "split by image" in split.notes[0]


def test_without_a_split_every_cell_trains() -> None:
    cells = cells_of("hem", [5, 5]) + cells_of("all", [5, 5])
    split = split_cells(cells, DataConfig(split="none"))
    assert len(split.training) == 20
    assert not len(split.validation)
    assert split.notes


def test_one_patient_of_a_class_is_too_few_to_share() -> None:
    with pytest.raises(ValueError, match="two patients of class 'hem'"):
        split_cells(cells_of("hem", [9]) + cells_of("all", [9, 9]), DataConfig())


def test_real_cells_are_shared_as_the_paper_shares_them(cnmc: Path) -> None:
    cells = list(scan_dataset(cnmc).cells)
    split = split_cells(cells, DataConfig())
    for label in ("hem", "all"):
        validating = sum(cells[row].label == label for row in split.validation)
        assert validating / sum(cell.label == label for cell in cells) == pytest.approx(0.3, abs=0.002)


TWINS = [{"51", "75", "78"}, {"20", "21"}, {"H2", "H4", "H5", "H6"}, {"H3", "H10"}]  # ids of C-NMC that are one person


@pytest.mark.parametrize("fold", [None, 0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_ids_of_one_person_stay_on_one_side(cnmc: Path, fold: int | None, seed: int) -> None:
    cells = list(scan_dataset(cnmc).cells)
    split = split_cells(cells, DataConfig(fold=fold, seed=seed))
    training, validation = patients_of(cells, split.training), patients_of(cells, split.validation)
    assert {"51", "75", "78", "H2", "H4", "H5", "H6", "H3", "H10"} <= training | validation
    assert [twins for twins in TWINS if twins & training and twins & validation] == []


def test_every_real_person_validates_in_exactly_one_fold(cnmc: Path) -> None:
    cells = list(scan_dataset(cnmc).cells)
    folds = [patients_of(cells, split_cells(cells, DataConfig(fold=fold)).validation) for fold in range(3)]
    assert sum(map(len, folds)) == len({cell.patient for cell in cells})
    here = set().union(*folds)
    for twins in TWINS:
        assert sum(bool(twins & fold) for fold in folds) == bool(twins & here)


def test_several_folds_validate_together(cnmc: Path) -> None:
    cells = list(scan_dataset(cnmc).cells)
    alone = [set(split_cells(cells, DataConfig(folds=10, fold=fold)).validation) for fold in (2, 7)]
    both = split_cells(cells, DataConfig(folds=10, fold=(7, 2)))
    assert set(both.validation) == alone[0] | alone[1]
    assert sorted([*both.training, *both.validation]) == list(range(len(cells)))


@pytest.mark.parametrize("fold", [(), (0, 1, 2), (0, 3), (-1,)])
def test_some_folds_must_validate_and_some_train(fold: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="fold"):
        DataConfig(fold=fold)
