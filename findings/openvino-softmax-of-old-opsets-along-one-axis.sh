#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: Softmax of ONNX opset 1 to 12 is computed along one axis alone, where those opsets flatten all axes from `axis` on and make one
# distribution of them. LogSoftmax of the same opset, in the same OpenVINO, is computed over all of them. Nothing is said.
#
# Input: 2 x 3 x 4 numbers, axis 1, opset 11. ONNX's own text of that version: "the input does not need to explicitly be a 2D vector; rather, it will be
# coerced into one"; in the 2 x 12 rows made so each must sum up to 1. With opset 13 the operator was changed to one axis.
#
# Seen: rows sum up to 1 in ONNX Runtime 1.32.0, and to 4 in OpenVINO, which gives what it gives for the same file as opset 13. The reference of
# onnx 1.23.2 gives the answer of opset 13 as well. exp(LogSoftmax) sums up to 1 in OpenVINO. Maps that are turned into probabilities over all their
# pixels by an old exporter come out with a wrong scale, and another argmax. Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/softmax.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(3)
x = np.random.default_rng(2).normal(0, 2, (2, 3, 4)).astype(np.float32)


def answers(kind, opset):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], axis=1)], "softmax", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    found = {
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "openvino": core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0],
    }
    return {name: np.exp(one) if kind == "LogSoftmax" else one for name, one in found.items()}


def shares(axes):
    raised = np.exp(x.astype(np.float64))
    return raised / raised.sum(axis=axes, keepdims=True)


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
text = " ".join(onnx.defs.get_schema("Softmax", 11).doc.split())
print("onnx on opset 11 says 'coerced':", "coerced" in text)
found = {}
for kind, opset in (("Softmax", 11), ("LogSoftmax", 11), ("Softmax", 13)):
    for name, one in answers(kind, opset).items():
        over = [axes for axes in ((1, 2), (1,)) if np.allclose(one, shares(axes), atol=1e-5)]
        found[kind, opset, name] = over
        print(f"{kind:10} opset {opset} {name:15} first row sums up to {one[0].sum():.4f}: a distribution over axes {over}")
right = {
    ("Softmax", 11, "onnxruntime"): [(1, 2)],
    ("Softmax", 11, "openvino"): [(1,)],
    ("LogSoftmax", 11, "onnxruntime"): [(1, 2)],
    ("LogSoftmax", 11, "openvino"): [(1, 2)],
    ("Softmax", 13, "onnxruntime"): [(1,)],
    ("Softmax", 13, "openvino"): [(1,)],
}
sys.exit(0 if "coerced" in text and all(found[key] == value for key, value in right.items()) else 1)
PYTHON
"$place/venv/bin/python" "$place/softmax.py"
