"""The crop kernels on a machine without a GPU: their CUDA source compiled as C++ (host_shim.h) and run over numpy's memory.

`HostKernels` is fast: launches run in this process, addresses are numpy's. `SanitizedKernels` runs each batch in a process of
its own with the address and undefined-behaviour sanitizers, every array of the workspace in an allocation of its own. In both,
seed 0 runs threads in order, and any other seed shuffles threads and blocks at every atomic and every look at shared words.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.kernels.crop_launch_plan import (
    Address,
    CropPlan,
    ImageRow,
    Launch,
    VerdictRow,
    box_of,
    image_row,
    refusal_of,
)
from blastscope.runtime.types import Refusal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = ROOT / "runtime" / "cuda" / "kernels"
BUILT = ROOT / ".cache" / "shim"
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", f"-I{KERNELS}", f"-I{HERE}")
SANITIZE = (
    "-fsanitize=address,undefined",
    "-fsanitize=bounds-strict",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-g1",
    "-O1",
)
OFFSET_BITS = 40  # as in requests.cpp

Image = NDArray[np.uint8]


class ShimError(Exception):
    """The shim or a sanitizer saw a fault in a kernel."""


def build(name: str, sources: Sequence[str], *flags: str) -> Path:
    """The compiled shim, from .cache/ if its sources haven't changed. Raises `FileNotFoundError` where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("g++ is not installed")
    command = [compiler, *FLAGS, *flags, *(str(HERE / source) for source in sources)]
    digest = hashlib.sha256(" ".join(command).encode())
    for path in sorted([*KERNELS.glob("*.cu*"), *HERE.glob("*.h"), *HERE.glob("*.c*")]):
        digest.update(path.name.encode() + path.read_bytes())
    built = BUILT / f"{name}-{digest.hexdigest()[:16]}"
    if not built.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        fresh = built.with_suffix(f".{os.getpid()}")  # of its own: two test runs may build at once
        subprocess.run([*command, "-o", str(fresh)], check=True)
        fresh.replace(built)
        for stale in BUILT.glob(f"{name}-*"):
            if stale != built and not stale.suffix:
                stale.unlink(missing_ok=True)
    return built


def kinds_of(launch: Launch) -> bytes:
    """Of each argument whether it is an address or an int."""
    return b"".join(b"a" if isinstance(value, Address) else b"i" for value in launch.arguments)


class HostKernels:
    """The kernels in this process. Addresses are those of arrays that the caller keeps alive."""

    def __init__(self) -> None:
        path = build("shim", ["host_shim.cpp", "kernel_table.cpp"], "-O2", "-shared", "-fPIC")
        self._launch = ctypes.CDLL(str(path)).shim_launch
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_uint64,
        ]

    def launch(self, launch: Launch, *, seed: int = 0) -> None:
        """Runs one launch to its end. Raises `ShimError`."""
        grid, block = (np.array(shape, np.uint32) for shape in (launch.grid, launch.block))
        values = np.array([value & 0xFFFFFFFFFFFFFFFF for value in launch.arguments], np.uint64)
        name, kinds = launch.kernel.encode(), kinds_of(launch)
        failure = self._launch(name, grid.ctypes.data, block.ctypes.data, kinds, values.ctypes.data, seed)
        if failure is not None:
            raise ShimError(failure.decode())

    def crop(self, images: Sequence[Image], plan: CropPlan, *, seed: int = 0) -> list[Crop | Refusal]:
        """What the kernels make of `images`, each any strided view."""
        table = np.zeros(plan.batch, ImageRow)
        for index, image in enumerate(images):
            table[index] = image_row(image.ctypes.data, image.shape, image.strides)
        arrays = [np.full(size, 0xC3, np.uint8) for size in (plan.crops_bytes, plan.verdicts_bytes, plan.workspace_bytes + 256)]
        start = -arrays[2].ctypes.data % 256
        addresses = (arrays[0].ctypes.data, arrays[1].ctypes.data, arrays[2].ctypes.data + start)
        for number, launch in enumerate(plan.launches(table.ctypes.data, *addresses)):
            self.launch(launch, seed=seed and seed + number)
        return results(images, plan, arrays[0], arrays[1])


def results(images: Sequence[Image], plan: CropPlan, crops: Image, verdicts: Image) -> list[Crop | Refusal]:
    """Crops and refusals from what came back; checks that a refused image's crop is black."""
    side = plan.spec.side_px
    pixels = crops.reshape(plan.batch, side, side, 3)
    found: list[Crop | Refusal] = []
    for image, crop, row in zip(images, pixels, verdicts.view(VerdictRow), strict=False):
        refusal = refusal_of(row, plan.spec, image.shape)
        assert refusal is None or not crop.any()
        found.append(refusal or Crop(crop, box_of(row)))
    return found


class Array(NamedTuple):
    """Memory in the other process: its size, and its content where that isn't garbage."""

    size: int
    content: bytes | None = None


