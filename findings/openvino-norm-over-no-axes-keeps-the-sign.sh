#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: ONNX's ReduceL1, ReduceL2 and ReduceLogSum with noop_with_empty_axes=1 and no axes give their input as it is: a norm is negative, and a
# logarithm isn't taken. ReduceSumSquare with the same attribute squares in the same OpenVINO. Nothing is said.
#
# Input: -3, 2 and -0.5 (for the logarithm 3, 2 and 0.5), opset 18, the axes left out and as an empty tensor. ONNX on the attribute: summing over no axes
# changes nothing, "but composite-reduction operators will still perform the non-reduction steps as needed". The L1 and the L2 norm of one number is its absolute value.
#
# Seen: numpy, ONNX Runtime 1.32.0 and the reference of onnx 1.23.2 give 3, 2 and 0.5, and the logarithms; OpenVINO gives -3, 2 and -0.5, and 3, 2, 0.5. A network
# that divides by such a norm turns the sign of its features. A program should write Abs or Log where it means them.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/norm.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SIGNED = np.array([[-3, 2, -0.5]], np.float32)
CASES = {
    "ReduceL1": (SIGNED, np.abs(SIGNED)),
    "ReduceL2": (SIGNED, np.abs(SIGNED)),
    "ReduceLogSum": (np.abs(SIGNED), np.log(np.abs(SIGNED))),
    "ReduceSumSquare": (SIGNED, np.square(SIGNED)),
}


def answers(kind, x, axes):
    names = ["x", "axes"] if axes else ["x"]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], noop_with_empty_axes=1)],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(np.array([], np.int64), "axes")] if axes else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "openvino": compiled([x])[0],
    }


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
text = " ".join(onnx.defs.get_schema("ReduceL1", 18).attributes["noop_with_empty_axes"].description.split())
as_expected = "will still perform the non-reduction steps" in text
print("onnx says 'will still perform the non-reduction steps':", as_expected)
for kind, (x, right) in CASES.items():
    for axes in (False, True):
        found = answers(kind, x, axes)
        shown = {name: one.ravel().round(3).tolist() for name, one in found.items()}
        print(f"{kind:15} {'empty axes' if axes else 'no axes':10}", shown)
        as_expected &= np.allclose(found["onnx reference"], right) and np.allclose(found["onnxruntime"], right)
        as_expected &= np.allclose(found["openvino"], right if kind == "ReduceSumSquare" else x)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/norm.py"
