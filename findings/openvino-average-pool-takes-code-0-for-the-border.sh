#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: an AveragePool that counts its border (count_include_pad=1), behind a DequantizeLinear with a zero point, averages as if the border
# held the code 0, whatever number that code stands for. ONNX pads what DequantizeLinear gives, which is float32, with zeros. Nothing is said.
#
# Input: ones, 1 x 1 x 5 x 5, through QuantizeLinear and DequantizeLinear with the scale 1/64 (all is exact), then AveragePool, kernel 3, padding 1 on each
# side, opset 19. uint8 with 128 is how signed values are coded for x86; PyTorch's avg_pool2d counts its border unless told otherwise.
#
# Seen: a corner holds four ones and five zeros, 4/9 = 0.444, in numpy, ONNX Runtime 1.32.0 and the reference of onnx 1.23.2. OpenVINO gives -0.667 with
# uint8 and 128: the code 0 stands for -2 there, and (4 - 10) / 9 is that. With the zero point 32 it is 0.167. With 0, and with count_include_pad=0, it
# agrees. An operator Pad before the pool gives the same wrong numbers, since OpenVINO joins the two. A program should quantise the padded value once more,
# with the same scale and zero point, which changes nothing and keeps them apart; or take the zero point 0.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/border.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

STEP = np.float32(1 / 64)
COUNTED, NOT_COUNTED, PADDED, QUANTISED_AGAIN = "count_include_pad=1", "count_include_pad=0", "Pad before it", "Pad, quantised again"
x = np.ones((1, 1, 5, 5), np.float32)


def pair(value, name):
    return [
        helper.make_node("QuantizeLinear", [value, "step", "zero"], [f"{name} code"]),
        helper.make_node("DequantizeLinear", [f"{name} code", "step", "zero"], [name]),
    ]


def answers(zero, way):
    nodes, last, constants = pair("x", "value"), "value", {"step": STEP, "zero": zero}
    border = {"pads": [1, 1, 1, 1], "count_include_pad": int(way == COUNTED)} if way in (COUNTED, NOT_COUNTED) else {}
    if not border:
        constants["rim"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
        nodes.append(helper.make_node("Pad", ["value", "rim"], ["wide"]))
        last = "wide"
    if way == QUANTISED_AGAIN:
        nodes += pair("wide", "again")
        last = "again"
    nodes.append(helper.make_node("AveragePool", [last], ["y"], kernel_shape=[3, 3], **border))
    graph = helper.make_graph(
        nodes,
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(np.asarray(number), name) for name, number in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0][0, 0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0][0, 0],
        "openvino": compiled([x])[0][0, 0],
    }


def averages(border):
    """Of ones within a border of this number; None leaves the border out."""
    wide = np.pad(x[0, 0], 1, constant_values=np.nan if border is None else border)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3))
    return np.nanmean(windows, axis=(2, 3))


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
as_expected = True
cases = [(zero, COUNTED) for zero in (np.uint8(128), np.uint8(32), np.int8(-64), np.uint8(0), np.int8(0))]
for zero, way in [*cases, *((np.uint8(128), way) for way in (NOT_COUNTED, PADDED, QUANTISED_AGAIN))]:
    found = answers(zero, way)
    corners = {name: round(float(one[0, 0]), 3) for name, one in found.items()}
    print(f"{type(zero).__name__} with {zero}, {way}: corner", corners)
    right = averages(None if way == NOT_COUNTED else 0)
    filled = averages(-float(zero) * STEP) if way in (COUNTED, PADDED) else right
    as_expected &= all(np.allclose(found[name], right, atol=1e-5) for name in ("onnx reference", "onnxruntime"))
    as_expected &= np.allclose(found["openvino"], filled, atol=1e-5)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/border.py"
