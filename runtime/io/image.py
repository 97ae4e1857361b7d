"""Images at the door: arrays are checked here, and files decoded unchanged or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import ImageError
from blastscope.runtime.io.image_decode import NO_MEMORY, decode_picture, read_content, read_whole_header
from blastscope.runtime.io.slides.container import HEAD_BYTES, TIFF_MAGIC, container_of
from blastscope.runtime.io.slides.slide import decode_tiff, open_tiff
from blastscope.runtime.types import Refusal


def check_array(image: object) -> NDArray[np.uint8]:
    """`image` itself, once it is known to be a (H, W, 3) uint8 array. Raises `ImageError`."""
    if not isinstance(image, np.ndarray):
        if hasattr(image, "__cuda_array_interface__"):
            raise ImageError("a device array needs a handle that works on its GPU: open the bundle with device='cuda'")
        raise ImageError(f"an image must be a numpy array, not '{type(image).__name__}': convert it with numpy.asarray")
    if image.dtype != np.uint8:
        raise ImageError(f"an image must be uint8, not '{image.dtype}': scale it to 0..255 and convert it")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"an image must be of shape (H, W, 3) in RGB, not {image.shape}")
    return image


def read_image(path: Path | str) -> NDArray[np.uint8] | Refusal:
    """The pixels (H, W, 3) RGB of the image file `path`, exactly as stored, and upright; or why there are none.

    What the file is, is read from its content and, of a slide's preview, from what lies beside it, not from its suffix. A file
    of several images is refused, since nobody said which is meant; so is one for which memory doesn't suffice. Releases the
    interpreter's lock while it decodes.
    """
    try:
        return _read_image(Path(path))
    except MemoryError:
        return NO_MEMORY


def _read_image(path: Path) -> NDArray[np.uint8] | Refusal:
    content = read_content(path)
    if isinstance(content, Refusal):
        return content
    container = container_of(path, content[:HEAD_BYTES])
    if container is not None and container.reader != "tiff":
        remedy = "use 'blastscope examine'" if container.reader else container.remedy
        return Refusal("undecodable", f"{container.name}, which isn't an image of a cell: {remedy}")
    return decode(content)


def decode(content: bytes) -> NDArray[np.uint8] | Refusal:
    """The pixels (H, W, 3) RGB of the image file whose bytes are `content`, or why there are none."""
    return decode_tiff(content) if content.startswith(TIFF_MAGIC) else decode_picture(content)


def check_image(content: bytes) -> Refusal | None:
    """Why the image file whose bytes are `content` isn't let through, as far as that is known before its pixels are decoded."""
    if not content.startswith(TIFF_MAGIC):
        header = read_whole_header(content)
        return header if isinstance(header, Refusal) else None
    slide = open_tiff(content)
    if isinstance(slide, Refusal):
        return slide
    slide.close()
    return None
