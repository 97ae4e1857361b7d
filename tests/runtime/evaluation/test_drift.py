"""The drift alarm: silent on the training's own cells, plain about others, and small however long the session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope import SHIPPED_BUNDLE
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.drift import WORDS, Drift, DriftState, measure_reference, shipped_reference
from blastscope.runtime.frames.features import CellFeatures, cell_features
from blastscope.runtime.frames.types import FrameCell, FrameReport, SegmentedCell
from blastscope.runtime.io.cnmc import DatasetEntry
from blastscope.runtime.io.image import read_image

Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def some(cnmc: Path) -> Sequence[DatasetEntry]:
    """Every 120th of the training's cells, of all patients."""
    names = sorted(cnmc.rglob("*.webp"))[::120]
    return [
        DatasetEntry(path, "all" if path.parent.name == "all" else "hem", path.name.split("_")[1], "", "", "") for path in names
    ]


@pytest.fixture(scope="module")
def images(some: Sequence[DatasetEntry]) -> list[NDArray[np.uint8]]:
    read = [read_image(cell.path) for cell in some]
    return [image for image in read if isinstance(image, np.ndarray)]


def state_of(images: Sequence[NDArray[np.uint8]], change: Change = lambda image: image) -> DriftState:
    """The drift of a session that sees the changed `images`, ten a frame."""
    looks = [cell_features(change(image)) for image in images]
    drift = Drift()
    nothing = np.zeros((1, 2), np.int32)
    for start in range(0, len(looks), 10):
        found = SegmentedCell((0, 0, 1, 1), nothing, nothing)
        drift.add(FrameReport(tuple(FrameCell(found, None, features) for features in looks[start : start + 10]), None))
    return drift.state()


def enlarged(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST), np.uint8)


def test_the_training_cells_themselves_give_no_alarm(images: list[NDArray[np.uint8]]) -> None:
    state = state_of(images)
    assert state.cells == len(images) >= 40
    assert state.enough
    assert state.alarms == ()
    assert max(abs(shift.shift) for shift in state.shifts) < 0.5


@pytest.mark.parametrize(
    ("change", "feature", "word"),
    [
        (lambda image: enlarged(image, 1.4), "diameter_px", "larger"),
        (lambda image: enlarged(image, 0.7), "diameter_px", "smaller"),
        (lambda image: image[..., ::-1], "blue_yellow", "yellower"),  # BGR taken for RGB
        (lambda image: np.asarray(image * (1.0, 0.8, 1.0), np.uint8), "green_red", "redder"),
        (lambda image: np.asarray(image * 0.6, np.uint8), "lightness", "darker"),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 4), "texture", "blurred"),
    ],
)
def test_recoloured_rescaled_and_blurred_cells_alarm_by_name(
    images: list[NDArray[np.uint8]], change: Change, feature: str, word: str
) -> None:
    state = state_of(images, change)
    assert feature in {shift.feature for shift in state.shifts if shift.alarm}
    assert any(word in alarm and "limit" in alarm for alarm in state.alarms)


def test_no_patient_of_the_training_alarms_alone(cnmc: Path) -> None:
    for patient in ("UID_48_*", "UID_H22_*"):  # the one with the strangest colour, and a healthy one
        paths = sorted(cnmc.rglob(f"{patient}.webp"))[::4]
        read = [read_image(path) for path in paths]
        assert state_of([image for image in read if isinstance(image, np.ndarray)]).alarms == ()


def test_the_shipped_reference_is_what_the_cells_say(some: Sequence[DatasetEntry]) -> None:
    shipped, again = shipped_reference(), measure_reference(some, name="a part", data_sha256="")
    assert set(shipped.features) == set(CellFeatures._fields) == set(WORDS)
    for name, feature in shipped.features.items():
        assert abs(again.features[name].median - feature.median) < 0.5 * feature.spread
        assert again.features[name].spread == pytest.approx(feature.spread, rel=0.4)
    trained = read_bundle(SHIPPED_BUNDLE).manifest
    assert shipped.data_sha256 == trained.training.data_sha256  # of the very cells that the shipped networks were trained on
    assert trained.uncertainty
    assert shipped.cells == trained.uncertainty.cells


def test_few_cells_say_nothing_yet(images: list[NDArray[np.uint8]]) -> None:
    few = state_of(images[:12], lambda image: image[..., ::-1])
    assert not few.enough
    assert few.alarms == ()
    assert Drift().state() == DriftState(reference=shipped_reference().name, cells=0, enough=False, shifts=(), alarms=())


def test_only_the_latest_cells_count_and_no_more_are_kept(images: list[NDArray[np.uint8]]) -> None:
    drift, normal = Drift(window=40), cell_features(images[0])
    assert normal is not None
    for _ in range(5000):
        drift.add_features(normal._replace(diameter_px=900.0))
    assert drift.state().cells == 40
    assert any("larger" in alarm for alarm in drift.state().alarms)
    for image in images:
        features = cell_features(image)
        assert features is not None
        drift.add_features(features)
    assert drift.state().alarms == ()


def test_a_reference_of_other_features_is_refused() -> None:
    reference = shipped_reference()
    with pytest.raises(UsageError, match="features"):
        Drift(reference.model_copy(update={"features": {}}))
    with pytest.raises(UsageError, match="window"):
        Drift(window=3)


def test_black_has_no_appearance_and_figures_hold_at_any_place() -> None:
    assert cell_features(np.zeros((40, 40, 3), np.uint8)) is None
    disk = cv2.circle(np.zeros((300, 300, 3), np.uint8), (140, 150), 60, (120, 60, 140), -1)
    features = cell_features(np.asarray(disk, np.uint8))
    assert features is not None
    assert features.diameter_px == pytest.approx(120, rel=0.03)
    assert features.elongation == pytest.approx(1, abs=0.02)
    assert features.contrast == features.texture == 0
    moved = cell_features(np.roll(disk, (20, -30), (0, 1)))
    assert moved is not None
    assert moved == pytest.approx(features)
    for shape in ((0, 0, 3), (0, 5, 3), (5, 0, 3)):
        assert cell_features(np.zeros(shape, np.uint8)) is None


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_black_around_a_cell_changes_none_of_its_figures(left: int) -> None:
    cell = np.random.default_rng(left).integers(1, 256, (60, 50, 3), np.uint8)
    bare = cell_features(np.pad(cell, ((left, 0), (left, 0), (0, 0))))
    assert bare is not None
    assert cell_features(np.pad(cell, ((left + 40, 31), (left + 22, 17), (0, 0)))) == pytest.approx(bare)
