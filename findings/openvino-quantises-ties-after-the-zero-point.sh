#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: QuantizeLinear with an odd zero point rounds ties the other way than ONNX says, and so gives codes that are one off. It adds
# the zero point first and rounds then; ONNX rounds x / scale to the nearest even number, and adds the zero point to that. Nothing is said.
#
# Input: x = -4.5, -4 ... 4.5 with the scale 1, to int8 with the zero points 0, 2, 3 and -5, to uint8 with 128 and 37, opset 19. All is exact in float32, so
# that no rounding but the operator's own plays a part. ONNX: "for (x / y_scale), it rounds to the nearest even".
#
# Seen: with the zero points 0, 2 and 128 OpenVINO gives what numpy, ONNX Runtime 1.32.0 and the reference of onnx 1.23.2 give. With 3, -5 and 37 all ten
# ties are off by one, as 0.5, which is the code 3 by ONNX and 4 in OpenVINO. Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/ties.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.arange(-9, 10, dtype=np.float32)[None] / 2
TYPES = {np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8}


def codes(zero):
    constants = [numpy_helper.from_array(np.asarray(number), name) for name, number in (("one", np.float32(1)), ("zero", zero))]
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["y"])],
        "codes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TYPES[type(zero)], x.shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    ends = np.iinfo(type(zero))
    return {
        "numpy": np.clip(np.rint(x) + int(zero), ends.min, ends.max).astype(type(zero)),
        "onnx reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        "openvino": core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0],
    }


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
as_expected = True
for zero in (np.int8(0), np.int8(2), np.int8(3), np.int8(-5), np.uint8(128), np.uint8(37)):
    found = {name: values.astype(int) for name, values in codes(zero).items()}
    agree = all(np.array_equal(found["numpy"], found[name]) for name in ("onnx reference", "onnxruntime"))
    off = np.abs(found["openvino"] - found["numpy"])[0]
    ties = x[0] % 1 == 0.5
    print(f"{type(zero).__name__} with {zero}: the others agree: {agree}; openvino is off by one at {int((off == 1).sum())} of {int(ties.sum())} ties")
    as_expected &= agree and np.array_equal(off, ties.astype(int) if zero % 2 else np.zeros(x.size, int))
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/ties.py"
