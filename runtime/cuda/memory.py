"""Device arrays of other libraries without a copy, and pinned buffers for images on their way to the device.

Of `__dlpack__` and `__cuda_array_interface__` the first is preferred, since by it the producer makes our stream wait for
its own; the second names its stream only from version 3 on. An array is held until its prediction is there, and never written
to. In a buffer, images of the host are packed one behind the other, and device arrays stand by their address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.cuda.kernels.crop_launch_plan import MOST_PX, ImageRow, image_row
from blastscope.runtime.errors import DeviceError, ImageError

_KINDS = {2, 13}  # DLPack: CUDA, and CUDA's managed memory
_UINT = 1  # DLPack's type code
_LEGACY = 1  # CUDA's default stream, by the number that both standards give it
ALIGNMENT = 256  # of whatever a kernel reads


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """An image (H, W, 3) uint8 RGB in device memory. Strides are in bytes, as numpy has them.

    Attributes
    ----------
    address : int
        Address of pixel [0, 0, 0].
    shape : tuple of int
        H, W, 3.
    strides : tuple of int
        In bytes, as NumPy has them.
    stream : int or None
        Stream that the reader of the pixels follows first; None: they are there.
    owner : object
        Keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    stream: int | None
    owner: object = field(compare=False, repr=False)


class DeviceArrayImporter:
    """Where device arrays of one GPU come in. May be used by many threads."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        with gpu.current():
            self._stream = gpu.open_stream()

    def take(self, image: object) -> DeviceImage:
        """`image`, a device array, as the kernels take it. Raises `ImageError` for what is no (H, W, 3) uint8 of this GPU.

        To be called in the thread that hands the array over, since the producer's current stream is this thread's.
        """
        with self._gpu.current():
            taken = self._by_dlpack(image) if hasattr(image, "__dlpack__") else self._by_interface(image)
            if len(taken.shape) != 3 or taken.shape[2] != 3:
                raise ImageError(f"an image must be of shape (H, W, 3) in RGB, not {taken.shape}")
            if max(taken.shape) > MOST_PX:
                raise ImageError(f"a device array of {taken.shape} is more than the kernels take: at most {MOST_PX} px a side")
            if 0 not in taken.shape and not self._gpu.holds(taken.address):
                found = self._gpu.found
                raise ImageError(f"the image doesn't lie in the memory of cuda:{found.ordinal} ({found.name}): copy it there")
        return taken

    def close(self) -> None:
        """Ends the stream. Safe to call twice."""
        stream, self._stream = self._stream, 0
        if stream:
            with suppress(DeviceError), self._gpu.current():
                self._gpu.close_stream(stream)

    def _by_dlpack(self, image: Any) -> DeviceImage:
        """The array behind the capsule, in its first and oldest form, which every library still gives.

        The capsule is held and never marked as used: its own end gives the producer its memory back.
        """
        try:
            capsule = image.__dlpack__(stream=self._stream)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ImageError(f"the image can't be shared by DLPack: {error}") from error
        tensor = _Tensor.from_address(_pointer(capsule, b"dltensor"))
        kind = tensor.dtype
        if (kind.code, kind.bits, kind.lanes) != (_UINT, 8, 1):
            raise ImageError(f"an image must be uint8, not of DLPack's type {kind.code} with {kind.bits} bits: convert it")
        shape = tuple(tensor.shape[: tensor.ndim])
        strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _dense(shape)
        return DeviceImage((tensor.data or 0) + tensor.byte_offset, shape, strides, self._stream, (image, capsule))

    def _by_interface(self, image: Any) -> DeviceImage:
        facts = image.__cuda_array_interface__
        if facts["typestr"][1:] != "u1":
            raise ImageError(f"an image must be uint8, not '{facts['typestr']}': scale it to 0..255 and convert it")
        if facts.get("mask") is not None:
            raise ImageError("an image must not have a mask")
        shape = tuple(int(side) for side in facts["shape"])
        strides = tuple(facts.get("strides") or _dense(shape))
        stream = facts.get("stream")
        if stream is None and facts.get("version", 0) < 3:
            stream = _LEGACY  # an older producer can't tell: what it does on CUDA's default stream is waited for
        if stream is not None:
            self._gpu.follow(self._stream, int(stream))
        return DeviceImage(int(facts["data"][0]), shape, strides, None if stream is None else self._stream, image)


def on_device(image: object) -> bool:
    """Whether `image` is a device array. Looks at none of its pixels."""
    told = getattr(image, "__dlpack_device__", None)
    if told is not None:
        return int(told()[0]) in _KINDS
    return hasattr(image, "__cuda_array_interface__")


# ---- what DLPack's capsule holds


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def _pointer(capsule: object, name: bytes) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(get(capsule, name))


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for side in reversed(shape):
        strides.append(step)
        step *= side
    return tuple(reversed(strides))


Image = NDArray[np.uint8] | DeviceImage  # (H, W, 3) RGB, on the host or on the device


def aligned(size: int) -> int:
    """`size`, up to where the next thing may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pixel_bytes(images: Sequence[Image]) -> int:
    """The room that the pixels of `images` need."""
    return sum(aligned(image.nbytes) for image in images if isinstance(image, np.ndarray))


def stage(images: Sequence[Image], staging: NDArray[np.uint8], rows: int, inbox: int) -> int:
    """Fills a staging buffer: a table of images, and behind it their pixels.

    Parameters
    ----------
    images : sequence of Image
        Of the host, or on the device.
    staging : (N,) uint8 array
        Pinned memory of the host.
    rows : int
        Length of the table. Rows without an image become images without pixels.
    inbox : int
        Device address that the buffer will be copied to.

    Returns
    -------
    int
        How many bytes of the buffer count.
    """
    table = staging[: rows * ImageRow.itemsize].view(ImageRow)
    table[len(images) :] = np.zeros(1, ImageRow)
    end = aligned(rows * ImageRow.itemsize)
    for number, image in enumerate(images):
        if isinstance(image, DeviceImage):
            table[number] = image_row(image.address, image.shape, image.strides)
            continue
        copy = staging[end : end + image.size].reshape(image.shape)
        copy[...] = image  # takes any strides, and lets other threads run meanwhile
        table[number] = image_row(inbox + end, copy.shape, copy.strides)
        end += aligned(image.size)
    return end
