#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: a Clip that follows a DequantizeLinear doesn't cut at its bounds, but at the whole int8 code below them: the value is off
# by up to one step of the scale. ONNX Runtime 1.32.0, the reference of onnx 1.23.2 and numpy cut where the file says. Nothing is said.
#
# Input: x from -4 to 4 goes through QuantizeLinear and DequantizeLinear with the scale 1/32, and then through Clip, opset 19. ONNX: "limits the
# given input within an interval"; what DequantizeLinear gives is float32, so the bounds are numbers like any other. Networks with ReLU6 or hard
# tanh hold such a Clip behind each quantised layer, and its bounds are hardly ever multiples of the scale.
#
# Seen: Clip(-0.99, 0.99) ends at -0.96875 and 0.96875 in OpenVINO, which are the codes -31 and 31. The same in Max and Min with one number each
# gives the same wrong values, which rules out the reading of Clip's bounds; with Relu in place of Max the answer is right.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/clip.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

STEP = np.float32(1 / 32)
BOUND = np.float32(0.99)
NUMBERS = {"step": STEP, "zero": np.int8(0), "low": -BOUND, "high": BOUND}
FORMS = {
    "Clip(-0.99, 0.99)": [("Clip", ["value", "low", "high"], "y")],
    "Max, then Min": [("Max", ["value", "low"], "above"), ("Min", ["above", "high"], "y")],
    "Relu, then Min": [("Relu", ["value"], "above"), ("Min", ["above", "high"], "y")],
}
onnxruntime.set_default_logger_severity(3)
x = np.linspace(-4, 4, 1001, dtype=np.float32).reshape(1, 1, 7, 143)
code = np.clip(np.rint(x / STEP), -128, 127) * STEP


def answers(steps):
    steps = [("QuantizeLinear", ["x", "step", "zero"], "code"), ("DequantizeLinear", ["code", "step", "zero"], "value"), *steps]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps],
        "cut",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(np.asarray(number), name) for name, number in NUMBERS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    core = openvino.Core()
    return {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "openvino": core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0],
    }


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
seen = {}
for form, steps in FORMS.items():
    right = np.clip(code, 0 if "Relu" in form else -BOUND, BOUND)
    for library, found in answers(steps).items():
        seen[form, library] = float(np.abs(found - right).max())
        print(f"{form:18} {library:15} least {found.min():9.5f} largest {found.max():8.5f} furthest from numpy's {seen[form, library]:.5f}")
wrong = {key for key, distance in seen.items() if distance > 0.02}
sys.exit(0 if wrong == {("Clip(-0.99, 0.99)", "openvino"), ("Max, then Min", "openvino")} else 1)
PYTHON
"$place/venv/bin/python" "$place/clip.py"
