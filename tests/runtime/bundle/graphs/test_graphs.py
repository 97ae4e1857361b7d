"""Graphs that no library may see: refused by what they would take, counted from a few bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from blastscope import SHIPPED_BUNDLE  # noqa: E402
from blastscope.runtime.bundle import read_bundle  # noqa: E402
from blastscope.runtime.bundle.graphs import RefusedGraph, examine_graph, read_graph  # noqa: E402
from blastscope.runtime.bundle.graphs.limits import BATCH, check_limits  # noqa: E402
from blastscope.runtime.bundle.graphs.wire import FIELD_LIMIT, NODE_LIMIT, UnfitGraph, parse_graph  # noqa: E402
from blastscope.runtime.io.hashing import bytes_sha256  # noqa: E402

SIDE = 8
Nodes = list[Any]


def model_of(nodes: Nodes, constants: dict[str, Any] | None = None, *, opset: int = 18) -> Any:
    """A model of one output `made`, whatever its shape."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def bytes_of(nodes: Nodes, constants: dict[str, Any] | None = None, **options: Any) -> bytes:
    return bytes(model_of(nodes, constants, **options).SerializeToString())


def node(kind: str, *inputs: str, to: str = "made", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), [to], name=f"make_{to}", **attributes)


def cast(source: str, made: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [made], to=kind)


FLOATS = cast("crops", "floats", TensorProto.FLOAT)


# ---- memory and time: each file is below a kilobyte


def doubled(times: int) -> Nodes:
    names = ["floats", *(f"x{number}" for number in range(times - 1)), "made"]
    return [FLOATS, *(node("Concat", one, one, to=two, axis=1) for one, two in pairwise(names))]


