#!/usr/bin/env bash
# ONNX Runtime 1.32.0: two pairs of QuantizeLinear and DequantizeLinear with different scales, one behind the other, are merged into one pair by the
# basic optimisations, which its documentation calls semantics-preserving. The coarser rounding is left out: values change by up to half of its step.
#
# Input: x from -3 to 3 through a pair of int8 with the scale 1/4 and then one with the scale 1/5, zero points 0, opset 19. That is what a network is
# where a layer's output is quantised for one reader and for the next one again, and what quantisation-aware training has simulated.
#
# Seen: 2.55 becomes 2.4 without optimisations, as numpy, the reference of onnx 1.23.2 and OpenVINO 2026.4.1 say (10 steps of 1/4 are 2.5, which is
# 12 steps of 1/5, by ties to even); with ORT_ENABLE_BASIC and above it becomes 2.6. The optimised graph holds one pair. Nothing is said.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/pairs.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(3)
SCALES = {"coarse": np.float32(0.25), "fine": np.float32(0.2)}
x = np.linspace(-3, 3, 121, dtype=np.float32).reshape(1, 121)
nodes, value = [], "x"
for name in SCALES:
    nodes.append(helper.make_node("QuantizeLinear", [value, name, "zero"], [f"code {name}"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"code {name}", name, "zero"], [f"after {name}"]))
    value = f"after {name}"
constants = [numpy_helper.from_array(np.asarray(number), name) for name, number in {**SCALES, "zero": np.int8(0)}.items()]
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", value)]
graph = helper.make_graph(nodes, "pairs", ends[:1], ends[1:], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
onnx.checker.check_model(model, full_check=True)
content = model.SerializeToString()

right = x
for scale in SCALES.values():
    right = np.clip(np.rint(right / scale), -128, 127).astype(np.float32) * scale


def in_onnxruntime(level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = sys.argv[1]
    found = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return found, sum(node.op_type == "QuantizeLinear" for node in onnx.load(sys.argv[1]).graph.node)


core = openvino.Core()
levels = onnxruntime.GraphOptimizationLevel
plain, pairs = in_onnxruntime(levels.ORT_DISABLE_ALL)
basic, merged = in_onnxruntime(levels.ORT_ENABLE_BASIC)
others = {
    "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
    "openvino": core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0],
    f"onnxruntime, not optimised, {pairs} pairs": plain,
    f"onnxruntime, basic, {merged} pair": basic,
    "onnxruntime, as it comes": in_onnxruntime(levels.ORT_ENABLE_ALL)[0],
}
print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "openvino", openvino.__version__)
at = int(np.argmin(np.abs(x - 2.55)))
wrong = []
for name, found in others.items():
    differ = int((np.abs(found - right) > 0.01).sum())
    print(f"{name:38} 2.55 becomes {found[0, at]:.2f}, {differ} of {x.size} values differ from numpy's, by at most {np.abs(found - right).max():.2f}")
    wrong.append(differ > 0)
sys.exit(0 if wrong == [False, False, False, True, True] and (pairs, merged) == (2, 1) else 1)
PYTHON
"$place/venv/bin/python" "$place/pairs.py" "$place/optimised.onnx"
