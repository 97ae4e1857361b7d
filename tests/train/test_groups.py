"""train/report/data.py: shares called right by size and stain, and F1 at other shares of ALL."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from blastscope.train.report.group_scores import group_scores, same_size_score, share_scores


def cells(seed: int, *, hem: int = 300, malignant: int = 700) -> tuple[np.ndarray, np.ndarray, list[str]]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [hem, malignant])
    calls = np.where(rng.random(len(labels)) < 0.8, labels, 1 - labels)
    names = [f"H{100 + row % 8}" if label == 0 else str(200 + row % 10) for row, label in enumerate(labels)]
    return labels, calls, names


def test_f1_at_the_datas_own_share_is_scikit_learns() -> None:
    labels, calls, names = cells(0)
    (found,) = share_scores(labels, calls, names, shares=[0.7])
    assert found.weighted_f1.value == pytest.approx(f1_score(labels, calls, average="weighted"))
    assert found.weighted_f1.low < found.weighted_f1.value < found.weighted_f1.high


def test_f1_at_another_share_is_that_of_cells_drawn_so() -> None:
    labels, calls, names = cells(1)
    (found,) = share_scores(labels, calls, names, shares=[0.5])
    again = np.concatenate([np.repeat(np.flatnonzero(labels == 0), 7), np.repeat(np.flatnonzero(labels == 1), 3)])
    assert found.weighted_f1.value == pytest.approx(f1_score(labels[again], calls[again], average="weighted"))


def test_each_cell_is_in_one_group_of_size_and_one_of_stain() -> None:
    labels, calls, names = cells(2)
    rng = np.random.default_rng(0)
    groups = group_scores(labels, calls, names, rng.normal(200, 20, len(labels)), rng.normal(100, 10, len(labels)))
    by_size = [group for group in groups if "px" in group.name]
    by_stain = [group for group in groups if "third" in group.name]
    assert sum(group.cells for group in by_size) == sum(group.cells for group in by_stain) == len(labels)
    right = sum(group.right.value * group.cells for group in by_size) / len(labels)
    assert right == pytest.approx((labels == calls).mean())
    assert {group.people for group in groups} == {8, 10}


def test_where_size_tells_nothing_a_call_by_size_is_worth_nothing() -> None:
    """A threshold on size looks good on cells as they are, and is right in half of the normal ones once sizes are alike."""
    rng = np.random.default_rng(4)
    labels, _, names = cells(4, hem=4000, malignant=6000)
    sizes = rng.normal(np.where(labels == 1, 215, 185), 20)
    middle = float(np.median(sizes[labels == 1]))
    found = same_size_score(labels, (sizes > middle).astype(np.int64), names, sizes)
    assert found.specificity is not None
    assert ((sizes <= middle) == (labels == 0))[labels == 0].mean() > 0.9
    assert found.specificity.value == pytest.approx(0.5, abs=0.1)
    perfect = same_size_score(labels, labels, names, sizes)
    assert perfect.weighted_f1.value == pytest.approx(1)
