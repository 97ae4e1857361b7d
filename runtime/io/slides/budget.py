"""`ReadBudget`: what reading one frame may cost in pieces, memory, decoded bytes and time, so that no file can ask for more.

Pieces are what a file is stored in: tiles and strips of a TIFF, chunks of a Zarr. A reader makes one budget for a frame, checks
the layout that the header tells with it, and decodes every piece inside of `decoding`; all levels and threads share it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blastscope.runtime.io.concurrency import Allowance
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal

MOST_PIXELS = 40_000_000_000  # a slide at 0.1 micrometres a pixel, and some
MOST_PIECES = 2_000_000  # three to four times those of the largest slide in tiles of 256 pixels
FEW_PIECES, LEAST_PIXELS = 4096, 256  # beyond so many, a piece covers so many pixels on average at least
PIECE_BYTES = 3 * MAX_PIXELS  # of one decoded piece: the largest image that other formats may hold
MEMORY_BYTES = PIECE_BYTES  # of the pieces that are decoded at once
# A piece may be decoded again for each tile that it touches, but not without end.
DECODED_BYTES, DECODED_TIMES = 1 << 30, 200
STORED_TIMES = 10_000  # what is decoded, of what is stored: an empty tile of a scanner's has some 300
SECONDS, SECONDS_PER_MEGAPIXEL = 60.0, 10.0  # of reading alone, in all threads together: a slow network drive needs less


class ReadBudget:
    """What reading a frame of `width` x `height` pixels may cost. Many threads may share it.

    `check_layout` once a level, `check_stored` where a piece may stand for many places, then `decoding` around each piece.

    Whatever exceeds it is a `ReadError` with a refusal as 'bomb', which says the figure and its limit.
    """

    def __init__(self, width: int, height: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if width < 1 or height < 1:
            raise ReadError(Refusal("undecodable", f"the header says {width} x {height} pixels"))
        self._pixels = width * height
        if self._pixels > MOST_PIXELS:
            raise _beyond(f"{width} x {height} pixels, more than {MOST_PIXELS}")
        self._clock, self._lock, self._memory = clock, threading.Lock(), Allowance(MEMORY_BYTES)
        self._most_bytes = DECODED_BYTES + DECODED_TIMES * 3 * self._pixels
        self._most_seconds = SECONDS + SECONDS_PER_MEGAPIXEL * self._pixels / 1e6
        self._bytes, self._seconds = 0, 0.0

    def check_layout(self, pieces: int, width: int, height: int, piece_bytes: int) -> None:
        """Whether a level may lie in so many pieces of `width` x `height` pixels, each of so many bytes when it is decoded."""
        told = f"{width} x {height} pixels"
        if piece_bytes > PIECE_BYTES:
            raise _beyond(f"pieces of {told} that take {piece_bytes} bytes, more than {PIECE_BYTES}: save it in smaller tiles")
        most = min(FEW_PIECES + self._pixels // LEAST_PIXELS, MOST_PIECES)
        if pieces > most:
            raise _beyond(f"{pieces} pieces of {told}, more than the {most} for its size: save it in larger tiles")

    def check_stored(self, decoded_bytes: int, stored_bytes: int) -> None:
        """Whether so many bytes of pixels may lie in so few of the file: of one piece that stands for many places, say."""
        if decoded_bytes > DECODED_BYTES and decoded_bytes > STORED_TIMES * stored_bytes:
            told = f"{decoded_bytes} bytes of pixels in {stored_bytes} bytes of the file"
            raise _beyond(f"{told}, more than {STORED_TIMES} times as many")

    @contextmanager
    def decoding(self, decoded_bytes: int) -> Iterator[None]:
        """To be held while pieces of so many bytes are decoded: waits until there is memory, and counts bytes and time."""
        with self._lock:
            self._bytes += decoded_bytes
            if self._bytes > self._most_bytes:
                raise _beyond(f"more than {self._most_bytes} bytes had to be decoded for a frame of {self._pixels} pixels")
            if self._seconds > self._most_seconds:
                raise _beyond(f"reading took more than {self._most_seconds:.0f} seconds for a frame of {self._pixels} pixels")
        with self._memory.taken(decoded_bytes):
            begun = self._clock()
            try:
                yield
            finally:
                with self._lock:
                    self._seconds += self._clock() - begun


def _beyond(detail: str) -> ReadError:
    return ReadError(Refusal("bomb", detail))
