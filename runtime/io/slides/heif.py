"""`HeifSlide`: a photograph in HEIF (a phone's .heic), decoded when it is first read, with pillow-heif (the extra `slides`)."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_decode import OPAQUE, read_content
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.io.slides.tile_table import refuse
from blastscope.runtime.types import Box, Refusal

NAME = "a HEIF photograph"


class HeifSlide:
    """A `Slide` of the file `path`. The picture is upright: its own rotation is part of decoding, an EXIF one doesn't count.

    Raises `ReadError` for several pictures, more than 8 bits, gray, and where the library is missing.
    """

    pixel_um: float | None = None
    reduced = ()

    def __init__(self, path: Path) -> None:
        if find_spec("pillow_heif") is None:
            raise refuse("undecodable", f"{NAME}, which is read by pillow-heif: pip install 'blastscope[slides]'")
        import pillow_heif

        content = read_content(path)
        if isinstance(content, Refusal):
            raise ReadError(content)
        try:
            self._heif = pillow_heif.open_heif(BytesIO(content), convert_hdr_to_8bit=False)
            (self.width, self.height), bits = self._heif.size, self._heif.info["bit_depth"]
        except (ValueError, SyntaxError, RuntimeError, EOFError, OSError) as error:
            raise refuse("undecodable", f"{NAME} that is damaged: {error}") from error
        if self.width * self.height > MAX_PIXELS:
            raise refuse("bomb", f"{self.width} x {self.height} pixels, more than {MAX_PIXELS}")
        if len(self._heif) != 1:
            raise refuse("undecodable", f"{NAME} of {len(self._heif)} images: give each image a file of its own")
        if bits != 8 or self._heif.mode not in ("RGB", "RGBA"):
            found = f"{NAME} of {bits}-bit {self._heif.mode.partition(';')[0]} pixels"
            raise refuse("not-8-bit-rgb", f"{found}; it is not converted: save it as 8-bit RGB")
        dropped = "its alpha channel, which is opaque everywhere, is dropped" if self._heif.has_alpha else ""
        self.notes = tuple(filter(None, (dropped,)))
        self._frame: NDArray[np.uint8] | None = None
        self._decoding = threading.Lock()

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        with self._decoding:
            if self._frame is None:
                self._frame = self._decoded()
        return self._frame[box[1] : box[3], box[0] : box[2]]

    def _decoded(self) -> NDArray[np.uint8]:
        try:
            pixels = np.asarray(self._heif)
        except (ValueError, SyntaxError, RuntimeError, EOFError, OSError) as error:
            raise refuse("undecodable", f"the photograph's pixels are damaged: {error}") from error
        if pixels.dtype != np.uint8 or pixels.shape[:2] != (self.height, self.width):
            raise refuse("undecodable", f"the header says {self.width} x {self.height} pixels, the file holds {pixels.shape}")
        if pixels.shape[2] == 4 and not (pixels[..., 3] == OPAQUE).all():
            raise refuse("not-8-bit-rgb", "its alpha isn't opaque everywhere; it is not converted: save it as 8-bit RGB")
        return np.ascontiguousarray(pixels[..., :3])

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return False

    def close(self) -> None:
        """See `Slide`."""
