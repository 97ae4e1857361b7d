"""A first voter that is sure decides alone where that is wished; every other cell gets the plain answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_builders import SIDE, crops, reference, two_towers
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.backends.openvino.backend import open_engine
from blastscope.runtime.backends.protocol import Cascade, Engine, EngineOptions
from blastscope.runtime.errors import BlastscopeError, EngineError, UsageError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.session import open_bundle
from blastscope.runtime.types import CLASSES, VOTERS

GRAPH = two_towers(trunk=True, mirrored=True)


class TowerBundle:
    """Bundles whose networks have two backbones, made by the fixture `tiny_bundle` with another graph in it."""

    def __init__(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiny = tiny
        monkeypatch.setattr(tiny, "graph", lambda **_: GRAPH)
        monkeypatch.setattr(tiny, "expected", lambda crops: reference(GRAPH, crops))
        assert tiny.side_px == SIDE

    def make(self, **cascade: Any) -> Path:
        none = {"value": 0.0, "low": 0.0, "high": 0.0}
        record = {
            **{"first": "a", "threshold": 0.7, "precision": "fp32", "engine": "openvino", "cells": 9, "patients": 3},
            **{"flip_rate": none, "flip_rate_upper": 0.1, "max_flip_rate": 0.002, "patient_flip_rate": none, "skipped": 0.3},
            **cascade,
        }
        return Path(self.tiny.make("fp32", tolerances={"fp32": {"f32": 1e-3}}, cascade=record))


@pytest.fixture
def towers(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> TowerBundle:
    return TowerBundle(tiny_bundle, monkeypatch)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("staged") / "towers.onnx"
    path.write_bytes(GRAPH)
    return open_engine(path, file_sha256(path), EngineOptions(layout="staged", threads=1))


IMAGES = crops(24, seed=5)


@settings(max_examples=30)
@given(first=st.sampled_from([0, 1]), threshold=st.floats(0, 1.5))
def test_who_is_not_decided_early_has_exactly_the_plain_answer(staged: Engine, first: int, threshold: float) -> None:
    (lane,) = staged.partial_lanes
    plain, answers = lane.infer(IMAGES), lane.infer_in_turn(IMAGES, Cascade(first, threshold))
    early = np.isnan(answers).any(axis=(1, 2))
    np.testing.assert_array_equal(early, plain[:, first].max(axis=1) >= np.float32(threshold))
    np.testing.assert_array_equal(answers[~early], plain[~early])
    np.testing.assert_array_equal(answers[early, first], plain[early, first])
    assert np.isnan(np.delete(answers[early], first, axis=1)).all()


def test_a_threshold_of_0_leaves_all_to_the_first_and_one_above_1_none(staged: Engine) -> None:
    (lane,) = staged.partial_lanes
    plain = lane.infer(IMAGES)
    for first in (0, 1):
        votes = vote(lane.infer_in_turn(IMAGES, Cascade(first, 0.0)), partial=True)
        assert set(votes.voter.tolist()) == {first}
        np.testing.assert_array_equal(votes.label, plain[:, first].argmax(axis=1))
    for theirs, ours in zip(vote(lane.infer_in_turn(IMAGES, Cascade(0, 1.01))), vote(plain), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def cells(tiny: Any, count: int = 12) -> list[NDArray[np.uint8]]:
    return [tiny.cell(seed) for seed in range(count)]


@pytest.mark.parametrize("workload", ["latency", "throughput"])
def test_predictions_say_who_decided_early(towers: TowerBundle, tmp_path: Path, workload: str) -> None:
    path, images = towers.make(first="b"), cells(towers.tiny)
    options: dict[str, Any] = {"workload": workload, "threads": 2, "cache_dir": tmp_path / "cache"}
    with open_bundle(path, layout="staged", **options) as scope:
        plain = scope.classify_many(images)
    with open_bundle(path, cascade=True, **options) as scope:
        assert scope.audit.layout == "staged"
        assert any("cascade: b decides alone from 0.7 on" in note for note in scope.notes)
        predictions = scope.classify_many(images)
        # as text: NaN equals nothing
        assert [repr(scope.submit(image).result()) for image in images[:2]] == [repr(one) for one in predictions[:2]]
    assert {prediction.decided_early for prediction in predictions} == {True, False}
    for prediction, whole in zip(predictions, plain, strict=True):
        assert prediction.probabilities
        assert whole.probabilities
        pair = whole.probabilities[1]
        assert prediction.decided_early == (max(pair) >= np.float32(0.7))
        if not prediction.decided_early:
            assert prediction == whole
            continue
        assert (prediction.voter, prediction.probability) == ("b", max(pair))
        assert prediction.label == CLASSES[pair.index(max(pair))]
        row = prediction.row()["probabilities"]
        assert row
        assert [name for name in VOTERS if row[name] is None] == ["a", "combined"]


def test_the_command_line_shows_voters_that_were_not_run_as_null(
    towers: TowerBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = tmp_path / "cell.png"
    cv2.imwrite(str(image), cells(towers.tiny, 1)[0][..., ::-1])
    said = CliRunner().invoke(app, ["classify", str(image), "--bundle", str(towers.make(threshold=0.5)), "--cascade", "--json"])
    row = json.loads(said.stdout)
    assert row["decided_early"]
    assert [name for name in VOTERS if row["probabilities"][name] is None] == ["b", "combined"]


def test_it_is_off_unless_it_is_wished(towers: TowerBundle, tmp_path: Path) -> None:
    path = towers.make(threshold=0.5)
    with open_bundle(path, cache_dir=tmp_path / "cache") as scope:
        assert not any(prediction.decided_early for prediction in scope.classify_many(cells(towers.tiny, 3)))
        assert np.isfinite(scope.infer(IMAGES)).all()
    with open_bundle(path, cascade=True, cache_dir=tmp_path / "cache") as scope:
        answers = scope.infer(IMAGES)
        assert np.isnan(answers[:, 1:]).all()
        np.testing.assert_allclose(answers[:, 0], reference(GRAPH, IMAGES)[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"device": "cuda"}, "cascade is for a CPU"),
        ({"precision": "int8"}, "of its fp32 graph, staged: not int8"),
        ({"layout": "fused"}, "of its fp32 graph, staged: not fused"),
        ({"backend": "onnxruntime"}, "computes a network whole"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused(towers: TowerBundle, tmp_path: Path, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(BlastscopeError, match=why):
        open_bundle(towers.make(), cascade=True, cache_dir=tmp_path / "cache", **asked)


def test_a_bundle_without_a_cascade_says_how_to_get_one(tiny_bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no cascade: 'blastscope calibrate --cascade'"):
        open_bundle(tiny_bundle.make(), cascade=True, cache_dir=tmp_path)


def test_a_network_that_runs_whole_leaves_nobody_out(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_bundle.graph())
    with pytest.raises(EngineError, match="runs a network whole"):
        InferencePool(open_engine(path, file_sha256(path), EngineOptions())).enable_cascade(Cascade(0, 0.9))
