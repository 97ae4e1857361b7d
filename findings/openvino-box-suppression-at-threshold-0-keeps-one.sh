#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: ONNX's NonMaxSuppression with an iou_threshold of 0, which is the operator's default, keeps one box per class and drops all others,
# also those that touch none. ONNX drops a box whose overlap with a kept one is strictly greater than the threshold. Nothing is said.
#
# Input: three boxes far apart and a fourth that lies within the first, scores 0.9 to 0.6, opset 11; the threshold left out, 0, 0.0001 and 0.5. The overlap
# of boxes that are apart is 0, and 0 isn't greater than 0. "No two cells may overlap" is what 0 is set for.
#
# Seen: ONNX Runtime 1.32.0 keeps the three boxes that are apart with each of the four, and the reference of onnx 1.23.2 with those that it takes (it asks for all
# inputs). OpenVINO keeps three with 0.0001 and 0.5, and one with 0 or none: a detector that finds one cell in each picture. A program should write a small
# number in place of 0, or suppress behind the network.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/boxes.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

BOXES = np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [1, 1, 9, 9]]], np.float32)  # corners
SCORES = np.array([[[0.9, 0.8, 0.7, 0.6]]], np.float32)


def kept(threshold):
    constants = {"most": np.array([10]), "least": np.array([0], np.float32)}
    names = ["boxes", "scores", "most"]
    if threshold is not None:
        constants["threshold"] = np.array([threshold], np.float32)
        names += ["threshold", "least"]
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", names, ["kept"])],
        "boxes",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, one.shape) for name, one in (("boxes", BOXES), ("scores", SCORES))],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])],
        [numpy_helper.from_array(constants[name], name) for name in names[2:]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core, inputs = model.SerializeToString(), openvino.Core(), {"boxes": BOXES, "scores": SCORES}
    found = {
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs)[0],
        "openvino": core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0],
    }
    if threshold is not None:
        found["onnx reference"] = ReferenceEvaluator(model).run(None, inputs)[0]
    return {name: sorted(rows[:, 2].tolist()) for name, rows in found.items()}


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
text = " ".join(onnx.defs.get_schema("NonMaxSuppression", 11).doc.split())
as_expected = "strictly greater than iou_threshold" in text
print("onnx says 'strictly greater than iou_threshold':", as_expected)
for threshold in (None, 0, 0.0001, 0.5):
    found = kept(threshold)
    print(f"threshold {threshold}: boxes kept", found)
    as_expected &= found.pop("openvino") == ([0] if not threshold else [0, 1, 2])
    as_expected &= all(boxes == [0, 1, 2] for boxes in found.values())
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/boxes.py"
