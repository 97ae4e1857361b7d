"""An engine from the cache is proved in full once; after that one crop shows that it still answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.backends.openvino.backend import open_engine
from blastscope.runtime.backends.protocol import Engine, EngineOptions
from blastscope.runtime.bundle import Golden
from blastscope.runtime.inference import validation as proof
from blastscope.runtime.inference.background import DeferredTask
from blastscope.runtime.inference.validation import check_golden, validate_engine
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.session import open_bundle


class Counting:
    """An engine whose crops are counted; from `broken` on every answer is turned round."""

    name = "counting"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.crops = 0
        self.broken = 10**9  # of a call's crops

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.crops += len(crops)
        answers = self.engine.lanes[0].infer(crops)
        answers[self.broken :] = answers[self.broken :, :, ::-1]
        return answers

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def golden(tiny_bundle: Any) -> Golden:
    crops = tiny_bundle.crops(32)
    sure = np.abs(np.diff(tiny_bundle.expected(crops), axis=2)).max(axis=(1, 2)) > 0.5
    return Golden(crops[sure][:8], tiny_bundle.expected(crops[sure][:8]))


def engine(tiny: Any, folder: Path) -> Counting:
    path = folder / "tiny.onnx"
    path.write_bytes(tiny.graph())
    return Counting(open_engine(path, file_sha256(path), EngineOptions(cache_dir=folder, threads=1)))


def passed(counting: Counting, golden: Golden, folder: Path, tolerance: float = 1e-4) -> tuple[bool, int]:
    before = counting.crops
    check = validate_engine(counting, counting.engine, golden, tolerance, folder)
    return check.passed, counting.crops - before


def test_a_kept_engine_is_proved_in_full_once_and_a_compiled_one_always(
    tiny_bundle: Any, golden: Golden, tmp_path: Path
) -> None:
    fresh = engine(tiny_bundle, tmp_path)
    assert fresh.engine.content_sha256 is None
    assert [passed(fresh, golden, tmp_path) for _ in range(2)] == [(True, 8), (True, 8)]
    kept = engine(tiny_bundle, tmp_path)
    assert kept.engine.content_sha256
    assert [passed(kept, golden, tmp_path) for _ in range(3)] == [(True, 8), (True, 1), (True, 1)]


def test_a_proof_holds_for_these_bytes_and_this_golden_set_alone(tiny_bundle: Any, golden: Golden, tmp_path: Path) -> None:
    engine(tiny_bundle, tmp_path)
    kept = engine(tiny_bundle, tmp_path)
    passed(kept, golden, tmp_path)
    assert passed(kept, golden, tmp_path, tolerance=2e-4) == (True, 8)
    assert passed(kept, Golden(golden.crops[::-1].copy(), golden.probabilities[::-1].copy()), tmp_path) == (True, 8)
    kept.engine = replace(kept.engine, content_sha256=b"of other bytes")
    assert passed(kept, golden, tmp_path) == (True, 8)
    assert passed(kept, golden, tmp_path) == (True, 1)


def test_what_fails_is_never_remembered(tiny_bundle: Any, golden: Golden, tmp_path: Path) -> None:
    engine(tiny_bundle, tmp_path)
    kept = engine(tiny_bundle, tmp_path)
    kept.broken = 1
    assert [passed(kept, golden, tmp_path) for _ in range(2)] == [(False, 8), (False, 8)]
    assert not list(tmp_path.rglob("*.proof"))


def test_an_engine_that_fails_the_one_crop_is_held_to_all(tiny_bundle: Any, golden: Golden, tmp_path: Path) -> None:
    engine(tiny_bundle, tmp_path)
    kept = engine(tiny_bundle, tmp_path)
    passed(kept, golden, tmp_path)
    kept.broken = 0
    assert passed(kept, golden, tmp_path) == (False, 9)


def test_a_cache_that_cannot_be_written_costs_time_only(tiny_bundle: Any, golden: Golden, tmp_path: Path) -> None:
    engine(tiny_bundle, tmp_path)
    kept = engine(tiny_bundle, tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert [passed(kept, golden, tmp_path / "file") for _ in range(2)] == [(True, 8), (True, 8)]


def test_the_third_opening_of_a_bundle_runs_one_golden_crop(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(backend: Any, golden: Golden, tolerance: float) -> Any:
        counts.append(len(golden.crops))
        return check_golden(backend, golden, tolerance)

    monkeypatch.setattr(proof, "check_golden", counted)
    path = tiny_bundle.make()
    for _ in range(3):
        open_bundle(path, cache_dir=tmp_path / "cache").close()
    assert counts[0] == counts[1] > 1
    assert counts[2:] == [1]


def test_a_compiled_engine_is_kept_after_the_first_answer_or_at_the_end(tiny_bundle: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "engines"
    with open_bundle(tiny_bundle.make(), cache_dir=tmp_path / "cache", layout="fused") as scope:
        assert not folder.exists()
        scope.classify(tiny_bundle.cell())
    assert len(list(folder.glob("*.engine"))) == 1
    folder = tmp_path / "other" / "engines"
    open_bundle(tiny_bundle.make(), cache_dir=tmp_path / "other", layout="fused").close()
    assert len(list(folder.glob("*.engine"))) == 1


def test_what_is_put_off_is_done_once() -> None:
    done: list[int] = []
    for calls in (["finish"], ["start", "finish"], ["start", "start", "finish", "finish"], ["finish", "start", "finish"]):
        later = DeferredTask(lambda: done.append(1), "test")
        for call in calls:
            getattr(later, call)()
    assert len(done) == 4
