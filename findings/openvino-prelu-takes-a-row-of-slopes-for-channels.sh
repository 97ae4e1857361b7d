#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: a PRelu whose slope has one dimension is computed with a slope per channel wherever there are as many slopes as channels. ONNX
# lays a single dimension along the last axis, which of a picture is its columns. Nothing is said.
#
# Input: pictures of 4 channels and 4 columns, 1 x 4 x 3 x 4, slopes 0.1, 0.5, 2 and 3 as a tensor of 4, opset 16. ONNX on PRelu: slope "should be
# unidirectional broadcastable to input tensor X", which is numpy's rule: shapes are aligned at their ends. PyTorch's nn.PReLU holds its slopes so, and means
# channels by them; who writes the graph by hand, or folds the exporter's Unsqueeze away, passes them on as they are.
#
# Seen: numpy, ONNX Runtime 1.32.0 and the reference of onnx 1.23.2 multiply column i by slope i; OpenVINO multiplies channel i by it, whether the slopes are a
# constant or an input. With 5 columns and 5 slopes, or the same slopes as 1 x 1 x 1 x 4, OpenVINO agrees with the others. So a graph turns wrong where a
# picture happens to be as wide as it has channels. Slopes should have as many dimensions as the data: then there is one reading.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/slopes.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SLOPES = np.array([0.1, 0.5, 2, 3, 5], np.float32)
CASES = {  # columns, shape of the slopes, whether they are an input
    "4 slopes of 4 columns": (4, (4,), False),
    "the same, given as an input": (4, (4,), True),
    "5 slopes of 5 columns": (5, (5,), False),
    "4 slopes as 1 x 1 x 1 x 4": (4, (1, 1, 1, 4), False),
}


def readings(columns, shape, given):
    x = np.random.default_rng(3).normal(0, 1, (1, 4, 3, columns)).astype(np.float32)
    slopes = SLOPES[:columns].reshape(shape)
    inputs = {"x": x, "slopes": slopes} if given else {"x": x}
    graph = helper.make_graph(
        [helper.make_node("PRelu", ["x", "slopes"], ["y"])],
        "prelu",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, one.shape) for name, one in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [] if given else [numpy_helper.from_array(slopes, "slopes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = {
        "onnx reference": ReferenceEvaluator(model).run(None, inputs)[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs)[0],
        "openvino": compiled(inputs)[0],
    }
    meant = {"columns": np.where(x < 0, x * SLOPES[:columns], x), "channels": np.where(x < 0, x * SLOPES[:4].reshape(4, 1, 1), x)}
    return {name: [axis for axis, right in meant.items() if np.allclose(one, right)] for name, one in answers.items()}


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
as_expected = True
for name, case in CASES.items():
    found = readings(*case)
    print(f"{name}: slopes belong to", found)
    as_expected &= found["onnx reference"] == found["onnxruntime"] == ["columns"]
    as_expected &= found["openvino"] == (["channels"] if name in list(CASES)[:2] else ["columns"])
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/slopes.py"
