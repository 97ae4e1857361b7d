"""int8 graphs in every CPU engine, against the operators of the file computed one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_builders import two_towers

from blastscope.runtime.backends.onnx_file import parse_model
from blastscope.runtime.backends.onnxruntime.cpu import make_session, use_float_weights
from blastscope.runtime.backends.uint8_activations import use_uint8_activations, with_uint8_activations
from blastscope.runtime.errors import EngineError

SHAPE = (1, 4, 8, 8)
STEP = 1 / 32  # of an activation: int8 ends near 4
HALF = STEP / 2
RNG = np.random.default_rng(3)
WEIGHTS = {name: np.rint(RNG.normal(0, 20, (4, 4, 1, 1))).clip(-64, 64).astype(np.int8) for name in ("w", "v")}
POOL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [1, 1]}
CROP = {"starts": np.array([0]), "ends": np.array([4]), "axes": np.array([1])}
NUMBERS: dict[str, Any] = {
    "step": np.float32(STEP),
    "coarse": np.float32(2 * STEP),
    "zero": np.int8(0),
    "least": np.float32(0),
    "below": np.float32(-1),
    "six": np.float32(6),
    "one": np.float32(1),
    "between": np.float32(0.99),  # two codes
    "below between": np.float32(-0.99),
    "lowest": np.float32(-np.inf),
    "around": np.array([0, 0, 1, 1, 0, 0, 2, 1]),
    "weight_step": np.full(4, 1 / 64, np.float32),
    "weight_zero": np.zeros(4, np.int8),
    "ones": np.ones(4, np.int8),
    "bias": np.array([0.1, -0.2, 0.3, 0], np.float32),
    **CROP,
    **WEIGHTS,
}


class Net:
    """An int8 graph in the making, as calibration writes it: each value goes through int8 where `pair` is called."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def pair(self, source: str, step: str = "step") -> str:
        return self.node("DequantizeLinear", self.node("QuantizeLinear", source, step, "zero"), step, "zero")

    def convolve(self, source: str, weight: str = "w") -> str:
        kernel = self.node("DequantizeLinear", weight, "weight_step", "weight_zero", axis=0)
        return self.node("Conv", source, kernel, "bias")

    def answer(self, *sources: str, opset: int = 19) -> bytes:
        for place, source in enumerate(sources):
            self.node("Identity", source, out=f"y{place}")
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, SHAPE)],
            [value(f"y{place}", TensorProto.FLOAT, ["n", "c", "h", "w"]) for place in range(len(sources))],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in NUMBERS.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content


def moved(kind: str, *, cut: str = "Identity", branches: bool = False, opset: int = 19) -> bytes:
    """x, through int8, a convolution and a cut, moved or pooled, and convolved again; with `branches` also without that."""
    net = Net()
    before = net.pair(net.convolve(net.pair("x")))
    bounds = CLIPS.get(cut, [])
    value = net.pair(net.node(cut.split()[0], before, *bounds))
    options, inputs = MOVES[kind]
    after = net.pair(net.node(kind.split()[0], value, *inputs, **options))
    if kind.startswith("Concat"):
        after = net.pair(net.node("Slice", after, "starts", "ends", "axes"))
    results = [net.convolve(after, "v")]
    if branches:
        results.append(net.convolve(value, "w"))
    return net.answer(*results, opset=opset)


MOVES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Identity": ({}, []),
    "MaxPool": ({**POOL, "pads": [1, 1, 1, 1]}, []),
    "AveragePool": ({**POOL, "pads": [1, 1, 1, 1]}, []),
    "AveragePool counting its border": ({**POOL, "pads": [1, 0, 2, 1], "count_include_pad": 1}, []),
    "AveragePool rounding up": ({"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}, []),
    "AveragePool counting and rounding up": (
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1},
        [],
    ),
    "AveragePool counting a wide border": (
        {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [2, 2, 1, 1], "ceil_mode": 1, "count_include_pad": 1},
        [],
    ),
    "Pad": ({}, ["around"]),
    "Pad with the lowest": ({}, ["around", "lowest"]),
    "Pad with its edge": ({"mode": "edge"}, ["around"]),
    "Transpose": ({"perm": [0, 1, 3, 2]}, []),
    "Concat with x": ({"axis": 1}, ["x"]),
}
CLIPS = {
    "Clip": ["least", "six"],
    "Clip below 1": ["least", "one"],
    "Clip below 0.99": ["least", "between"],
    "Clip from -1": ["below", "one"],
    "Clip from -0.99": ["below between", "between"],
}
CUTS = ("Identity", "Relu", *CLIPS, "Sigmoid")


