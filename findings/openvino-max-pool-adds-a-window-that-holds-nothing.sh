#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: MaxPool with ceil_mode=1 and padding gives a row and a column more than the file's own type says, where rounding up would begin a
# window in the padding behind the picture. They hold the lowest float32. AveragePool with the same numbers has the right shape. Nothing is said.
#
# Input: 1 x 1 x 7 x 7, kernel 2, stride 2, padding 1 on each side, opset 22, where ONNX says it in words: "sliding windows that would start in the right padded
# region are ignored". onnx's shape inference gives 4 x 4, as PyTorch does for nn.MaxPool2d(2, 2, padding=1, ceil_mode=True).
#
# Seen: ONNX Runtime 1.32.0, the reference of onnx 1.23.2 and numpy give 4 x 4; OpenVINO says 5 x 5 before it runs, and gives 5 x 5 with nine values of
# -3.4e38. A mean behind it is -3.4e38 times 9 / 25, a sum or a Conv worse, and a ReLU makes zeros of them that look like an answer. With an even side the
# window isn't there and all agree. A program should compute the windows itself and compare, or pad by an operator of its own.
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

LOWEST = np.finfo(np.float32).min


def answers(kind, side):
    x = np.random.default_rng(5).normal(0, 1, (1, 1, side, side)).astype(np.float32)
    node = helper.make_node(kind, ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], [helper.make_empty_tensor_value_info("y")]
    ends[1][0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(helper.make_graph([node], "pool", *ends), opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    promised = tuple(one.dim_value for one in model.graph.output[0].type.tensor_type.shape.dim)[2:]
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0][0, 0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0][0, 0],
        "openvino": compiled([x])[0][0, 0],
    }
    return x[0, 0], promised, found, tuple(compiled.outputs[0].shape)[2:]


def largest(x):
    starts = [start for start in range(-1, len(x) + 1, 2) if start < len(x)]
    return np.array([[x[max(row, 0) : row + 2, max(column, 0) : column + 2].max() for column in starts] for row in starts])


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
as_expected = "start in the right padded region are ignored" in " ".join(onnx.defs.get_schema("MaxPool", 22).doc.split())
for kind in ("MaxPool", "AveragePool"):
    for side in (7, 8):
        x, promised, found, told = answers(kind, side)
        shapes = {name: one.shape for name, one in found.items()}
        print(f"{kind} of {side} x {side}: the file says {promised}, openvino before it runs {told};", shapes)
        wrong = kind == "MaxPool" and side == 7
        as_expected &= shapes["onnx reference"] == shapes["onnxruntime"] == promised
        as_expected &= told == shapes["openvino"] == ((5, 5) if wrong else promised)
        if kind == "MaxPool":
            right = largest(x)
            as_expected &= all(np.array_equal(found[name], right) for name in ("onnx reference", "onnxruntime"))
            rows, columns = right.shape
            as_expected &= np.array_equal(found["openvino"][:rows, :columns], right)
            print("  values of openvino that are the lowest float32:", int((found["openvino"] == LOWEST).sum()))
            as_expected &= int((found["openvino"] == LOWEST).sum()) == (9 if wrong else 0)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/windows.py"
