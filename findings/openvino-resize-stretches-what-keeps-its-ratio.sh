#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: ONNX's Resize with keep_aspect_ratio_policy "not_larger" or "not_smaller" is stretched to the given sizes as if the attribute
# weren't there: the output has another shape than the file's own type says. Nothing is said.
#
# Input: a picture of 40 x 80 (1 x 1 x 40 x 80) that is to be fitted into 60 x 60 without a change of its proportions, opset 19. ONNX's specification
# gives the arithmetic: with "not_larger" both axes are scaled by the smaller of 60/40 and 60/80, which makes 30 x 60; with "not_smaller" by the
# larger, which makes 60 x 120. onnx's shape inference writes the same into the file. It is what a letterboxed input of a detector needs.
#
# Seen: ONNX Runtime 1.32.0 and the reference of onnx 1.23.2 give 30 x 60 and 60 x 120; OpenVINO gives 60 x 60 for both, and says so before it runs.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/ratio.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

picture = np.add.outer(np.arange(40), np.arange(80)).astype(np.float32)[None, None]
RIGHT = {"not_larger": (30, 60), "not_smaller": (60, 120)}


def sizes(policy):
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)
    graph = helper.make_graph(
        [node],
        "fit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, picture.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, *RIGHT[policy]])],
        [numpy_helper.from_array(np.array([60, 60]), "sizes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)  # would refuse a type of y that isn't the operator's
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": picture})[0].shape[2:],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": picture})[0].shape[2:],
        "openvino": compiled([picture])[0].shape[2:],
        "openvino, before it runs": tuple(compiled.outputs[0].shape)[2:],
    }


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
as_expected = True
for policy, right in RIGHT.items():
    found = sizes(policy)
    print(f"{policy}: the specification says {right};", found)
    as_expected &= found["onnx reference"] == found["onnxruntime"] == right and found["openvino"] == (60, 60)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/ratio.py"