HUNGRY: dict[str, tuple[Nodes, dict[str, Any], str]] = {
    "a constant that is filled": ([node("ConstantOfShape", "shape")], {"shape": [3000, 1000, 1000]}, "too much memory"),
    "a constant that is spread": ([node("Expand", "one", "shape")], {"one": np.float32([1]), "shape": [2**31 - 1]}, "memory"),
    "tiles": ([FLOATS, node("Tile", "floats", "by")], {"by": [1, 1000, 1000, 1]}, "too much memory"),
    "tiles without end": ([node("Tile", "one", "by")], {"one": np.float32([[1]]), "by": [2**40, 2**40]}, "larger ones"),
    "padding": ([FLOATS, node("Pad", "floats", "pads")], {"pads": [0, 0, 0, 0, 0, 60000, 60000, 0]}, "too much memory"),
    "doubling": (doubled(30), {}, "too much memory"),
    "an outer product": (
        [FLOATS, node("Reshape", "floats", "column", to="x"), node("Reshape", "floats", "row", to="y"),
         node("Tile", "x", "down", to="xx"), node("Tile", "y", "across", to="yy"), node("Add", "xx", "yy")],
        {"column": [-1, 1], "row": [1, -1], "down": [100, 1], "across": [1, 100]},
        "too much memory",
    ),
    "a picture that is enlarged": (
        [FLOATS, node("Resize", "floats", "", "scales")], {"scales": np.float32([1, 5000, 5000, 1])}, "too much memory"
    ),
    "numbers that are counted off": (
        [node("Range", "zero", "end", "step")], {"zero": np.float32(0), "end": np.float32(1e9), "step": np.float32(1)}, "memory"
    ),
    "a product of large constants": (
        [node("ConstantOfShape", "shape", to="x"), node("MatMul", "x", "x")], {"shape": [1200, 1200]}, "takes too long"
    ),
    "many products": (
        [FLOATS, node("Tile", "floats", "by", to="x0"), *(node("MatMul", f"x{n}", "x0", to=f"x{n + 1}") for n in range(1500)),
         node("Identity", "x1500")],
        {"by": [1, 1, 96, 256]},
        "takes too long",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HUNGRY)
def test_a_small_file_that_asks_for_much_is_refused(what: str) -> None:
    nodes, constants, text = HUNGRY[what]
    with pytest.raises(UnfitGraph, match=text):
        examine_graph(bytes_of(nodes, constants))


# ---- what no exported network has


def loop() -> Any:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    return helper.make_node("Loop", ["turns", "go"], [], body=body)


def changed(change: Callable[[Any], Any]) -> bytes:
    model = model_of([FLOATS, node("Identity", "floats")], {"weight": np.zeros(4, np.float32)})
    change(model)
    return bytes(model.SerializeToString())


def outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def longer(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def shorter(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 12


STRANGE: dict[str, tuple[bytes, str]] = {
    "a loop": (bytes_of([loop()], {"turns": np.int64(3), "go": np.bool_(True)}), "field 'g' in a attribute"),
    "an operator that is unknown": (bytes_of([node("Sparkle", "crops")]), r"has the operator 'make_made' \(Sparkle\)"),
    "random numbers": (bytes_of([node("RandomNormal", shape=[2, 2])]), "RandomNormal"),
    "another domain": (bytes_of([node("Gelu", "crops", domain="com.microsoft")]), "'Gelu' of the domain 'com.microsoft'"),
    "another domain's version": (
        changed(lambda model: model.opset_import.append(helper.make_opsetid("evil", 1))), "operators of the domain 'evil'"
    ),
    "no version": (changed(lambda model: model.ClearField("opset_import")), "names 0 versions"),
    "a version to come": (changed(lambda model: setattr(model.opset_import[0], "version", 99)), "of version 99"),
    "functions": (changed(lambda model: model.functions.add(name="f")), "field 'functions' in a model"),
    "training": (changed(lambda model: model.training_info.add()), "field 'training_info' in a model"),
    "weights in another file": (changed(outside), "external_data|in another file"),
    "sparse weights": (changed(lambda model: model.graph.sparse_initializer.add()), "field 'sparse_initializer' in a graph"),
    "weights that aren't there": (changed(longer), "dimensions that can't be"),
    "weights that are cut off": (changed(shorter), "has 4 elements and holds another number"),
    "text as weights": (changed(lambda model: model.graph.initializer.add(name="x", data_type=8, string_data=[b"x"])), "field"),
    "a weight twice": (changed(lambda model: model.graph.initializer.append(model.graph.initializer[0])), "'weight' twice"),
    "what nothing makes": (bytes_of([node("Identity", "nothing")]), "uses 'nothing' in 'make_made' before anything makes it"),
    "a circle": (bytes_of([node("Identity", "made", to="x"), node("Identity", "x")]), "before anything makes it"),
    "an output twice": (bytes_of([FLOATS, node("Identity", "floats"), node("Identity", "floats")]), "makes 'made' twice"),
    "a shape that is computed": (
        bytes_of([FLOATS, cast("floats", "x", TensorProto.INT64), node("Reshape", "floats", "x")]),
        "a shape depends on what the network computes",
    ),
    "a convolution that doesn't fit": (
        bytes_of([FLOATS, node("Conv", "floats", "w")], {"w": np.zeros((4, 3, 3, 3), np.float32)}), "don't fit"
    ),
    "an attribute of another type": (bytes_of([FLOATS, node("Concat", "floats", axis="x")]), "axis is no whole number"),
    "too many operators": (bytes_of([node("Identity", "crops", to=f"x{n}") for n in range(NODE_LIMIT + 1)]), "20001 operators"),
    "noise": (b"not an ONNX file", "is not an ONNX file|damaged|field"),
    "nothing": (b"", "holds no graph"),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_what_no_exported_network_has_is_refused(what: str) -> None:
    content, text = STRANGE[what]
    with pytest.raises(UnfitGraph, match=text):
        examine_graph(content)


def test_empty_messages_by_the_million_are_counted_not_made() -> None:
    empty = b"\x0a\x00" * (FIELD_LIMIT // 2)  # a node of two bytes
    graph = empty + empty
    content = b"\x08\x09\x42\x04\x0a\x00\x10\x12\x3a" + varint(len(graph)) + graph
    with pytest.raises(UnfitGraph, match=f"more than {FIELD_LIMIT} fields|operators, at most"):
        parse_graph(content)


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def test_a_field_that_stands_twice_is_not_read_in_two_ways() -> None:
    """Protobuf's readers merge two graphs; another reader may take the last."""
    graph = model_of([FLOATS, node("Identity", "floats")]).graph.SerializeToString()
    once = b"\x3a" + varint(len(graph)) + graph
    with pytest.raises(UnfitGraph, match="the field 'graph' of a model can't be read"):
        parse_graph(once + once)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with pytest.raises(UnfitGraph):
        examine_graph(noise)


@given(st.data())
def test_a_graph_with_a_changed_byte_is_read_or_refused(data: Any) -> None:
    content = bytearray(
        bytes_of([FLOATS, node("Conv", "turned", "w", pads=[1, 1, 1, 1])], {"w": np.zeros((2, 3, 3, 3), np.float32)})
    )
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    try:
        examine_graph(bytes(content))
    except UnfitGraph:
        return


# ---- what is right is read as onnx reads it


def test_the_shipped_graphs_are_read_as_onnx_reads_them() -> None:
    bundle = read_bundle(SHIPPED_BUNDLE)
    for entry in bundle.manifest.graphs:
        content = bundle.read(entry)
        examine_graph(content, models=entry.models, side_px=bundle.manifest.crop.side_px)
        ours, theirs = parse_graph(content), onnx.load_model_from_string(content).graph
        assert [(one.operator, one.inputs, one.outputs) for one in ours.nodes] == [
            (one.op_type, tuple(one.input), tuple(one.output)) for one in theirs.node
        ]
        for one, other in zip(ours.nodes, theirs.node, strict=True):
            wanted = {found.name: helper.get_attribute_value(found) for found in other.attribute}
            assert {name: value for name, value in one.attributes.items() if isinstance(value, int | float | list | bytes)} == {
                name: value for name, value in wanted.items() if not isinstance(value, TensorProto)
            }
        for weight in theirs.initializer:
            np.testing.assert_array_equal(ours.tensors[weight.name].array(), numpy_helper.to_array(weight))


def test_shapes_are_those_that_onnx_infers() -> None:
    bundle = read_bundle(SHIPPED_BUNDLE)
    content = bundle.read(bundle.manifest.graphs[0])
    model = onnx.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = BATCH
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    known = check_limits(parse_graph(content))
    compared = 0
    for value in inferred:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if len(dims) == len(value.type.tensor_type.shape.dim):
            assert known[value.name].shape == tuple(dims), value.name
            compared += 1
    assert compared > 0.8 * len(model.graph.node)


def test_numbers_are_read_whichever_field_they_stand_in() -> None:
    kinds = [
        (TensorProto.FLOAT, 1.5),
        (TensorProto.INT64, -3),
        (TensorProto.INT32, -3),
        (TensorProto.INT8, -3),
        (TensorProto.BOOL, 1),
    ]
    kinds += [(TensorProto.DOUBLE, 2.5), (TensorProto.FLOAT16, 0.5), (TensorProto.UINT8, 200)]
    model = model_of([FLOATS, node("Identity", "floats")])
    for number, (kind, value) in enumerate(kinds):
        model.graph.initializer.append(helper.make_tensor(f"w{number}", kind, [2], [value, value]))
    for tensor in model.graph.initializer:
        wanted = numpy_helper.to_array(tensor)
        found = parse_graph(model.SerializeToString()).tensors[tensor.name].array()
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


# ---- the interface of a bundle's graph


def redeclared(tiny: Any, change: Callable[[Any], Any]) -> bytes:
    model = onnx.load_model_from_string(tiny.graph())
    change(model.graph)
    return bytes(model.SerializeToString())


def shape(value: Any, *dims: Any, kind: int | None = None) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind or value.type.tensor_type.elem_type, dims))


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a fixed batch": (lambda graph: shape(graph.input[0], 1, 16, 16, 3), r"takes \(1, 16, 16, 3\), not .* with N free"),
    "floats for bytes": (lambda graph: shape(graph.input[0], "N", 16, 16, 3, kind=1), "takes type 1 in 4 dimensions"),
    "channels first": (lambda graph: shape(graph.input[0], "N", 3, 16, 16), r"takes \(N, 3, 16, 16\)"),
    "another side": (lambda graph: shape(graph.input[0], "N", 24, 24, 3), r"takes \(N, 24, 24, 3\), not .*16, 16"),
    "an open side": (lambda graph: shape(graph.input[0], "N", "S", "S", 3), r"takes \(N, S, S, 3\)"),
    "another input": (lambda graph: graph.input.append(helper.make_tensor_value_info("more", 1, [1])), "inputs crops, more"),
    "no vote": (lambda graph: graph.output.pop(), "has the outputs probabilities, label, probability, not .*voter"),
    "another output": (lambda graph: graph.output.append(helper.make_tensor_value_info("six", 1, ["N", 6])), "voter, six, not"),
    "another type": (lambda graph: shape(graph.output[1], "N", kind=7), "declares 'label' as ONNX's type 7, not int32"),
    "another rank": (
        lambda graph: shape(graph.output[0], "N", 6),
        r"gives 'probabilities' as \(N, 6\), not float32 \(N, 3, 2\)",
    ),
    "fewer voters": (lambda graph: shape(graph.output[0], "N", 2, 2), r"as \(N, 2, 2\)"),
    "a batch of one": (lambda graph: shape(graph.output[0], 1, 3, 2), r"as \(1, 3, 2\)"),
    "another batch than is said": (lambda graph: rewired(graph), r"gives 'label' as \(12,\), not int32 \(N\)"),
}


def rewired(graph: Any) -> None:
    """The label of each probability in place of each cell's."""
    whole = helper.make_node("Reshape", ["probabilities", "whole"], ["all"])
    graph.node.extend([whole, helper.make_node("Cast", ["all"], ["labels"], to=TensorProto.INT32)])
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "whole"))
    next(one for one in graph.node if "label" in one.output).output[0] = "other"
    graph.node[-1].output[0] = "label"


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_with_another_interface_is_no_bundles(tiny_bundle: Any, what: str) -> None:
    change, text = WRONG[what]
    with pytest.raises(UnfitGraph, match=text):
        examine_graph(redeclared(tiny_bundle, change), models="ensemble", side_px=16)
    examine_graph(tiny_bundle.graph(), models="ensemble", side_px=16)


