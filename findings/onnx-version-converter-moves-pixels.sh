#!/usr/bin/env bash
# onnx 1.23.2: version_converter.convert_version raises a graph from opset 9 or 10 to 11 and later and changes what its Upsample or Resize computes. It adds
# no coordinate_transformation_mode, and the default of opset 11, "half_pixel", isn't what the older operators do. Nothing is said, the checker passes it.
#
# Input: columns 0 to 7 (1 x 1 x 1 x 8), made twice as wide, linear, by Resize of opset 10 and by Upsample of opset 9. These look at x / scale, which opset 11
# calls "asymmetric". Graphs of such opsets, as older exporters wrote them for detectors and U-Nets, are what the converter is for.
#
# Seen: before, ONNX Runtime 1.32.0 and OpenVINO 2026.4.1 give 0, 0.5, 1, 1.5 ...; after, both give 0, 0.25, 0.75, 1.25 ...: each pixel looks a quarter of a
# pixel further to the left, and in a U-Net at each step again. With the mode set to "asymmetric" by hand the new graph gives the old numbers. A program
# should export anew rather than convert, or run both graphs and compare.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/raised.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper, version_converter

onnxruntime.set_default_logger_severity(3)
x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)


def graph(kind, opset):
    made = helper.make_graph(
        [helper.make_node(kind, ["x", "scales"], ["y"], mode="linear")],
        "wider",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 16])],
        [numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_hand(model):
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for node in (node for node in fixed.graph.node if node.op_type == "Resize"):
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    return fixed


def answers(model):
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0].ravel(), compiled([x])[0].ravel()]


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
as_expected = True
columns = np.arange(16)
right, moved = np.clip(columns / 2, 0, 7), np.clip((columns + 0.5) / 2 - 0.5, 0, 7)
for kind, opset in (("Resize", 10), ("Upsample", 9)):
    old = graph(kind, opset)
    new = version_converter.convert_version(old, 13)
    onnx.checker.check_model(new, full_check=True)
    told = [attribute.name for node in new.graph.node if node.op_type == "Resize" for attribute in node.attribute]
    found = {"before": answers(old), "after": answers(new), "after, mode set by hand": answers(by_hand(new))}
    print(f"{kind}, opset {opset} to {new.opset_import[0].version}; the new Resize has the attributes {told}")
    for name, (runtime, other) in found.items():
        print(f"  {name:24} onnxruntime {runtime[:6].tolist()} openvino {other[:6].tolist()}")
    as_expected &= "coordinate_transformation_mode" not in told
    as_expected &= all(np.allclose(one, right) for name in ("before", "after, mode set by hand") for one in found[name])
    as_expected &= all(np.allclose(one, moved) for one in found["after"])
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/raised.py"
