#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: Equal, Less, Greater and their like on int32 compare as float32, which holds whole numbers to 2^24: different integers are equal. ReduceMax
# of int32 goes the same way, and makes -2147483648 of the largest one. Add, Sub, Max and Min on int32 are exact in the same OpenVINO. Nothing is said.
#
# Input: 16777216 and 16777217, and the same next to 2^31, as int32, opset 18. What is asked so is whether a pixel has an object's label, a row a key, a position its
# index; labels that hold a tile's number in the upper bits and an object's in the lower, hashes and stage positions in nanometres are as large.
#
# Seen: numpy, ONNX Runtime 1.32.0 and the reference of onnx 1.23.2 find the numbers different; OpenVINO finds them equal, with a constant as with two inputs,
# and INFERENCE_PRECISION_HINT f32, the most exact there is. Below 2^24 all agree. A program should subtract and compare with 0: that is exact.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$place/integers.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

LEFT = np.array([7, 2**23, 2**24, -(2**24), 2**31 - 2], np.int32)
RIGHT = np.array([8, 2**23 + 1, 2**24 + 1, -(2**24) - 1, 2**31 - 1], np.int32)
COMPARED = {"Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal, "GreaterOrEqual": np.greater_equal}
EXACT = {"Add": np.add, "Sub": np.subtract, "Max": np.maximum, "Min": np.minimum}


def answers(nodes, inputs, kind, constants=()):
    graph = helper.make_graph(
        nodes,
        "integers",
        [helper.make_tensor_value_info(name, TensorProto.INT32, one.shape) for name, one in inputs.items()],
        [helper.make_tensor_value_info("y", kind, [None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnx reference": ReferenceEvaluator(model).run(None, inputs)[0],
        "onnxruntime": onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs)[0],
        "openvino": compiled(inputs)[0],
    }


def wrong(found, right):
    return {name: (one != right).tolist() for name, one in found.items()}


print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
both, as_expected = {"left": LEFT, "right": RIGHT}, True
with np.errstate(over="ignore"):
    for name, function in (COMPARED | EXACT).items():
        right = function(LEFT, RIGHT)
        node = helper.make_node(name, ["left", "right"], ["y"])
        found = wrong(answers([node], both, TensorProto.BOOL if name in COMPARED else TensorProto.INT32), right)
        print(f"{name:15} wrong in openvino at {LEFT[found['openvino']].tolist()}")
        as_floats = function(LEFT.astype(np.float32), RIGHT.astype(np.float32)) if name in COMPARED else right
        as_expected &= found["openvino"] == (as_floats != right).tolist()
        as_expected &= not any(found["onnxruntime"] + found["onnx reference"])
# by a subtraction, and with a constant
by_hand = [helper.make_node("Sub", ["left", "right"], ["apart"]), helper.make_node("Equal", ["apart", "zero"], ["y"])]
found = wrong(answers(by_hand, both, TensorProto.BOOL, [("zero", np.int32(0))]), LEFT == RIGHT)
print("Equal of Sub and 0: wrong in openvino:", any(found["openvino"]))
as_expected &= not any(found["openvino"])
label = [helper.make_node("Equal", ["labels", "label"], ["y"])]
found = answers(label, {"labels": LEFT}, TensorProto.BOOL, [("label", np.int32(2**24 + 1))])
print("has label 16777217:", {name: LEFT[one].tolist() for name, one in found.items()})
as_expected &= LEFT[found["openvino"]].tolist() == [2**24] and not found["onnxruntime"].any()
largest = answers([helper.make_node("ReduceMax", ["right"], ["y"], keepdims=1)], {"right": RIGHT}, TensorProto.INT32)
print("largest:", {name: int(one[0]) for name, one in largest.items()})
as_expected &= int(largest["openvino"][0]) == -(2**31) and int(largest["onnxruntime"][0]) == int(largest["onnx reference"][0]) == 2**31 - 1
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/integers.py"
