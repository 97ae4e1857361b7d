#!/usr/bin/env bash
# ONNX Runtime 1.32.0: an array whose numbers are stored with the high byte first is run with its bytes taken as they lie: 1 becomes 256. OpenVINO 2026.4.1 does
# the same in openvino.Tensor and in a constant, and not where the array is handed to a compiled model. Nothing is said. Little-endian machines.
#
# Input: 1, 2, 3, 1000 as uint16, float32 and int32, in numpy's ">u2", ">f4" and ">i4", through a graph that gives back what it gets. Such arrays come from
# files: tifffile 2026.3.3 maps a 16-bit TIFF with the high byte first (MM, as ImageJ writes them) as ">u2".
# numpy computes with them as with any other; their type compares unequal to uint16, and prints as >u2.
#
# Seen: session.run gives 256, 512, 768, 59395 for uint16, and for float32 numbers of 1e-41; OrtValue.ortvalue_from_numpy, openvino.Tensor and a constant of
# OpenVINO's do as well, and say that they hold uint16 and float32. A compiled model of OpenVINO's gives 1, 2, 3, 1000, and onnx 1.23.2's from_array raises an error. A
# program should pass array.astype(array.dtype.newbyteorder("=")), always.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 tifffile==2026.3.3 numpy==2.4.6
cat > "$place/order.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
import tifffile
from onnx import helper, numpy_helper

NUMBERS = [1, 2, 3, 1000]


def ways(array):
    native = array.dtype.newbyteorder("=")
    kind = helper.np_dtype_to_tensor_dtype(native)
    ends = [helper.make_tensor_value_info(name, kind, array.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {
        "session.run": session.run(None, {"x": array})[0],
        "OrtValue": onnxruntime.OrtValue.ortvalue_from_numpy(array).numpy(),
        "openvino.Tensor": openvino.Tensor(array).data.copy(),
        "openvino constant": openvino.opset13.constant(array).data.copy(),
        "compiled model": np.array(compiled([array])[0]),
        "session.run, made native": session.run(None, {"x": array.astype(native)})[0],
    }
    assert all(one.dtype == native for one in found.values())
    return found


def raises(array):
    try:
        numpy_helper.from_array(array)
    except ValueError:
        return True
    return False


if sys.byteorder != "little":
    sys.exit("this shows what little-endian machines do")
print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__, "onnx", onnx.__version__, "tifffile", tifffile.__version__)
tifffile.imwrite(sys.argv[1], np.array([NUMBERS], np.uint16), byteorder=">", photometric="minisblack", metadata=None)
arrays = {"a mapped TIFF": tifffile.memmap(sys.argv[1], mode="r")[0]}
arrays |= {f"numpy's {kind}": np.array(NUMBERS, kind) for kind in (">u2", ">i4", ">f4")}
as_expected = True
for name, array in arrays.items():
    right = np.array(NUMBERS, array.dtype.newbyteorder("="))
    swapped = right.byteswap()
    print(f"{name}, {array.dtype.str}, {array.tolist()}; onnx.numpy_helper.from_array raises: {raises(array)}")
    for way, found in ways(array).items():
        print(f"  {way:25} {found.tolist()}")
        good = way in ("compiled model", "session.run, made native")
        as_expected &= found.tobytes() == (right if good else swapped).tobytes()
    as_expected &= array.dtype.str.startswith(">") and array.tolist() == NUMBERS and raises(array)
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/order.py" "$place/mapped.tif"
