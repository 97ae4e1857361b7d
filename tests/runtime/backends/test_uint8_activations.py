"""int8 graphs in OpenVINO, against the operators of the file computed one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from blastscope.runtime.backends.openvino.uint8_activations import use_uint8_activations

SHAPE = (2, 3, 8, 8)
SCALE = 1 / 127


def graph(join: str, cuts: tuple[str, str], *, twice: bool = False) -> bytes:
    """Two int8 values, cut off by operators and joined or not, and an int8 convolution that copies its channels.

    With `twice` the values are int8 before they are cut off too, as calibrated graphs have it.
    """
    channels = 6 if join == "channels" else 3
    constants: dict[str, Any] = {
        "scale": np.array(SCALE, np.float32),
        "zero": np.array(0, np.int8),
        "least": np.array(0, np.float32),
        "most": np.array(0.6, np.float32),
        "weight": (64 * np.eye(channels, dtype=np.int8)).reshape(channels, channels, 1, 1),
        "weight_scale": np.full(channels, 1 / 64, np.float32),
        "weight_zero": np.zeros(channels, np.int8),
    }
    nodes = []
    for source, name, cut in zip("ab", "xy", cuts, strict=True):
        if twice:
            nodes += through_int8(source)
            source = f"{source}f"
        bounds = ["least", "most"] if cut == "Clip" else []
        nodes += [helper.make_node(cut, [source, *bounds], [name]), *through_int8(name)]
    if join == "none":
        nodes.append(helper.make_node("Add", ["xf", "yf"], ["joined"]))
    else:
        nodes.append(helper.make_node("Concat", ["xf", "yf"], ["joined"], axis=1 if join == "channels" else 0))
    nodes.append(helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["kernel"], axis=0))
    nodes.append(helper.make_node("Conv", ["joined", "kernel"], ["out"], kernel_shape=[1, 1]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("a", "b")]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, channels, None, None])]
    initialisers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "joined", inputs, outputs, initialisers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def through_int8(name: str) -> list[Any]:
    """Quantise and dequantise, from `name` to `name`f."""
    return [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}8"]),
        helper.make_node("DequantizeLinear", [f"{name}8", "scale", "zero"], [f"{name}f"]),
    ]


def one_by_one(content: bytes, inputs: dict[str, Any]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def compiled(content: bytes, *, changed: int) -> Any:
    core = openvino.Core()
    model = core.read_model(content)
    assert use_uint8_activations(openvino, model) == changed
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def zero_points(content: bytes) -> set[float]:
    """Where 0 lies, of each activation as OpenVINO is given it."""
    model = openvino.Core().read_model(content)
    use_uint8_activations(openvino, model)
    lows = [node.input_value(1).get_node() for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    return {round(-float(low.data.item()) / SCALE) for low in lows}


@pytest.mark.parametrize("cuts", [("Identity", "Identity"), ("Relu", "Relu"), ("Relu", "Identity"), ("Clip", "Relu")])
@pytest.mark.parametrize("join", ["none", "channels", "batch"])
def test_openvino_answers_an_int8_graph_as_its_operators_say(join: str, cuts: tuple[str, str]) -> None:
    rng = np.random.default_rng(3)
    # int8 ends at 1: what lies beyond is cut off, also where uint8 goes on to 2
    inputs = {name: rng.uniform(-1.5, 1.5, SHAPE).astype(np.float32) for name in ("a", "b")}
    for twice in (False, True):
        content = graph(join, cuts, twice=twice)
        found = np.asarray(compiled(content, changed=4 if twice else 2)([inputs["a"], inputs["b"]])[0])
        np.testing.assert_allclose(found, one_by_one(content, inputs), atol=1.01 * SCALE if join == "none" else 1e-5)


def test_what_is_never_negative_needs_no_zero_point() -> None:
    assert zero_points(graph("channels", ("Relu", "Clip"))) == {0}
    assert zero_points(graph("channels", ("Relu", "Clip"), twice=True)) == {0}
    assert zero_points(graph("none", ("Identity", "Relu"))) == {0, 128}


def test_a_graph_without_int8_stays_as_it_is() -> None:
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, SHAPE)
    made = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["out"])],
        "plain",
        [value],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, SHAPE)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert use_uint8_activations(openvino, openvino.Core().read_model(model.SerializeToString())) == 0


@pytest.mark.parametrize("between", ["nothing", "Transpose", "Slice"])
def test_what_attention_multiplies_stays_signed(between: str) -> None:
    square = (2, 3, 8, 8)
    constants = {
        "scale": np.array(SCALE, np.float32),
        "zero": np.array(0, np.int8),
        "start": np.array([0]),
        "end": np.array([8]),
    }
    nodes = [*through_int8("a"), *through_int8("b")]
    if between == "Transpose":
        nodes.append(helper.make_node("Transpose", ["bf"], ["other"], perm=[0, 1, 3, 2]))
    elif between == "Slice":
        nodes.append(helper.make_node("Slice", ["bf", "start", "end"], ["other"]))
    nodes.append(helper.make_node("MatMul", ["af", "bf" if between == "nothing" else "other"], ["out"]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, square) for name in ("a", "b")]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    made = helper.make_graph(
        nodes, "attention", inputs, outputs, [numpy_helper.from_array(one, name) for name, one in constants.items()]
    )
    content = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()
    model = openvino.Core().read_model(content)
    use_uint8_activations(openvino, model)
    signed = [node for node in model.get_ordered_ops() if node.get_output_element_type(0).get_type_name() == "i8"]
    assert len([node for node in signed if node.get_type_name() == "Convert"]) == 2
    rng = np.random.default_rng(5)
    values = {name: rng.uniform(-1, 1, square).astype(np.float32) for name in ("a", "b")}
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([values["a"], values["b"]])[0]
    np.testing.assert_allclose(np.asarray(found), one_by_one(content, values), atol=0.02)
