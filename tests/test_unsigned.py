"""int8 graphs in OpenVINO, against the operators of the file computed one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from blastscope.runtime.backends.unsigned import make_unsigned

SHAPE = (2, 3, 8, 8)
SCALE = 1 / 127


def graph(join: str, *, rectified: bool) -> bytes:
    """Two int8 values, joined or not, and an int8 convolution that copies its channels."""
    channels = 6 if join == "channels" else 3
    constants: dict[str, Any] = {
        "scale": np.array(SCALE, np.float32),
        "zero": np.array(0, np.int8),
        "weight": (64 * np.eye(channels, dtype=np.int8)).reshape(channels, channels, 1, 1),
        "weight_scale": np.full(channels, 1 / 64, np.float32),
        "weight_zero": np.zeros(channels, np.int8),
    }
    first = "Relu" if rectified else "Identity"
    nodes = [helper.make_node(first, ["a"], ["x"]), helper.make_node(first, ["b"], ["y"])]
    for name in ("x", "y"):
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}8"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}8", "scale", "zero"], [f"{name}f"]))
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


def one_by_one(content: bytes, inputs: dict[str, Any]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("join", ["none", "channels", "batch"])
def test_openvino_answers_an_int8_graph_as_its_operators_say(join: str, rectified: bool) -> None:
    rng = np.random.default_rng(3)
    inputs = {name: rng.uniform(-1, 1, SHAPE).astype(np.float32) for name in ("a", "b")}
    content = graph(join, rectified=rectified)
    core = openvino.Core()
    model = core.read_model(content)
    assert make_unsigned(openvino, model) == 2
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = np.asarray(compiled([inputs["a"], inputs["b"]])[0])
    np.testing.assert_allclose(found, one_by_one(content, inputs), atol=1.01 * SCALE if join == "none" else 1e-5)


def test_a_graph_without_int8_stays_as_it_is() -> None:
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, SHAPE)
    made = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["out"])],
        "plain",
        [value],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, SHAPE)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert make_unsigned(openvino, openvino.Core().read_model(model.SerializeToString())) == 0
