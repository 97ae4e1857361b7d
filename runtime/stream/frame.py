"""`Frame`: one picture on its way through a stream, with what its sender wants to find again in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from blastscope.runtime.errors import ImageError
from blastscope.runtime.image import check_array
from blastscope.runtime.prediction import Refusal

FrameId = int | str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture with its id and metadata, which come back with the report. Without an id it gets its number, from 0.

    In place of pixels a source may give the `Refusal` that says why there are none, such as that of a damaged file.
    """

    pixels: Any  # (H, W, 3) uint8 RGB
    id: FrameId | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def as_frame(item: object) -> Frame:
    """What a source gave, an array, an array with its metadata, or a `Frame`, as a frame."""
    if isinstance(item, Frame):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        return Frame(item[0], metadata=item[1])
    return Frame(item)


def own(frame: Frame) -> Frame:
    """The frame with a copy of its pixels, so that a camera may use its buffer again; a refusal in place of what are none.

    A device array stays what and where it is.
    """
    pixels = frame.pixels
    if isinstance(pixels, Refusal) or (hasattr(pixels, "__cuda_array_interface__") and not isinstance(pixels, np.ndarray)):
        return frame
    try:
        return replace(frame, pixels=np.array(check_array(pixels), order="C"))
    except ImageError as error:
        return replace(frame, pixels=Refusal("not-8-bit-rgb", str(error)))
