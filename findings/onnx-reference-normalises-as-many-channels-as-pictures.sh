#!/usr/bin/env bash
# onnx 1.23.2: the reference evaluator, by which others check their engines, computes LRN (local response normalization) for only as many channels as the
# batch has pictures. All further channels are divided by bias^beta alone, as if they were black around. Nothing is said.
#
# Input: one picture of 8 channels, 1 x 8 x 2 x 2, size 3, alpha 1, beta 0.75, bias 1, opset 13. ONNX gives the formula for every channel:
# x / (bias + alpha / size * sum of squares over the channels around) ^ beta.
#
# Seen: of 8 channels only the first is right; of 8 pictures with 8 channels all are. numpy by the formula, ONNX Runtime 1.32.0 and
# OpenVINO 2026.4.1 agree with each other for both. Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/lrn.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

CHANNELS = 8


def by_formula(x):
    padded = np.pad(np.square(x, dtype=np.float64), ((0, 0), (1, 1), (0, 0), (0, 0)))
    around = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return x / (1 + around / 3) ** 0.75


def wrong_channels(pictures):
    x = np.random.default_rng(1).normal(0, 3, (pictures, CHANNELS, 2, 2)).astype(np.float32)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("LRN", ["x"], ["y"], size=3, alpha=1.0, beta=0.75, bias=1.0)], "lrn", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    answers = {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "openvino": core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0],
    }
    far = {name: np.abs(found - by_formula(x)).max(axis=(0, 2, 3)) > 1e-3 for name, found in answers.items()}
    return {name: np.flatnonzero(wrong).tolist() for name, wrong in far.items()}


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
as_expected = True
for pictures in (1, 3, CHANNELS):
    found = wrong_channels(pictures)
    print(f"{pictures} pictures of {CHANNELS} channels, channels that aren't by the formula:", found)
    as_expected &= found == {"onnx reference": list(range(pictures, CHANNELS)), "onnxruntime": [], "openvino": []}
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/lrn.py"
