"""libblastscope, called through ctypes: what a program in another language sees of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

AUDIT = ("bundle", "engine", "backend", "device", "precision", "execution", "layout")  # the first numbers of blastscope_text
NOTES = 8


class NativeError(Exception):
    """A status other than OK, with the name that Python's exception has."""

    def __init__(self, status: int, name: str, message: str) -> None:
        self.status, self.name, self.message = status, name, message
        super().__init__(f"{name}: {message}")


class Image(ctypes.Structure):
    """`blastscope_image`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("row_stride", ctypes.c_int64),
        ("pixel_stride", ctypes.c_int64),
        ("format", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )


class PredictionStruct(ctypes.Structure):
    """`blastscope_prediction`."""

    _fields_ = (
        ("label", ctypes.c_int32),
        ("voter", ctypes.c_int32),
        ("refusal", ctypes.c_int32),
        ("status", ctypes.c_int32),
        ("probability", ctypes.c_float),
        ("score", ctypes.c_float),
        ("probabilities", ctypes.c_float * 2 * 3),
        ("novelty", ctypes.c_float),
        ("set", ctypes.c_int32),
        ("decided_early", ctypes.c_int32),
        ("has_box", ctypes.c_int32),
        ("box", ctypes.c_int32 * 4),
        ("detail", ctypes.c_char * 256),
        ("reserved", ctypes.c_int32 * 12),
    )


class Options(ctypes.Structure):
    """`blastscope_options`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("device", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("execution", ctypes.c_char_p),
        ("layout", ctypes.c_char_p),
        ("workload", ctypes.c_char_p),
        ("cache_dir", ctypes.c_char_p),
        ("queue", ctypes.c_int32),
        ("allow_ungated", ctypes.c_int32),
        ("cascade", ctypes.c_int32),
        ("call_unlike_training", ctypes.c_int32),
        ("measure", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("require_signature", ctypes.c_char_p),
    )


CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.POINTER(PredictionStruct), ctypes.c_char_p
)


def image_of(pixels: NDArray[np.uint8], pixel_format: int = 0) -> Image:
    """The image in an array of any strides; it must outlive the result."""
    height, width, _ = pixels.shape
    row, pixel, channel = pixels.strides
    assert channel == 1 or not pixels.size, "the header knows no stride of channels"
    return Image(pixels.ctypes.data, width, height, row, pixel, pixel_format, 0)


class NativeLibrary:
    """The functions of the header, with errors as `NativeError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = ctypes.CDLL(str(path))
        for name in ("version", "last_error", "status_name", "refusal_name", "describe"):
            getattr(self.c, f"blastscope_{name}").restype = ctypes.c_char_p
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        self.c.blastscope_close.argtypes = [u64]
        self.c.blastscope_describe.argtypes = [u64, ctypes.c_int]
        self.c.blastscope_classify.argtypes = [u64, pointer, pointer]
        self.c.blastscope_classify_many.argtypes = [u64, pointer, ctypes.c_size_t, pointer]
        self.c.blastscope_crop.argtypes = [u64, pointer, pointer, ctypes.c_size_t, pointer, pointer]
        self.c.blastscope_submit.argtypes = [u64, pointer, pointer, pointer, pointer]
        self.c.blastscope_wait.argtypes = [u64, ctypes.c_int64, pointer]
        self.c.blastscope_forget.argtypes = [u64]

    def check(self, status: int) -> None:
        """Raises `NativeError` for what isn't OK."""
        if status:
            raise NativeError(status, self.c.blastscope_status_name(status).decode(), self.c.blastscope_last_error().decode())

    def open(self, path: Path | str, **options: Any) -> int:
        """The handle of an open bundle."""
        record, handle = Options(), ctypes.c_uint64()
        self.c.blastscope_options_init(ctypes.byref(record), ctypes.sizeof(Options))
        for name, value in options.items():
            setattr(record, name, os.fsencode(value) if isinstance(value, str | Path) else value)
        self.check(self.c.blastscope_open(os.fsencode(path), ctypes.byref(record), ctypes.byref(handle)))
        return handle.value

    @contextmanager
    def opened(self, path: Path | str, **options: Any) -> Iterator[NativeScope]:
        """The open bundle, closed at the end."""
        handle = self.open(path, **options)
        try:
            yield NativeScope(self, handle)
        finally:
            self.c.blastscope_close(handle)


