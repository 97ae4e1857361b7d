"""Shapes of single operators, as ONNX Runtime computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from blastscope.runtime.bundle.graphs.limits import BATCH, check_limits  # noqa: E402
from blastscope.runtime.bundle.graphs.wire import UnfitGraph, parse_graph  # noqa: E402

SIDE = 9
LOWEST = -(2**63)


def numbers(*values: int) -> Any:
    return np.array(values, np.int64)


def weights(*shape: int) -> Any:
    return np.ones(shape, np.float32)


# operator, its inputs behind the first, its attributes, the other names of its outputs; `maps` is (2, 3, 9, 9), `rows` (2, 12)
CASES: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("Conv", "maps", [weights(4, 3, 3, 3)], {}),
    ("Conv", "maps", [weights(4, 3, 3, 3)], {"pads": [1, 0, 2, 1], "strides": [2, 3], "dilations": [2, 1]}),
    ("Conv", "maps", [weights(6, 1, 3, 3)], {"group": 3, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", "maps", [weights(4, 3, 4, 4)], {"auto_pad": "VALID", "strides": [3, 2]}),
    ("MaxPool", "maps", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", "maps", [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 1, 1]}),
    ("AveragePool", "maps", [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("AveragePool", "maps", [], {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
    ("MaxPool", "maps", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [0, 1, 1, 0]}),
    ("GlobalAveragePool", "maps", [], {}),
    ("GlobalMaxPool", "maps", [], {}),
    ("Flatten", "maps", [], {"axis": 2}),
    ("Flatten", "maps", [], {"axis": -1}),
    ("Gemm", "rows", [weights(12, 5)], {}),
    ("Gemm", "rows", [weights(5, 12)], {"transB": 1}),
    ("MatMul", "maps", [weights(9, 4)], {}),
    ("MatMul", "maps", [weights(3, 9, 4)], {}),
    ("Einsum", "maps", [weights(9, 4)], {"equation": "n c h w, w k -> n k c"}),
    ("Reshape", "maps", [numbers(0, -1, 9)], {}),
    ("Reshape", "maps", [numbers(-1, 27)], {}),
    ("Transpose", "maps", [], {"perm": [0, 2, 3, 1]}),
    ("Transpose", "maps", [], {}),
    ("Concat", "maps", ["maps"], {"axis": -2}),
    ("Split", "maps", [numbers(2, 3, 4)], {"axis": 3}),
    ("Split", "maps", [], {"axis": -1, "num_outputs": 4}),
    ("Slice", "maps", [numbers(1, 0), numbers(8, 2), numbers(2, 1), numbers(3, 1)], {}),
    ("Slice", "maps", [numbers(-1), numbers(LOWEST), numbers(3), numbers(-2)], {}),
    ("Slice", "maps", [numbers(-3), numbers(2**63 - 1), numbers(-1)], {}),
    ("Slice", "maps", [numbers(5), numbers(1), numbers(2)], {}),
    ("Gather", "maps", [np.array([[0, 2], [1, 1]])], {"axis": 2}),
    ("Gather", "maps", [np.array(1)], {"axis": 1}),
    ("GatherElements", "maps", [np.zeros((2, 1, 4, 9), np.int64)], {"axis": 2}),
    ("Unsqueeze", "maps", [numbers(-1, 1)], {}),
    ("ReduceMean", "maps", [numbers(-1, 2)], {"keepdims": 0}),
    ("ReduceMean", "maps", [], {}),
    ("ReduceMax", "maps", [numbers(1)], {}),
    ("ReduceSum", "maps", [], {"noop_with_empty_axes": 1}),
    ("ArgMax", "maps", [], {"axis": -1, "keepdims": 0}),
    ("Expand", "maps", [numbers(4, 1, 1, 1, 9)], {}),
    ("Tile", "maps", [numbers(1, 2, 1, 3)], {}),
    ("Pad", "maps", [numbers(0, 1, 2, 0, 0, 0, -1, 3)], {}),
    ("Pad", "maps", [numbers(2, 1), "", numbers(2)], {}),
    ("Resize", "maps", ["", np.float32([1, 1, 1.5, 0.7])], {}),
    ("Resize", "maps", ["", "", numbers(2, 3, 20, 4)], {}),
    ("Resize", "maps", ["", "", numbers(20, 4)], {"axes": [2, 3], "keep_aspect_ratio_policy": "stretch"}),
    ("DepthToSpace", "spread", [], {"blocksize": 3}),
    ("SpaceToDepth", "maps", [], {"blocksize": 3}),
    ("Where", "mask", [weights(5, 1, 1, 1, 1), weights(1)], {}),
    ("Add", "maps", [weights(5, 1, 3, 1, 9)], {}),
    ("PRelu", "maps", [weights(3, 1, 1)], {}),
    ("PRelu", "maps", [weights(1)], {}),
    ("PRelu", "rows", [weights(12)], {}),
    ("CumSum", "maps", [np.array(1)], {}),
    ("Softmax", "maps", [], {"axis": 1}),
    ("Range", "", [numbers(7).reshape(()), numbers(-8).reshape(()), numbers(-2).reshape(())], {}),
    ("ConstantOfShape", "", [numbers(2, 0, 3)], {}),
]


def model_of(operator: str, source: str, others: list[Any], attributes: dict[str, Any]) -> tuple[bytes, list[str]]:
    constants = {f"constant_{number}": value for number, value in enumerate(others) if not isinstance(value, str)}
    names = [other if isinstance(other, str) else f"constant_{number}" for number, other in enumerate(others)]
    parts = 3 if operator == "Split" and others else attributes.get("num_outputs", 1)
    made = [f"made_{number}" for number in range(parts)]
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["maps"], perm=[0, 3, 1, 2]),
        helper.make_node("Greater", ["maps", "half"], ["mask"]),
        helper.make_node("Tile", ["maps", "three"], ["spread"]),
        helper.make_node("Reshape", ["floats", "rest"], ["all"]),
        helper.make_node("Slice", ["all", "none", "twelve", "one"], ["rows"]),
        helper.make_node(operator, [source, *names] if source else names, made, **attributes),
    ]
    constants |= {"half": np.float32(0.5), "three": numbers(1, 3, 1, 1), "rest": numbers(0, -1)}
    constants |= {"none": numbers(0), "twelve": numbers(12), "one": numbers(1)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [onnx.ValueInfoProto(name=name) for name in made],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    whole = onnx.shape_inference.infer_shapes(model)  # gives the outputs their types, which must be declared
    return bytes(whole.SerializeToString()), made


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[3]}")
def test_a_shape_is_the_one_that_onnxruntime_computes(case: tuple[str, str, list[Any], dict[str, Any]]) -> None:
    content, made = model_of(*case)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    answers = session.run(made, {"crops": np.zeros((BATCH, SIDE, SIDE, 3), np.uint8)})
    known = check_limits(parse_graph(content))
    for name, answer in zip(made, answers, strict=True):
        assert known[name].shape == answer.shape
        if (value := known[name].value) is not None:
            np.testing.assert_array_equal(value, answer)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_a_resize_that_engines_take_for_different_ones_is_refused(policy: str) -> None:
    # of 9 x 9 ONNX Runtime makes 5 x 5 or 60 x 60, and OpenVINO 60 x 5
    content, _ = model_of("Resize", "maps", ["", "", numbers(60, 5)], {"axes": [2, 3], "keep_aspect_ratio_policy": policy})
    with pytest.raises(UnfitGraph, match=f"engines differ in what '{policy}' is"):
        check_limits(parse_graph(content))


UNEQUAL: dict[str, tuple[str, str, list[Any], dict[str, Any]]] = {
    # of 9 x 9 ONNX Runtime makes 5 x 5, as ONNX says, and OpenVINO 6 x 6 with a rim of the lowest float32
    "begins behind the picture": (
        "MaxPool",
        "maps",
        [],
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4},
    ),
    # of columns 0, 3 and 6, and one that isn't there
    "whether a window counts": ("AveragePool", "maps", [], {"kernel_shape": [3, 1], "strides": [2, 3], "ceil_mode": 1}),
    # the last window holds two rows of ones and nothing else: ONNX makes 1 of them, and OpenVINO 1/2
    "ends behind its padding": (
        "AveragePool",
        "maps",
        [],
        {"kernel_shape": [4, 1], "strides": [4, 1], "ceil_mode": 1, "pads": [1, 0, 0, 0], "count_include_pad": 1},
    ),
    # 9 slopes belong to columns; of a picture with 9 channels OpenVINO takes them for theirs
    "axis of a slope of one dimension": ("PRelu", "maps", [weights(9)], {}),
    # OpenVINO divides as if the bias were 1
    "its bias": ("LRN", "maps", [], {"size": 3, "bias": 1.5}),
    # of -3 ONNX makes 3, and OpenVINO leaves it
    "a norm over no axes": ("ReduceL1", "maps", [], {"noop_with_empty_axes": 1}),
    # of ones and zeros in turn ONNX Runtime makes other grays than OpenVINO: it widens the window where a picture shrinks, ...
    "what antialias is": (
        "Resize",
        "maps",
        ["", np.float32([1, 1, 0.5, 0.5])],
        {"mode": "linear", "antialias": 1},
    ),
    # ... and gives what lies within the picture the weight of what doesn't
    "what exclude_outside is": (
        "Resize",
        "maps",
        ["", np.float32([1, 1, 2, 2])],
        {"mode": "cubic", "exclude_outside": 1},
    ),
}


@pytest.mark.parametrize("why", UNEQUAL)
def test_what_openvino_computes_otherwise_than_onnx_says_is_refused(why: str) -> None:
    with pytest.raises(UnfitGraph, match=rf"\({UNEQUAL[why][0]}\): engines differ in .*{why}"):
        check_limits(parse_graph(model_of(*UNEQUAL[why])[0]))


def test_a_border_that_counts_is_given_in_numbers() -> None:
    window = {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}
    check_limits(parse_graph(model_of("AveragePool", "maps", [], window)[0]))
    with pytest.raises(UnfitGraph, match="a border that counts must be given in numbers"):
        check_limits(parse_graph(model_of("AveragePool", "maps", [], {**window, "count_include_pad": 1})[0]))


def test_group_normalization_of_which_onnxruntime_may_make_nan_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> graph (uint8[N, 9, 9, 3] crops) => (float[N, 9, 9, 3] made)
        <float[9] scale = {1, 1, 1, 1, 1, 1, 1, 1, 1}, float[9] bias = {0, 0, 0, 0, 0, 0, 0, 0, 0}> {
            values = Cast <to = 1> (crops)
            made = GroupNormalization <num_groups = 3> (values, scale, bias)
        }"""
    with pytest.raises(UnfitGraph, match="InstanceNormalization between two Reshapes"):
        check_limits(parse_graph(onnx.parser.parse_model(text).SerializeToString()))


