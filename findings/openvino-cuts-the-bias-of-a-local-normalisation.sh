#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: LRN (local response normalisation) is computed with its bias cut down to a whole number. Nothing is said.
#
# Input: a picture of 4 channels, 1 x 4 x 2 x 3, and ONNX's LRN of size 3, alpha 0.5 and beta 0.75, opset 13, with several biases. ONNX has the
# bias as a float: y = x / (bias + alpha / size * square_sum) ^ beta.
#
# Seen: ONNX Runtime 1.32.0 follows the formula, in float64 by numpy, for each bias. OpenVINO does for 1, 2 and 3; for 1.2 and 1.999 it gives what the
# formula gives for 1, for 2.5 what it gives for 2, and for 0.5 what it gives for 0, which is several times as large. The published networks that have
# this layer use 1 and 2, so they show nothing. Written out by ReduceSum or AveragePool, Pow and Div, the layer is right in both.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/bias.py" <<'PYTHON'
import math
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

SIZE, ALPHA, BETA = 3, 0.5, 0.75
BIASES = 0.5, 1.0, 1.2, 1.999, 2.0, 2.5, 3.0


def formula(x, bias):
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    around = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    return x / (bias + ALPHA / SIZE * around) ** BETA


def answers(x, bias):
    picture = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    node = helper.make_node("LRN", ["x"], ["y"], size=SIZE, alpha=ALPHA, beta=BETA, bias=bias)
    graph = helper.make_graph([node], "normalised", picture[:1], picture[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], compiled({"x": x})[0]


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__)
x = np.random.default_rng(3).normal(0, 1, (1, 4, 2, 3)).astype(np.float32)
as_expected = True
for bias in BIASES:
    in_onnxruntime, in_openvino = answers(x, bias)
    right = [bool(np.allclose(one, formula(x, bias), rtol=1e-4)) for one in (in_onnxruntime, in_openvino)]
    cut = bool(np.allclose(in_openvino, formula(x, math.floor(bias)), rtol=1e-4))
    print(f"bias {bias}: ONNX Runtime right {right[0]}, OpenVINO right {right[1]}, OpenVINO as for {math.floor(bias)} {cut}")
    as_expected &= right == [True, bias == math.floor(bias)] and cut
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/bias.py"