class NativeScope:
    """An open bundle."""

    def __init__(self, library: NativeLibrary, handle: int) -> None:
        self.library, self.handle = library, handle

    @property
    def audit(self) -> dict[str, str]:
        """The audit, by the names of Python's `Audit`."""
        return {name: self.describe(number) for number, name in enumerate(AUDIT)}

    def describe(self, number: int) -> str:
        """A text about the bundle."""
        found = self.library.c.blastscope_describe(self.handle, number)
        if found is None:
            raise NativeError(0, "", self.library.c.blastscope_last_error().decode())
        return bytes(found).decode()

    def classify(self, pixels: NDArray[np.uint8], pixel_format: int = 0) -> PredictionStruct:
        """The call on one image."""
        prediction, image = PredictionStruct(), image_of(pixels, pixel_format)
        status = self.library.c.blastscope_classify(self.handle, ctypes.byref(image), ctypes.byref(prediction))
        self.library.check(status)
        return prediction

    def classify_many(self, images: Iterable[NDArray[np.uint8]]) -> list[PredictionStruct]:
        """The calls on several."""
        several = list(images)
        records, predictions = (Image * len(several))(*map(image_of, several)), (PredictionStruct * len(several))()
        self.library.check(self.library.c.blastscope_classify_many(self.handle, records, len(several), predictions))
        return list(predictions)

    def crop(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8] | None, PredictionStruct]:
        """The crop's pixels, None where it is refused, and the box or the refusal."""
        side, prediction, image = ctypes.c_int32(), PredictionStruct(), image_of(pixels)
        self.library.check(self.library.c.blastscope_crop(self.handle, None, None, 0, ctypes.byref(side), None))
        found = np.zeros((side.value, side.value, 3), np.uint8)
        status = self.library.c.blastscope_crop(
            self.handle, ctypes.byref(image), found.ctypes.data, found.nbytes, ctypes.byref(side), ctypes.byref(prediction)
        )
        self.library.check(status)
        return (None if prediction.refusal else found), prediction

    def submit(self, pixels: NDArray[np.uint8]) -> int:
        """The ticket of an image that waits for its answer."""
        ticket, image = ctypes.c_uint64(), image_of(pixels)
        status = self.library.c.blastscope_submit(self.handle, ctypes.byref(image), None, None, ctypes.byref(ticket))
        self.library.check(status)
        return ticket.value

    def wait(self, ticket: int, timeout_ms: int = -1) -> PredictionStruct | None:
        """Its answer; None where there is none yet."""
        prediction = PredictionStruct()
        status = self.library.c.blastscope_wait(ticket, timeout_ms, ctypes.byref(prediction))
        if status == 1:
            return None
        self.library.check(status)
        return prediction

    def row(self, found: PredictionStruct) -> dict[str, Any]:
        """A prediction with the keys and values of Python's `PredictionStruct.row()`."""
        voters, classes = ("a", "b", "combined"), ("hem", "all")
        called = found.label >= 0
        table = {
            voter: None if pair[0] != pair[0] else dict(zip(classes, map(float, pair), strict=True))
            for voter, pair in zip(voters, found.probabilities, strict=True)
        }
        return {
            "label": classes[found.label] if called else None,
            "probability": float(found.probability) if called else None,
            "voter": voters[found.voter] if called else None,
            "probabilities": table if called else None,
            "decided_early": bool(found.decided_early),
            "novelty": None if found.novelty != found.novelty else float(found.novelty),
            "set": None if found.set < 0 else [name for bit, name in enumerate(classes) if found.set >> bit & 1],
            "box": list(found.box) if found.has_box else None,
            "refusal": self.library.c.blastscope_refusal_name(found.refusal).decode() or None,
            "score": float(found.score) if called else None,
            "detail": found.detail.decode() or None,
            "audit": self.audit,
        }
