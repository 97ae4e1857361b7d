#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: an ONNX AveragePool with ceil_mode=1, count_include_pad=1 and padding divides its last windows by the whole
# kernel, where ONNX Runtime 1.32.0 and the reference of onnx 1.23.2 divide by what lies within picture and padding. Nothing is said.
#
# Input: a picture of ones, 1 x 1 x 6 x 6, kernel 3, stride 2, padding 1 on each side, opset 19. Rounded up, the last window begins at 5: along an
# axis it holds one pixel, one place of the padding, and one behind the padding, which doesn't count. What PyTorch exports of
# nn.AvgPool2d(3, 2, 1, ceil_mode=True), whose count_include_pad is True unless said otherwise, is such a graph.
#
# Seen: the last corner of the output is 1/4 in ONNX Runtime and in the reference, 1/9 in OpenVINO; 7 of 16 values differ.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/pool.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

node = helper.make_node(
    "AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
)
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 1, 6, 6]), ("y", [1, 1, 4, 4]))]
graph = helper.make_graph([node], "pool", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, sys.argv[1])
ones = np.ones((1, 1, 6, 6), np.float32)
runtime = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, {"x": ones})[0]
reference = ReferenceEvaluator(model).run(None, {"x": ones})[0]
compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
other = compiled([ones])[0]
print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
for name, found in (("onnxruntime", runtime), ("onnx reference", reference), ("openvino", other)):
    print(f"{name}:\n{found[0, 0].round(4)}")
agree = np.allclose(runtime, reference, atol=1e-6)
differing = int((np.abs(other - runtime) > 1e-3).sum())
print("onnxruntime and the reference agree:", agree, "- values that differ in openvino:", differing)
sys.exit(0 if agree and differing == 7 and abs(float(other[0, 0, 3, 3]) - 1 / 9) < 1e-3 else 1)
PYTHON
"$place/venv/bin/python" "$place/pool.py" "$place/pool.onnx"
