"""Fused graphs fall into parts that answer as the whole does, and what can't be cut stays whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_builders import CHANNELS, Towers, crops, reference, two_towers

from blastscope import SHIPPED_BUNDLE
from blastscope.runtime.backends.openvino.backend import _read, open_engine
from blastscope.runtime.backends.openvino.infer_request import core, import_openvino
from blastscope.runtime.backends.openvino.partition import NotPartitionable, partition
from blastscope.runtime.backends.protocol import Cascade, Engine, EngineOptions
from blastscope.runtime.backends.uint8_activations import with_uint8_activations
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.io.hashing import file_sha256

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mirrored": {"mirrored": True},
    "trunk": {"trunk": True, "mirrored": True},
    "b-first": {"b_first": True},
    "half": {"half": True, "trunk": True},
    "int8": {"int8": True},
    "int8-trunk": {"int8": True, "trunk": True, "mirrored": True},
}


def opened(folder: Path, data: bytes, **options: Any) -> Engine:
    path = folder / "towers.onnx"
    path.write_bytes(data)
    return open_engine(path, file_sha256(path), EngineOptions(**{"threads": 2, **options}))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_answer_as_the_whole(shape: str, tmp_path: Path) -> None:
    data, execution = two_towers(**SHAPES[shape]), "int8" if shape.startswith("int8") else "f32"
    images = crops(12)
    whole = opened(tmp_path, data, execution=execution).lanes[0].infer(images)
    if execution == "f32":  # one rounding step of an activation moves a probability by 0.1 here
        np.testing.assert_allclose(whole, reference(data, images), atol=2e-3 if shape == "half" else 1e-5)
    for options in ({"layout": "side-by-side"}, {"layout": "staged"}, {"layout": "staged", "workload": "throughput"}):
        engine = opened(tmp_path, data, execution=execution, **options)
        assert engine.layout == options["layout"]
        for lane in engine.lanes:
            # an int8 head may see its input unrounded
            np.testing.assert_allclose(lane.infer(images), whole, atol=0.01 if execution == "int8" else 1e-6)
        engine.close()


def test_a_and_b_are_told_apart_by_their_place_among_the_voters(tmp_path: Path) -> None:
    for shape in ("plain", "b-first", "trunk"):
        data, images = two_towers(**SHAPES[shape]), crops(6)
        (lane,) = opened(tmp_path, data, layout="staged").partial_lanes
        for first in (0, 1):
            answers = lane.infer_in_turn(images, Cascade(first, 0.0))
            np.testing.assert_allclose(answers[:, first], reference(data, images)[:, first], atol=1e-5)
            assert np.isnan(np.delete(answers, first, axis=1)).all()


def test_what_both_share_is_computed_once() -> None:
    def heavy(model: Any) -> int:
        return sum(node.get_type_name() == "Convolution" for node in model.get_ordered_ops())

    def parts(**shape: Any) -> Any:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            path = Path(folder) / "towers.onnx"
            path.write_bytes(two_towers(**shape))
            content = path.read_bytes()
            return partition(
                import_openvino(), _read(with_uint8_activations(content, path) if shape.get("int8") else content, path)
            )

    stem, a, b, rest, opinion = parts(trunk=True)
    assert [heavy(model) for model in (stem, a, b, rest, opinion)] == [1, 2, 2, 0, 0]
    stem, a, b, rest, _ = parts()
    assert stem is None
    assert [heavy(model) for model in (a, b, rest)] == [2, 2, 0]


def test_an_int8_convolution_stays_one_in_its_part(tmp_path: Path) -> None:
    path = tmp_path / "towers.onnx"
    path.write_bytes(two_towers(int8=True, trunk=True))
    parts = partition(import_openvino(), _read(with_uint8_activations(path.read_bytes(), path), path))
    for model in (parts.stem, parts.a, parts.b):
        runtime = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
        kinds = [
            str(node.get_rt_info()["runtimePrecision"].astype(str))
            for node in runtime.get_ordered_ops()
            if str(node.get_rt_info()["layerType"].astype(str)) == "Convolution"
        ]
        assert kinds
        assert set(kinds) <= {"u8", "i8"}


def four_passes() -> bytes:
    towers = Towers()
    pixels = towers.pixels()
    a, b, tuned_a, tuned_b = (towers.pool(towers.convolve(towers.convolve(pixels, given=3))) for _ in range(4))
    return towers.answer(towers.linear(a, CHANNELS, 2), towers.linear(b, CHANNELS, 2), towers.head(tuned_a, tuned_b))


def unlike_backbones() -> bytes:
    towers = Towers()
    pixels = towers.pixels()
    a = towers.pool(towers.convolve(pixels, given=3))
    b = towers.pool(towers.convolve(towers.convolve(pixels, given=3)))
    return towers.answer(towers.linear(a, CHANNELS, 2), towers.linear(b, CHANNELS, 2), towers.head(a, b))


def one_backbone() -> bytes:
    towers = Towers()
    features = towers.pool(towers.convolve(towers.pixels(), given=3))
    return towers.answer(*(towers.linear(features, CHANNELS, 2) for _ in range(3)))


def other_order() -> bytes:
    towers = Towers()
    pixels = towers.pixels()
    a, b = (towers.pool(towers.convolve(pixels, given=3)) for _ in range(2))
    return towers.answer(towers.linear(a, CHANNELS, 2), towers.head(a, b), towers.linear(b, CHANNELS, 2))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (four_passes, "more than two backbones"),
        (unlike_backbones, "different architectures"),
        (one_backbone, "no convolutions lie side by side"),
        (other_order, "no convolutions lie side by side"),
    ],
)
def test_what_cannot_be_cut_says_why_and_stays_whole(make: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"can't be cut into parts: .*{why}") as caught:
        opened(tmp_path, make(), layout="side-by-side")
    assert isinstance(caught.value.__cause__, NotPartitionable)
    images = crops(3)
    np.testing.assert_allclose(opened(tmp_path, make()).lanes[0].infer(images), reference(make(), images), atol=1e-5)


def test_a_graph_that_does_not_join_three_voters_stays_whole(tiny_bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no operator puts the logits"):
        opened(tmp_path, tiny_bundle.graph(), layout="side-by-side")


def test_voters_on_one_trunk_stay_whole() -> None:
    bundle = read_bundle(SHIPPED_BUNDLE)
    entry = bundle.manifest.graphs[0]
    with pytest.raises(EngineError, match="can't be cut into parts"):
        open_engine(bundle.file(entry), entry.sha256, EngineOptions(layout="side-by-side", threads=2))


def test_parts_from_the_cache_answer_to_the_bit_without_the_graph(tmp_path: Path) -> None:
    images = crops(4)
    options: dict[str, Any] = {"layout": "side-by-side", "cache_dir": tmp_path / "cache"}
    first = opened(tmp_path, two_towers(trunk=True), **options)
    graph = tmp_path / "towers.onnx"
    digest = file_sha256(graph)
    graph.unlink()
    second = open_engine(graph, digest, EngineOptions(threads=2, **options))
    assert second.digest == first.digest
    assert second.notes == ()
    np.testing.assert_array_equal(second.lanes[0].infer(images), first.lanes[0].infer(images))


def test_a_layout_that_so_few_cores_do_not_have_is_refused(tmp_path: Path) -> None:
    for layout, options in (("side-by-side", {"threads": 1}), ("side-by-side", {"workload": "throughput"}), ("paired", {})):
        with pytest.raises(UsageError, match="may be had"):
            opened(tmp_path, two_towers(), layout=layout, **options)


@pytest.mark.parametrize(("threads", "lanes"), [(2, 1), (3, 1), (4, 2)])
def test_paired_streams_have_two_cores_each(threads: int, lanes: int, tmp_path: Path) -> None:
    engine = opened(tmp_path, two_towers(), layout="paired", workload="throughput", threads=threads)
    assert len(engine.lanes) == lanes
    np.testing.assert_allclose(engine.lanes[0].infer(crops(2)), reference(two_towers(), crops(2)), atol=1e-5)
