#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: ONNX's Resize with mode "linear" and antialias=1 makes a picture smaller without the filter that the attribute asks for: the
# values are those of antialias=0. Nothing is said, though OpenVINO's own Interpolate has an attribute of that name.
#
# Input: stripes of one pixel, black and white in turn (1 x 1 x 48 x 48, 0 and 1), to a third of the size, opset 19. ONNX: "the antialias filter is
# achieved by stretching the resampling filter by a factor max(1, 1 / scale)". Such stripes must come out as an even gray: that is what antialias is for.
# PyTorch's interpolate(antialias=True) is exported as such a Resize.
#
# Seen: ONNX Runtime 1.32.0, the reference of onnx 1.23.2 and Pillow 13.0.0 (BILINEAR, float) give 0.444 to 0.556 within the picture; OpenVINO gives
# stripes of 0 and 1, to the bit what it gives with antialias=0. Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 pillow==13.0.0 numpy==2.4.6
cat > "$place/stripes.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
import PIL
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

stripes = np.tile(np.arange(48) % 2, (48, 1)).astype(np.float32)
x = stripes[None, None]


def graph(antialias):
    made = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=antialias)],
        "smaller",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 16, 16])],
        [numpy_helper.from_array(np.array([1, 1, 16, 16]), "sizes")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def in_openvino(model):
    core = openvino.Core()
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]


model = graph(1)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
found = {
    "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0][0, 0],
    "onnxruntime": session.run(None, {"x": x})[0][0, 0],
    "pillow": np.asarray(Image.fromarray(stripes).resize((16, 16), Image.Resampling.BILINEAR)),
    "openvino": in_openvino(model)[0, 0],
}
print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "pillow", PIL.__version__)
contrast = {}
for name, small in found.items():
    within = small[2:-2, 2:-2]  # at the edge libraries weigh what lies outside each in its own way
    contrast[name] = float(within.max() - within.min())
    print(f"{name:15} {within[0, :6].round(3)} ... contrast {contrast[name]:.3f}")
same = np.array_equal(found["openvino"], in_openvino(graph(0))[0, 0])
print("openvino gives the same with antialias=0:", same)
gray = all(contrast[name] < 0.12 for name in ("onnx reference", "onnxruntime", "pillow"))
sys.exit(0 if gray and contrast["openvino"] == 1 and same else 1)
PYTHON
"$place/venv/bin/python" "$place/stripes.py"
