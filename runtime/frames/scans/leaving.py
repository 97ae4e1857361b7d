"""A scan that nobody waits for any more gives nothing more: whoever looks at a slide for an hour ends within seconds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import Closed
from blastscope.runtime.prediction import Box

if TYPE_CHECKING:
    from blastscope.runtime.frames.scans.scan import Readable, Scan


class LeavableImage:
    """A `Readable` whose `read` raises `Closed` once `left` is set."""

    def __init__(self, image: Readable, left: threading.Event) -> None:
        self._image, self._left = image, left
        self.width, self.height = image.width, image.height

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Readable`."""
        if self._left.is_set():
            raise Closed("nobody waits for this frame any more")
        return self._image.read(box)


class LeavableScan(LeavableImage):
    """The same of a `Scan` and its smaller copies."""

    def __init__(self, scan: Scan, left: threading.Event) -> None:
        super().__init__(scan, left)
        self._scan = scan
        self.pixel_um, self.notes = scan.pixel_um, scan.notes
        self.blank, self.close = scan.blank, scan.close

    @property
    def reduced(self) -> Sequence[Readable]:
        """See `Scan`."""
        return [LeavableImage(level, self._left) for level in self._scan.reduced]
