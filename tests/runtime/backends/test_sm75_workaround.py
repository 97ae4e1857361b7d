"""Layers on vectors as convolutions: the same sums of products, in a form that TensorRT-RTX builds for Turing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from blastscope.runtime.backends.tensorrt.builder import matmul_as_convolution
from blastscope.runtime.backends.tensorrt.key import library_logger

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
rng = np.random.default_rng(0)
WIDE: NDArray[np.float32] = rng.normal(size=(7, 5)).astype(np.float32)


def layer(operator: str, weights: NDArray[np.float32], **attributes: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def parsed(model: onnx.ModelProto) -> tuple[Any, Any]:
    logger = library_logger("tensorrt-rtx")
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    return builder, network


@pytest.mark.parametrize(
    "model",
    [layer("Gemm", WIDE, transB=1), layer("Gemm", np.ascontiguousarray(WIDE.T)), layer("MatMul", np.ascontiguousarray(WIDE.T))],
    ids=["gemm transposed", "gemm", "product"],
)
def test_the_convolution_computes_what_the_layer_did(model: onnx.ModelProto) -> None:
    _builder, network = parsed(model)  # the builder must outlive its network
    (weights,) = matmul_as_convolution(trt, network)
    vectors = rng.normal(size=(4, 5)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": vectors})
    np.testing.assert_allclose(vectors @ weights.T, expected, rtol=1e-6)
    (convolution,) = (one for one in layers(network) if one.type == trt.LayerType.CONVOLUTION)
    convolution.__class__ = trt.IConvolutionLayer
    np.testing.assert_array_equal(np.asarray(convolution.kernel), weights.ravel())
    assert tuple(convolution.kernel_size_nd) == (1, 1)
    assert convolution.num_output_maps == 7


def test_the_products_answer_goes_to_nobody_any_more() -> None:
    model = layer("Gemm", WIDE, transB=1)
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    model.graph.output[0].name = "z"
    _builder, network = parsed(model)
    matmul_as_convolution(trt, network)
    product = next(one for one in layers(network) if one.type == trt.LayerType.MATRIX_MULTIPLY).get_output(0).name
    assert product not in {value for one in layers(network) for value in inputs(one)}


def test_a_product_of_two_computed_values_stays() -> None:
    model = layer("MatMul", np.ascontiguousarray(WIDE.T))
    model.graph.node[0].input[1] = "turned"
    model.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["turned"]))
    del model.graph.initializer[:]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "N"
    _builder, network = parsed(model)
    assert matmul_as_convolution(trt, network) == []


def layers(network: Any) -> list[Any]:
    return [network.get_layer(place) for place in range(network.num_layers)]


def inputs(one: Any) -> list[str]:
    return [one.get_input(place).name for place in range(one.num_inputs) if one.get_input(place) is not None]