def values(seed: int = 5) -> NDArray[np.float32]:
    """What goes in: some of it beyond int8's end at either side."""
    return np.random.default_rng(seed).normal(0, 2.5, SHAPE).astype(np.float32)


def operators(content: bytes, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Each operator as the file says."""
    return in_onnxruntime(content, x, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


def in_onnxruntime(content: bytes, x: NDArray[np.float32], level: Any = None) -> list[NDArray[np.float32]]:
    if level is None:
        return list(make_session(content, Path("net.onnx"), threads=1).run(None, {"x": x}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    return list(onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x}))


def in_openvino(content: bytes, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(x)
    return [found[place] for place in range(len(compiled.outputs))]


ENGINES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def as_uint8(content: bytes) -> bytes:
    changed = with_uint8_activations(content, Path("net.onnx"))
    onnx.checker.check_model(onnx.load_from_string(changed), full_check=True)
    return changed


def kinds(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


def zeros(content: bytes) -> list[int]:
    """The zero points of the activations, in the graph's order."""
    model = onnx.load_from_string(content)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert all(zero.dtype == np.uint8 for zero in found)
    return [int(zero) for zero in found]


REACH = (
    float(max(np.abs(weight.astype(int)).sum(axis=1).max() for weight in WEIGHTS.values())) / 64
)  # of a step, through a layer


def assert_near(found: Sequence[NDArray[Any]], right: Sequence[NDArray[Any]], steps: float) -> None:
    """No value further off than a convolution makes of inputs that are `steps` off."""
    for one, other in zip(found, right, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=steps * STEP * REACH + 1e-4)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", MOVES)
def test_no_activation_moves_by_more_than_half_a_step(kind: str, cut: str) -> None:
    content, x = moved(kind, cut=cut, branches=True), values()
    changed = as_uint8(content)
    # finer codes after a cut: half a step there, and half a step again where the moved value is quantised
    exact = cut == "Identity" or cut.startswith("Clip from")
    assert_near(operators(changed, x), operators(content, x), 0 if exact else 1.5)


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("cut", ["Identity", "Relu", "Clip below 0.99", "Clip from -0.99"])
@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_answers_as_the_operators_say(engine: str, kind: str, cut: str, branches: bool) -> None:
    content, x = as_uint8(moved(kind, cut=cut, branches=branches)), values()
    # engines round an average and the value that it is quantised from at once: a step
    assert_near(ENGINES[engine](content, x), operators(content, x), 1.01 if "AveragePool" in kind else 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("opset", [13, 18, 22])
def test_a_pool_whose_border_counts_is_right_in_every_opset(engine: str, opset: int) -> None:
    import torch

    net = Net()
    value = net.pair("x")
    pooled = net.node("AveragePool", value, **POOL, pads=[1, 1, 1, 1], count_include_pad=1)
    content = as_uint8(net.answer(net.convolve(net.pair(pooled)), net.convolve(value, "v"), opset=opset))
    x = values()
    whole = torch.tensor(np.clip(np.rint(x / STEP), -128, 127) * STEP)
    average = torch.nn.functional.avg_pool2d(whole, 3, 1, 1, count_include_pad=True).numpy()
    right = np.clip(np.rint(average / STEP), -128, 127) * STEP
    weight, bias = WEIGHTS["w"][:, :, 0, 0] / 64, NUMBERS["bias"]
    expected = np.einsum("oi,nihw->nohw", weight, right) + bias[:, None, None]
    assert_near(ENGINES[engine](content, x)[:1], [expected], 1.01)


def test_a_value_that_is_cut_at_zero_is_coded_from_zero_and_not_cut_again() -> None:
    for cut in ("Relu", "Clip"):
        changed = as_uint8(moved("MaxPool", cut=cut))
        assert cut not in kinds(changed)
        assert zeros(changed) == [128, 0, 0]  # x, the cut value, the pooled one; the pair before the cut is gone
    assert zeros(as_uint8(moved("MaxPool", cut="Identity"))) == [128, 128, 128, 128]


def test_a_cut_below_the_range_stays() -> None:
    changed = as_uint8(moved("MaxPool", cut="Clip below 1"))
    assert [kind for kind in kinds(changed) if kind in ("Clip", "Relu", "Min")] == ["Relu", "Min"]
    assert zeros(changed) == [128, 128, 0, 0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("low", ["", "least", "below between"])
@pytest.mark.parametrize("high", ["", "between"])
def test_a_cut_between_two_codes_is_where_the_file_says(engine: str, low: str, high: str) -> None:
    net = Net()
    cut = net.node("Clip", net.pair(net.convolve(net.pair("x"))), *([low, high] if high else [low] if low else []))
    content, x = as_uint8(net.answer(net.convolve(net.pair(cut)), cut)), values()
    right = np.clip(in_float(x), NUMBERS.get(low, -np.inf), NUMBERS.get(high, np.inf))
    found = ENGINES[engine](content, x)
    np.testing.assert_allclose(found[1], right, atol=1e-5)
    assert_near(found[:1], operators(content, x)[:1], 0)


def in_float(x: NDArray[np.float32]) -> NDArray[Any]:
    """The quantised convolution of the quantised `x`, by numpy."""
    whole = np.clip(np.rint(x / STEP), -128, 127) * STEP
    weight, bias = WEIGHTS["w"][:, :, 0, 0] / 64, NUMBERS["bias"]
    made = np.einsum("oi,nihw->nohw", weight, whole) + bias[:, None, None]
    codes: NDArray[Any] = np.clip(np.rint(made / STEP), -128, 127)
    return codes * STEP


def test_values_that_are_joined_are_coded_alike() -> None:
    net = Net()
    signed, cut = net.pair("x"), net.pair(net.node("Relu", "x"))
    joined = net.pair(net.node("Concat", cut, signed, axis=1))
    part = net.pair(net.node("Slice", joined, "starts", "ends", "axes"))
    assert zeros(as_uint8(net.answer(net.convolve(part)))) == [128] * 4
    net = Net()
    cut, other = net.pair(net.node("Relu", "x")), net.pair(net.node("Sigmoid", "x"))
    joined = net.pair(net.node("Concat", cut, other, axis=1))
    part = net.pair(net.node("Slice", joined, "starts", "ends", "axes"))
    assert zeros(as_uint8(net.answer(net.convolve(part)))) == [0] * 4


def test_a_cut_that_others_read_in_float_stays() -> None:
    net = Net()
    cut = net.node("Relu", net.pair(net.convolve(net.pair("x"))))
    content = net.answer(net.convolve(net.pair(cut)), cut)
    changed = as_uint8(content)
    assert "Relu" in kinds(changed)
    assert_near(operators(changed, values())[1:], operators(content, values())[1:], 0)


def test_a_pair_with_another_step_before_a_cut_stays() -> None:
    net = Net()
    cut = net.node("Relu", net.pair(net.convolve(net.pair("x")), "coarse"))
    content = as_uint8(net.answer(net.convolve(net.pair(cut))))
    assert zeros(content) == [128, 128, 0]
    for engine in ENGINES.values():
        assert_near(engine(content, values()), operators(content, values()), 0)


def test_what_is_no_int8_activation_stays_as_it_is() -> None:
    net = Net()
    net.node("QuantizeLinear", "x", "step", out="plain")  # without a zero point it is uint8 already
    back = net.node("DequantizeLinear", "plain", "step")
    content = net.answer(net.convolve(back))
    model = parse_model(content, Path("net.onnx"))
    assert use_uint8_activations(model) == 0
    assert onnx.load_from_string(model.SerializeToString()) == onnx.load_from_string(content)


def test_a_graph_with_graphs_inside_stays_as_it_is() -> None:
    net = Net()
    value = net.pair("x")
    branch = helper.make_graph(
        [helper.make_node("Identity", [value], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, SHAPE)],
    )
    net.node("Cast", "six", out="true", to=TensorProto.BOOL)
    chosen = net.node("If", "true", then_branch=branch, else_branch=branch)
    content = net.answer(net.convolve(chosen))
    assert onnx.load_from_string(as_uint8(content)) == onnx.load_from_string(content)


@pytest.mark.parametrize("content", [b"\x08\x07\x12", b"no graph at all"])
def test_bytes_that_are_no_graph_are_an_engine_error(content: bytes) -> None:
    with pytest.raises(EngineError, match=r"broken\.onnx' is not an ONNX file"):
        with_uint8_activations(content, Path("broken.onnx"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("between", ["nothing", "Transpose", "Slice", "Split", "another pair"])
def test_what_attention_multiplies_stays_signed(between: str, opset: int, engine: str) -> None:
    net = Net()
    one, other = net.pair("x"), net.pair(net.node("Mul", "x", "below"))
    if between == "Transpose":
        other = net.node("Transpose", other, perm=[0, 1, 3, 2])
    elif between == "Slice":
        other = net.node("Slice", other, "starts", "ends", "axes")
    elif between == "Split":
        halves = [net.node("Slice", other, "starts", "ends", "axes")]
        net.nodes.append(helper.make_node("Split", halves, ["left", "right"], axis=1, num_outputs=2))
        other = net.node("Concat", "right", "left", axis=1)
    elif between == "another pair":
        other = net.pair(net.node("Transpose", other, perm=[0, 1, 3, 2]))
    product = net.pair(net.node("MatMul", one, other), "coarse")
    content, x = net.answer(net.convolve(product), opset=opset), values() / 4
    changed = as_uint8(content)
    signed = [node for node in onnx.load_from_string(changed).graph.node if node.op_type == "QuantizeLinear"]
    assert sum(node.input[2] == "zero" for node in signed) == len(signed) - 1  # all but the product
    assert_near(ENGINES[engine](changed, x), operators(content, x), 2.01)


def test_the_runtime_reads_onnx_files_without_the_onnx_package() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from pathlib import Path\n"
        "from blastscope.runtime.backends.uint8_activations import with_uint8_activations\n"
        "assert with_uint8_activations(sys.stdin.buffer.read(), Path('towers.onnx'))"
    )
    subprocess.run([sys.executable, "-c", code], input=two_towers(int8=True), check=True)


def weights_of(content: bytes) -> list[NDArray[Any] | None]:
    """The constant weights of each convolution in the graph's order; None where an operator makes them."""
    graph = onnx.load_from_string(content).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [constants.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize(
    ("scale", "zero", "axis", "folds"),
    [("weight_step", "weight_zero", 0, True), ("weight_step", "weight_zero", 1, False), ("weight_step", "ones", 0, False)],
)
def test_weights_are_float_where_a_layers_output_is(scale: str, zero: str, axis: int, folds: bool) -> None:
    net = Net()
    kernel = net.node("DequantizeLinear", "w", scale, zero, axis=axis)
    inner = net.pair(net.convolve(net.pair("x"), "v"))
    content, x = net.answer(net.node("Relu", net.node("Conv", inner, kernel, "bias"))), values()
    model = parse_model(content, Path("net.onnx"))
    assert use_float_weights(model) == folds
    first, last = weights_of(model.SerializeToString())
    assert first is None
    assert_near(operators(model.SerializeToString(), x), operators(content, x), 0)
    if folds:
        np.testing.assert_array_equal(last, WEIGHTS["w"].astype(np.float32) / 64)
