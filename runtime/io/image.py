"""Images at the door: arrays are checked here, and files decoded unchanged or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import ImageError
from blastscope.runtime.io.image_decode import decode_picture, read_content
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
    """The pixels (H, W, 3) RGB of the image file `path`, exactly as stored; or why there are none.

    What the file is, is read from its content, not from its suffix. A file of several images is refused, since nobody said
    which is meant. Releases the interpreter's lock while it decodes.
    """
    content = read_content(path)
    return content if isinstance(content, Refusal) else decode(content)


def decode(content: bytes) -> NDArray[np.uint8] | Refusal:
    """The pixels (H, W, 3) RGB of the image file whose bytes are `content`, or why there are none."""
    return decode_picture(content)
