"""Images at the door: arrays are checked here, and files decoded unchanged or refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import ImageError


def check_array(image: object) -> NDArray[np.uint8]:
    """`image` itself, once it is known to be a (H, W, 3) uint8 array. Raises `ImageError`."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image must be a numpy array, not '{type(image).__name__}': convert it with numpy.asarray")
    if image.dtype != np.uint8:
        raise ImageError(f"an image must be uint8, not '{image.dtype}': scale it to 0..255 and convert it")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"an image must be of shape (H, W, 3) in RGB, not {image.shape}")
    return image
