#!/usr/bin/env bash
# onnx 1.23.2: the reference evaluator, by which others check their engines, begins the windows of a rounded-up AveragePool (ceil_mode=1) before the picture where the
# last one reaches two pixels or more beyond it: every value of the output is another, not the last alone. MaxPool with a stride of 1 gets a larger shape. Nothing is said.
#
# Input: columns 1 to n, without padding, opset 19, and ones with padding 1 and stride 1, where rounding up changes nothing. ONNX's formula for the padding is for
# auto_pad; with `pads`, "padding for the beginning and ending along each spatial axis", none was asked for, so the first window begins at the first column.
#
# Seen: of 1 to 7 with kernel 3 and stride 3 the reference gives 1.5, 4, 6, which is 1 and 2, 3 to 5, 6 and 7: moved by one. ONNX Runtime 1.32.0, OpenVINO 2026.4.1 and
# plain means give 2, 5, 7. Of 1 to 8 all agree, since what is lacking, one column, is halved and rounded down. MaxPool of 7 x 7 with kernel 3, padding 1 and stride 1 is
# 9 x 9 in the reference, 7 x 7 in the file's own type and both engines. Who takes the reference for the truth holds right engines for wrong.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/windows.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def answers(kind, x, **window):
    node = helper.make_node(kind, ["x"], ["y"], ceil_mode=1, **window)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], [helper.make_empty_tensor_value_info("y")]
    plain = helper.make_model(helper.make_graph([node], "windows", *ends), opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(plain, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = tuple(side.dim_value for side in model.graph.output[0].type.tensor_type.shape.dim)
    return told, {
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "openvino": compiled([x])[0],
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
    }


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
as_expected = True
for columns, side, moved in ((7, 3, [1.5, 4, 6]), (9, 4, [2, 5.5, 8]), (8, 3, None), (7, 2, None)):
    row = np.arange(1, columns + 1, dtype=np.float32)
    right = [float(row[begin : begin + side].mean()) for begin in range(0, columns, side)]
    told, found = answers("AveragePool", row.reshape(1, 1, 1, columns), kernel_shape=[1, side], strides=[1, side])
    values = {name: one.ravel().tolist() for name, one in found.items()}
    print(f"columns 1 to {columns}, kernel and stride {side}: plain means {right};", values)
    as_expected &= all(one.shape == told for one in found.values())
    as_expected &= values["onnxruntime"] == values["openvino"] == right and values["onnx reference"] == (moved or right)
ones = np.ones((1, 1, 7, 7), np.float32)
told, found = answers("MaxPool", ones, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
shapes = {name: one.shape for name, one in found.items()}
print(f"MaxPool, kernel 3, padding 1, stride 1: the file says {told};", shapes)
as_expected &= told == shapes["onnxruntime"] == shapes["openvino"] == (1, 1, 7, 7) and shapes["onnx reference"] == (1, 1, 9, 9)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/windows.py"