class SanitizedKernels:
    """The kernels in a process with sanitizers, which ends at the first fault."""

    def __init__(self) -> None:
        self._program = build("sanitized", ["host_shim.cpp", "kernel_table.cpp", "requests.cpp"], *SANITIZE)

    def run(self, arrays: Sequence[Array], launches: Sequence[Launch], wanted: Sequence[int], *, seed: int = 0) -> list[bytes]:
        """The contents of the `wanted` arrays after `launches`, addressed by `place(array, offset)`. Raises `ShimError`."""
        request = struct.pack("<I", len(arrays))
        for array in arrays:
            request += struct.pack("<QB", array.size, array.content is not None) + (array.content or b"")
        request += struct.pack("<QI", seed, len(launches))
        for launch in launches:
            name, kinds = launch.kernel.encode(), kinds_of(launch)
            request += struct.pack(f"<I{len(name)}sI{len(kinds)}s", len(name), name, len(kinds), kinds)
            request += struct.pack("<6I", *launch.grid, *launch.block)
            request += struct.pack(f"<{len(kinds)}Q", *(value & 0xFFFFFFFFFFFFFFFF for value in launch.arguments))
        request += struct.pack(f"<I{len(wanted)}I", len(wanted), *wanted)
        options = {"ASAN_OPTIONS": "detect_stack_use_after_return=0:detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        done = subprocess.run([self._program], input=request, capture_output=True, check=False, env={**os.environ, **options})
        if done.returncode:
            raise ShimError(done.stderr.decode(errors="replace"))
        (length,) = struct.unpack_from("<I", done.stdout)
        if length:
            raise ShimError(done.stdout[4 : 4 + length].decode())
        contents, start = [], 4
        for index in wanted:
            contents.append(done.stdout[start : start + arrays[index].size])
            start += arrays[index].size
        return contents

    def crop(self, images: Sequence[Image], plan: CropPlan, *, seed: int = 0) -> list[Crop | Refusal]:
        """What the kernels make of `images`, each copied with its strides into an allocation of just its bytes."""
        parts = [Array(part.size) for part in plan.parts]
        # an address on the wire names an array; those of the workspace are planned from 0 and then moved to arrays of their own
        arrays = [Array(plan.images_bytes), Array(plan.crops_bytes), Array(plan.verdicts_bytes), *parts]
        table = np.zeros(plan.batch, ImageRow)
        for index, image in enumerate(images):
            content, start = extent(image)
            table[index] = image_row(place(len(arrays), start) if content else 0, image.shape, image.strides)
            arrays.append(Array(len(content), content))
        arrays[0] = Array(plan.images_bytes, table.tobytes())
        workspace = 1 << 62
        moved = {workspace + part.offset: place(3 + index) for index, part in enumerate(plan.parts)}
        launches = [
            Launch(**{**fields(launch), "arguments": tuple(_moved(value, moved) for value in launch.arguments)})
            for launch in plan.launches(place(0), place(1), place(2), workspace)
        ]
        crops, verdicts = (np.frombuffer(content, np.uint8) for content in self.run(arrays, launches, [1, 2], seed=seed))
        return results(images, plan, crops, verdicts)


def fields(launch: Launch) -> dict[str, Any]:
    """The fields of `launch` by name."""
    return {name: getattr(launch, name) for name in Launch.__slots__}


def place(array: int, offset: int = 0) -> int:
    """The address of an array on the wire."""
    return (array + 1 << OFFSET_BITS) + offset


def _moved(value: int, places: dict[int, int]) -> int:
    return Address(places.get(value, value)) if isinstance(value, Address) else value


def extent(image: Image) -> tuple[bytes, int]:
    """The bytes from the first that `image` reaches to the last, and where pixel [0, 0, 0] lies among them."""
    if image.size == 0:
        return b"", 0
    reach = [stride * (count - 1) for stride, count in zip(image.strides, image.shape, strict=True)]
    below, above = -sum(min(step, 0) for step in reach), sum(max(step, 0) for step in reach)
    return ctypes.string_at(image.ctypes.data - below, below + above + 1), below


def plan_for(images: Sequence[Image], spec: CropSpecification) -> CropPlan:
    """The tightest plan for `images`."""
    return CropPlan.make(spec, len(images), max(1, *(side for image in images for side in image.shape[:2])))


def agrees(kernels: HostKernels | SanitizedKernels, images: Sequence[Image], plan: CropPlan, *, seed: int = 0) -> list[str]:
    """Asserts that the kernels say of each image what OpenCV says, and gives that: ok or a refusal's code."""
    codes: list[str] = []
    for index, (image, ours) in enumerate(zip(images, kernels.crop(images, plan, seed=seed), strict=True)):
        theirs = crop_cell(image, plan.spec)
        codes.append(theirs.code if isinstance(theirs, Refusal) else "ok")
        assert _told(ours) == _told(theirs), f"image {index} of {image.shape}, '{codes[-1]}', seed {seed}"
    return codes


def _told(result: Crop | Refusal) -> object:
    return result if isinstance(result, Refusal) else (result.box, result.pixels.tobytes())
