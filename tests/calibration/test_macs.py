"""The multiply-adds of each kind of layer, counted by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from blastscope.calibration.quantisation.qdq_placement import count_macs


@pytest.mark.parametrize(
    ("operator", "weight", "options", "taken", "work"),
    [
        ("Conv", (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, ("N", 3, 8, 8), 4 * 8 * 8 * 3 * 3 * 3),
        ("Conv", (6, 1, 3, 3), {"group": 6, "strides": [2, 2]}, ("N", 6, 9, 9), 6 * 4 * 4 * 3 * 3),
        ("Gemm", (5, 7), {"transB": 1}, ("N", 7), 5 * 7),
        ("Gemm", (7, 5), {}, ("N", 7), 5 * 7),
        ("MatMul", (7, 5), {}, ("N", 7), 5 * 7),
    ],
)
def test_a_layers_work_is_that_of_one_cell(
    operator: str, weight: tuple[int, ...], options: dict[str, object], taken: tuple[object, ...], work: int
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], name="layer", **options)
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, taken)
    made = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [given], [made], [numpy_helper.from_array(np.zeros(weight, np.float32), "w")])
    assert count_macs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])) == {"layer": work}
