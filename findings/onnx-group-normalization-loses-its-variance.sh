#!/usr/bin/env bash
# onnx 1.23.2 defines GroupNormalization by a function that takes the variance as the mean of squares less the square of the mean. In float32 that difference
# may be negative, and the answer NaN, for values that are harmless. ONNX Runtime 1.32.0 and onnx's reference compute by that function. Nothing is said.
#
# Input: two pixels of one channel, 5793 and 5794, as a 16-bit camera counts; one group, scale 1, bias 0, epsilon 1e-5, opset 21. Variance 1/4, so the
# answer is -1 and 1. ONNX's text gives (x - mean) / sqrt(variance + epsilon), and says: "When the number of groups is the same as the number of channels, this
# operator is equivalent to InstanceNormalization". The squares need 26 bits and float32 has 24; a group of two has one order to be added in, on any CPU.
#
# Seen: GroupNormalization is NaN in both, and with 4096 and 4097 -158 and 158: the variance comes out as -4, and as 0. InstanceNormalization of the
# same values is -1 and 1 in both, and OpenVINO 2026.4.1 is right for each. A program should write InstanceNormalization between two Reshapes, as PyTorch's
# exporter by tracing does, or take the mean off first.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/groups.py" <<'PYTHON'
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

warnings.simplefilter("ignore")  # numpy's, of the root of a negative number
EPSILON = 1e-5


def answers(kind, x):
    extra = {"num_groups": 1} if kind == "GroupNormalization" else {}
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.array([number], np.float32), name) for name, number in (("scale", 1), ("bias", 0))]
    node = helper.make_node(kind, ["x", "scale", "bias"], ["y"], epsilon=EPSILON, **extra)
    graph = helper.make_graph([node], "norm", value[:1], value[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "openvino": compiled([x])[0],
    }
    return {name: one.ravel().round(2).tolist() for name, one in found.items()}


def like(found, right):
    return np.allclose(found, right, atol=0.02, equal_nan=True)


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
as_expected = "equivalent to InstanceNormalization" in " ".join(onnx.defs.get_schema("GroupNormalization", 21).doc.split())
for first, wrong in ((5793, [np.nan, np.nan]), (4096, [-158.11, 158.11]), (10, [-1, 1])):
    x = np.array([first, first + 1], np.float32).reshape(1, 1, 1, 2)
    exact = x.astype(np.float64)
    right = ((exact - exact.mean()) / np.sqrt(exact.var() + EPSILON)).ravel()
    print(f"{first} and {first + 1}: numpy in float64 says {right.round(2).tolist()}")
    for kind in ("GroupNormalization", "InstanceNormalization"):
        found = answers(kind, x)
        print(f"  {kind:21}:", found)
        of_all = wrong if kind == "GroupNormalization" else right
        as_expected &= like(found["onnx reference"], of_all) and like(found["onnxruntime"], of_all) and like(found["openvino"], right)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/groups.py"
