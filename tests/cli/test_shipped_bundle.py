"""The bundle that is shipped: complete, small, and good on patients that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return read_bundle(blastscope.SHIPPED_BUNDLE)


def test_the_shipped_bundle_is_whole_fused_and_at_most_60_mb(shipped: Bundle) -> None:
    assert {entry.models for entry in shipped.manifest.graphs} == {"ensemble"}
    assert sum(path.stat().st_size for path in blastscope.SHIPPED_BUNDLE.rglob("*") if path.is_file()) < 60e6
    assert shipped.manifest.gate == "passed"


def test_its_golden_set_is_drawn_so_that_no_patients_cell_is_given_away(shipped: Bundle) -> None:
    assert shipped.manifest.golden.source == "drawn"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_every_backend_answers_alike_on_every_precision(shipped: Bundle, backend: str) -> None:
    image = synthetic_cell(7)
    scores = []
    for entry in shipped.manifest.graphs:
        with blastscope.open_bundle(precision=entry.precision, backend=backend, unlike_training="call") as scope:
            prediction = scope.classify(image)
            assert prediction.refusal is None
            scores.append((prediction.score, entry.tolerances[scope.audit.execution]))
    first = scores[0][0]
    assert first is not None
    assert all(score == pytest.approx(first, abs=tolerance + scores[0][1]) for score, tolerance in scores)


def test_it_calls_real_cells_far_better_than_chance(cnmc: Path) -> None:
    """Cells of training patients may be among them: this is a test of the path from file to call, not a score."""
    blasts = sorted((cnmc / "fold_0" / "all").glob("UID_45_*"))[::10]
    normal = sorted((cnmc / "fold_0" / "hem").glob("UID_H24_*"))[::10]
    with blastscope.open_bundle(workload="throughput") as scope:
        labels = [prediction.label for _, prediction in scope.classify_files([*blasts, *normal])]
    right = labels[: len(blasts)].count("all") + labels[len(blasts) :].count("hem")
    assert right >= 0.7 * len(labels)


def test_inspect_tells_what_held_out_people_showed(shipped: Bundle) -> None:
    shown = CliRunner().invoke(app, ["inspect"]).stdout
    found = shipped.manifest.uncertainty
    assert found
    assert found.smear
    assert f"weighted F1 {found.weighted_f1.value:.3f}" in shown
    assert f"{found.smear.right} of {found.smear.people} called right" in shown


def test_what_is_no_cell_of_its_scale_is_refused_as_unlike_the_training(cnmc: Path) -> None:
    """Real cells at half their size, blurred, or filled with noise, and plain discs; as they are nearly all are called."""
    files = [*sorted((cnmc / "fold_0" / "all").glob("*"))[::200][:8], *sorted((cnmc / "fold_0" / "hem").glob("*"))[::100][:8]]
    cells = [image for image in map(read_image, files) if isinstance(image, np.ndarray)]
    rng = np.random.default_rng(0)
    half = [cv2.resize(cell, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for cell in cells]
    noise = [
        np.where(cell.max(axis=2, keepdims=True) > 0, rng.integers(30, 255, cell.shape), 0).astype(np.uint8) for cell in cells
    ]
    discs = [
        cv2.circle(np.zeros((450, 450, 3), np.uint8), (225, 225), radius, (110, 60, 140), -1) for radius in range(60, 130, 5)
    ]
    with blastscope.open_bundle(workload="throughput") as scope:
        for strange in (half, noise, discs):
            assert {answer.refusal and answer.refusal.code for answer in scope.classify_many(strange)} == {"unlike-training"}
        assert sum(answer.label is not None for answer in scope.classify_many(cells)) >= len(cells) - 2


def test_nearly_all_cells_at_twice_their_scale_are_refused(cnmc: Path) -> None:
    """The crop shows their middles alone: the largest are too large for it, the others are unlike the training's."""
    cells = [image for image in map(read_image, sorted(cnmc.rglob("*.webp"))[::90]) if isinstance(image, np.ndarray)]
    twice = [cv2.resize(cell, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for cell in cells]
    for image, cell in zip(twice, cells, strict=True):
        mask = cv2.resize((cell.max(axis=2) > 0).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        image[mask == 0] = 0  # else the interpolation leaves a rim
    with blastscope.open_bundle(workload="throughput") as scope:
        codes = [answer.refusal and answer.refusal.code for answer in scope.classify_many(twice)]
    assert set(codes) <= {"unlike-training", "too-large", None}
    assert codes.count(None) <= 0.1 * len(codes)
