"""Opening a bundle: beside a writer, with an untrustworthy cache, and with arguments of another type."""

from __future__ import annotations

import copy
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blastscope.runtime import session
from blastscope.runtime.backends.blob_store import engine_file, read_blob, write_blob
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.errors import BundleError, DigestMismatch, UsageError
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.session import open_bundle

OPTIONS: dict[str, Any] = {"device": "cpu", "layout": "fused"}


@pytest.fixture
def pair(tiny_bundle: Any) -> tuple[Any, Any]:
    """Two makers of bundles whose networks answer differently."""
    other = copy.copy(tiny_bundle)
    other.weight = -tiny_bundle.weight
    return tiny_bundle, other


def put(source: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)


def changing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Lets `change` happen just after a bundle was read and verified."""
    real = session.read_bundle

    def read(*args: Any, **options: Any) -> Bundle:
        found = real(*args, **options)
        change()
        return found

    monkeypatch.setattr(session, "read_bundle", read)


def test_a_bundle_that_is_replaced_while_it_is_opened_answers_as_itself(
    pair: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    first, second, place, cache = one.make(), other.make(), tmp_path / "place", tmp_path / "cache"
    put(first, place)
    changing(monkeypatch, lambda: put(second, place))
    crops = one.crops(5)
    with open_bundle(place, cache_dir=cache, **OPTIONS) as scope:
        assert scope.bundle.digest == read_bundle(second).digest
        np.testing.assert_allclose(scope.infer(crops), other.expected(crops), atol=2e-5)
    monkeypatch.undo()
    for path, tiny in ((first, one), (second, other)):  # and the cache holds no engine of one as that of the other
        for _ in range(2):
            with open_bundle(path, cache_dir=cache, **OPTIONS) as scope:
                np.testing.assert_allclose(scope.infer(crops), tiny.expected(crops), atol=2e-5)
                assert not any("replaced" in note for note in scope.notes)


def test_a_bundle_that_is_replaced_again_and_again_is_said_to_be_so(
    pair: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles, place = [tiny.make() for tiny in pair], tmp_path / "place"
    put(bundles[0], place)

    def change() -> None:
        bundles.reverse()
        put(bundles[0], place)

    changing(monkeypatch, change)
    with pytest.raises(DigestMismatch, match="was changed since the bundle was read: open it anew"):
        open_bundle(place, cache_dir=tmp_path / "cache", **OPTIONS)


def test_reopening_verifies_that_the_bundle_is_still_there(pair: tuple[Any, Any], tmp_path: Path) -> None:
    one, other = pair
    first, second, place = one.make(), other.make(), tmp_path / "place"
    put(first, place)
    crops = one.crops(3)
    with open_bundle(place, cache_dir=tmp_path / "cache", **OPTIONS) as scope:
        scope.reopen()
        put(second, place)
        with pytest.raises(DigestMismatch, match="changed since the bundle was read"):
            scope.reopen()
        put(first, place)
        scope.reopen()
        np.testing.assert_allclose(scope.infer(crops), one.expected(crops), atol=2e-5)
        (place / "golden.safetensors").unlink()
        with pytest.raises(DigestMismatch, match="is missing"):
            scope.reopen()


def test_a_wrong_engine_with_a_right_seal_is_replaced(pair: tuple[Any, Any], tmp_path: Path) -> None:
    one, _ = pair
    bundles, cache, digests = [tiny.make() for tiny in pair], tmp_path / "cache", []
    for path in bundles:
        with open_bundle(path, cache_dir=cache, **OPTIONS) as scope:
            digests.append(scope.audit.engine)
            scope.classify(one.cell())
    wrong = read_blob(engine_file(cache, digests[1]))
    assert wrong is not None
    assert write_blob(engine_file(cache, digests[0]), wrong.data.tobytes()) is None
    crops = one.crops(5)
    for replaced in (True, False, False):
        with open_bundle(bundles[0], cache_dir=cache, **OPTIONS) as scope:
            np.testing.assert_allclose(scope.infer(crops), one.expected(crops), atol=2e-5)
            assert any("not the one that it is kept as" in note for note in scope.notes) == replaced
            scope.classify(one.cell())


def test_a_replaced_bundle_leaves_no_candidate_remembered_as_failed(tiny_bundle: Any, tmp_path: Path) -> None:
    place, cache = tmp_path / "place", tmp_path / "cache"
    put(tiny_bundle.make("fp32", "int8"), place)
    with open_bundle(place, cache_dir=cache, device="cpu", threads=1) as scope:
        for graph in place.glob("*/*.onnx"):
            graph.write_bytes(b"of another bundle")
        scope.classify(tiny_bundle.cell())
    (note,) = (note for note in scope.notes if "is not measured" in note)
    assert "int8/ensemble.onnx was changed since it was verified" in note
    assert "null" not in "".join(kept.read_text() for kept in cache.glob("choices/*"))


def test_a_graph_that_breaks_the_format_is_told_with_bundle_and_file(tiny_bundle: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load_model_from_string(tiny_bundle.graph())
    del model.graph.output[-1]
    content = model.SerializeToString()
    tiny_bundle.graph = lambda **_: content
    path = tiny_bundle.make()
    for backend in ("openvino", "onnxruntime"):
        with pytest.raises(BundleError, match=r"fp32/ensemble\.onnx has the outputs probabilities, label, probability, not"):
            open_bundle(path, cache_dir=tmp_path / "cache", backend=backend, device="cpu")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX modes")
def test_what_is_cached_is_for_its_user_alone(tiny_bundle: Any, tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", tiny_bundle.make("fp32", "int8")
    for _ in range(2):
        with open_bundle(path, cache_dir=cache, device="cpu") as scope:
            scope.classify(tiny_bundle.cell())
    kept = list(cache.rglob("*"))
    assert {found.parent.name for found in kept if found.is_file()} >= {"engines", "choices"}
    for found in kept:
        assert stat.S_IMODE(found.stat().st_mode) == (0o700 if found.is_dir() else 0o600), found


# ---- arguments of another type


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ({"path": 3}, "path is 3: it must be a path"),
        ({"path": "a\0b"}, "path is 'a.x00b': it must be a path"),
        ({"cache_dir": 3}, "cache_dir is 3: it must be a path"),
        ({"queue": "4"}, "queue is '4': it must be a whole number"),
        ({"queue": 0}, "queue is 0: at least 1 is needed"),
        ({"threads": 100_000}, "threads is 100000: at most 1024 are allowed"),
        ({"queue": True}, "queue is True: it must be a whole number"),
        ({"threads": "2"}, "threads is '2': it must be a whole number"),
        ({"threads": 2.5}, "threads is 2.5: it must be a whole number"),
        ({"device": None}, "device is None, not text: say auto, cpu"),
        ({"precision": None}, "precision is None, not text"),
        ({"execution": 32}, "execution is 32, not text"),
        ({"backend": ["openvino"]}, "backend is ..openvino.., not text"),
        ({"workload": b"latency"}, "workload is b'latency', not text"),
        ({"layout": 1}, "layout is 1, not text"),
        ({"while_building": True}, "while_building is True, not text"),
        ({"tell": "me"}, "tell is 'me': it must be a function"),
        ({"allow_ungated": "no"}, "allow_ungated is 'no': say True or False"),
        ({"cascade": 1}, "cascade is 1: say True or False"),
        ({"validation": 1}, "validation is 1: it must be a path"),
    ],
)
def test_an_argument_of_another_type_is_told(tiny_bundle: Any, argument: dict[str, Any], text: str) -> None:
    options: dict[str, Any] = {"path": tiny_bundle.make(), "device": "cpu", "cache_dir": default_cache_dir(), **argument}
    with pytest.raises(UsageError, match=text):
        open_bundle(**options)


def test_the_cache_may_be_told_as_text_and_numbers_may_be_numpys(tiny_bundle: Any, tmp_path: Path) -> None:
    with open_bundle(str(tiny_bundle.make()), cache_dir=str(tmp_path / "cache"), threads=np.int64(1), device="cpu") as scope:
        scope.classify(tiny_bundle.cell())
    assert (tmp_path / "cache" / "engines").is_dir()
