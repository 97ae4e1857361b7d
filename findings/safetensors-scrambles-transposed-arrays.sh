#!/usr/bin/env bash
# safetensors 0.8.0, numpy: save and save_file write arrays that don't lie row by row in memory with their numbers in another order. Shape, type and number
# of values in the file are right. Nothing is said; 0.7.0 wrote the right numbers, and safetensors.torch refuses such tensors.
#
# Input: arrays that numpy makes without a copy, of the numbers 0 to 23: a transposed one, one in Fortran's order, the first columns of a wider one, and
# pictures whose channels were moved from front to back. The docstring says that tensors "need to be contiguous and dense", and nothing checks it:
# 0.8.0 hands on where an array's memory begins, and its strides aren't read.
#
# Seen: each comes back with other numbers, in 0.8.0 from save and from save_file; in 0.7.0 each comes back as it was. numpy's own save is right for all.
# Weights and feature maps saved so load without an error, since sizes fit. A program should pass numpy.ascontiguousarray(array), always.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
cat > "$place/orders.py" <<'PYTHON'
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

numbers = np.arange(24, dtype=np.float32)
ARRAYS = {
    "row by row": numbers.reshape(4, 6),
    "transposed": numbers.reshape(4, 6).T,
    "Fortran's order": np.asfortranarray(numbers.reshape(4, 6)),
    "first columns": numbers.reshape(4, 6)[:, :3],
    "channels moved": np.moveaxis(numbers.reshape(2, 3, 4), 0, 2),
}


def by_numpy(array):
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    return np.load(file)


print("safetensors", safetensors.__version__, "numpy", np.__version__)
changed = set()
for name, array in ARRAYS.items():
    with tempfile.TemporaryDirectory() as folder:
        save_file({"x": array}, Path(folder) / "x.safetensors")
        back = {"save_file": load_file(Path(folder) / "x.safetensors")["x"], "save": load(save({"x": array}))["x"]}
    back["ascontiguousarray"] = load(save({"x": np.ascontiguousarray(array)}))["x"]
    assert np.array_equal(by_numpy(array), array)
    same = {way: one.shape == array.shape and np.array_equal(one, array) for way, one in back.items()}
    print(f"  {name:16} comes back as it was: {same}; first row {array[0].ravel()[:4]}, then {back['save'][0].ravel()[:4]}")
    if not same["ascontiguousarray"] or same["save"] != same["save_file"]:
        sys.exit(1)
    changed |= set() if same["save"] else {name}
sys.exit(0 if changed == (set(ARRAYS) - {"row by row"} if sys.argv[1] == "scrambled" else set()) else 1)
PYTHON
for expected in 0.8.0/scrambled 0.7.0/right; do
    python3 -m venv "$place/${expected%/*}"
    "$place/${expected%/*}/bin/pip" install --quiet --disable-pip-version-check "safetensors==${expected%/*}" numpy==2.4.6
    "$place/${expected%/*}/bin/python" "$place/orders.py" "${expected#*/}"
done