def test_a_softmax_in_another_type_is_refused(tiny_bundle: Any) -> None:
    def half(graph: Any) -> None:
        softmax = next(one for one in graph.node if one.op_type == "Softmax")
        graph.node.insert(list(graph.node).index(softmax), helper.make_node("Cast", ["logits"], ["halves"], to=10))
        softmax.input[0] = "halves"

    with pytest.raises(UnfitGraph, match=r"ONNX's type|not float32"):
        examine_graph(redeclared(tiny_bundle, half), models="ensemble", side_px=16)


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(0)])
def test_int8_that_is_not_symmetric_is_refused(tiny_bundle: Any, zero: Any) -> None:
    model = onnx.load_model_from_string(tiny_bundle.graph(precision="int8"))
    examine_graph(model.SerializeToString(), models="ensemble")
    tensor = next(one for one in model.graph.initializer if one.name == "zero")
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(zero), "zero"))
    with pytest.raises(UnfitGraph, match=r"quantises asymmetrically|only int8 is quantised"):
        examine_graph(model.SerializeToString(), models="ensemble")


# ---- reading


def test_what_is_read_is_what_was_verified(tiny_bundle: Any, tmp_path: Path) -> None:
    path, content = tmp_path / "graph.onnx", tiny_bundle.graph()
    path.write_bytes(content)
    assert read_graph(path, bytes_sha256(content), models="ensemble", side_px=16) == content
    path.write_bytes(tiny_bundle.graph(wrong=1.0))
    with pytest.raises(RefusedGraph, match="was changed since it was verified") as caught:
        read_graph(path, bytes_sha256(content))
    assert "c7': fp32/graph.onnx was changed" in str(caught.value.in_bundle(Path("c7"), "fp32/graph.onnx"))
    path.unlink()
    with pytest.raises(RefusedGraph, match="can't be read any more"):
        read_graph(path, bytes_sha256(content))