def test_numbers_that_shapes_depend_on_are_those_that_onnxruntime_computes() -> None:
    nodes = [
        helper.make_node("Shape", ["crops"], ["sides"]),
        helper.make_node("Gather", ["sides", "one"], ["side"], axis=0),
        helper.make_node("Div", ["side", "minus_two"], ["halved"]),
        helper.make_node("Mod", ["halved", "three"], ["rest"]),
        helper.make_node("Unsqueeze", ["rest", "zeros"], ["row"]),
        helper.make_node("Concat", ["row", "sides", "row"], ["long"], axis=0),
        helper.make_node("Slice", ["long", "ends", "starts", "zeros", "back"], ["turned"]),
        helper.make_node("Cast", ["turned"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["floats"], ["roots"]),
        helper.make_node("Floor", ["roots"], ["whole"]),
        helper.make_node("Equal", ["long", "again"], ["same"]),
        helper.make_node("Where", ["same", "ones", "long"], ["mixed"]),
        helper.make_node("ReduceProd", ["sides"], ["count"], keepdims=0),
        helper.make_node("Shape", ["crops"], ["middle"], start=1, end=-1),
    ]
    constants = {
        "one": np.array(1), "minus_two": np.array(-2), "three": np.array(3), "zeros": numbers(0), "ends": numbers(-2),
        "starts": numbers(0), "back": numbers(-1), "again": numbers(2, 2, 9, 9, 3, 0), "ones": numbers(1),
    }  # fmt: skip
    made = [output for node in nodes for output in node.output]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [onnx.ValueInfoProto(name=name) for name in made],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = onnx.shape_inference.infer_shapes(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    answers = session.run(made, {"crops": np.zeros((BATCH, SIDE, SIDE, 3), np.uint8)})
    known = check_limits(parse_graph(content))
    for name, answer in zip(made, answers, strict=True):
        np.testing.assert_array_equal(known[name].value, answer, err_msg=name)
