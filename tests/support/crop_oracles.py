"""What the crop's tests share: scikit-image's answer to which component is largest, and an image seen in many ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label, regionprops

Image = NDArray[np.uint8]

# the same memory or the same pixels, with other strides
VIEWS: dict[str, Callable[[Image], Image]] = {
    "upside down": lambda image: image[::-1],
    "mirrored": lambda image: image[:, ::-1],
    "channels reversed": lambda image: image[..., ::-1],
    "every second pixel": lambda image: image[::2, ::2],
    "a window": lambda image: image[7:-9, 5:-3],
    "transposed": lambda image: image.transpose(1, 0, 2),
    "planes": lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
    "of four channels": lambda image: np.dstack([image, image[..., :1]])[..., :3],
}


def labelled_largest(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The box of the largest 8-connected component; of equals the first in raster order."""
    labels = label(mask, connectivity=2)
    regions = regionprops(labels)
    if not regions:
        return None
    flat = labels.ravel()
    best = min(regions, key=lambda region: (-region.area, int(np.argmax(flat == region.label))))
    y0, x0, y1, x1 = best.bbox
    return x0, y0, x1, y1
