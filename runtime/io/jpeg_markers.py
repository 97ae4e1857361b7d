"""The segments of a JPEG file, and whether its scans are complete.

A decoder doesn't tell: it fills up what a file lacks.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

START_OF_SCAN, END_OF_IMAGE, RESTART_INTERVAL, APP1 = 0xDA, 0xD9, 0xDD, 0xE1
COMMENTS = {*range(0xE0, 0xEE), 0xEF, 0xFE}
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame
NO_LENGTH = {0x01, *range(0xD0, 0xD8)}  # markers that stand alone
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # the first marker that isn't part of the pixels
RESTART = re.compile(rb"\xff[\xd0-\xd7]")


class BreaksOff(Exception):
    """The file ends inside of a segment."""


class Damaged(Exception):
    """Something stands where a marker should. `offset` says where."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        super().__init__(offset)


class Segment(NamedTuple):
    """A marker with what belongs to it.

    Attributes
    ----------
    marker : int
        Its second byte.
    body : bytes
        What stands in the segment.
    pixels : (int, int)
        Of a scan: where in the file its coded pixels begin and end.
    """

    marker: int
    body: bytes
    pixels: tuple[int, int] = (0, 0)


def segments(content: bytes) -> Iterator[Segment]:
    """All segments up to the end marker, which is the last; it lacks where the file ends after a whole segment.

    Raises `BreaksOff`, `Damaged`.
    """
    offset = 2
    while offset + 2 <= len(content):
        if content[offset] != 0xFF:
            raise Damaged(offset)
        marker = content[offset + 1]
        if marker == END_OF_IMAGE:
            yield Segment(marker, b"")
            return
        if marker == 0xFF or marker in NO_LENGTH:  # 0xFF: a fill byte
            offset += 1 if marker == 0xFF else 2
            continue
        end = offset + 2 + (struct.unpack_from(">H", content, offset + 2)[0] if offset + 4 <= len(content) else len(content))
        if end > len(content):
            raise BreaksOff
        body, offset, start = content[offset + 4 : end], end, end
        if marker == START_OF_SCAN:
            following = AFTER_SCAN.search(content, end)
            offset = following.start() if following else len(content)
        yield Segment(marker, body, (start, offset))


def without_comments(content: bytes) -> bytes:
    """The file without what its pixels don't need: EXIF and what programs wrote into it, but for Adobe's word on colours."""
    parts = [content[:2]]
    for marker, body, (start, end) in segments(content):
        if marker not in COMMENTS and marker != END_OF_IMAGE:
            parts += [struct.pack(">BBH", 0xFF, marker, len(body) + 2), body, content[start:end]]
    return b"".join(parts)


@dataclass
class Coverage:
    """What the scans of a file without an end marker cover.

    Attributes
    ----------
    width, height : int
        Of the image, in pixels.
    sampling : dict of int to (int, int)
        Sampling factors of each component, across and down.
    interval : int
        Blocks between two restart markers; 0 without any.
    whole : bool
        Whether no scan lacks a restart marker.
    """

    width: int
    height: int
    sampling: dict[int, tuple[int, int]]
    interval: int = 0
    whole: bool = True
    _bits: dict[tuple[int, int], int] = field(default_factory=dict)  # that a coefficient of a component still lacks

    @classmethod
    def of_frame(cls, body: bytes) -> Coverage:
        """Nothing read yet, of a picture whose start-of-frame segment has this body."""
        _, height, width, count = struct.unpack_from(">BHHB", body)
        parts = [struct.unpack_from("BB", body, 6 + 3 * number) for number in range(count)]
        return cls(width, height, {name: (max(sides >> 4, 1), max(sides & 15, 1)) for name, sides in parts})

    def add(self, body: bytes, pixels: bytes) -> None:
        """A scan, by the body of its start and its coded pixels."""
        names = [body[1 + 2 * number] for number in range(body[0])]
        first, last, bits = body[1 + 2 * len(names) : 4 + 2 * len(names)]
        for name in names:
            for coefficient in range(first, min(last, 63) + 1):
                self._bits[name, coefficient] = bits & 15
        if self.interval:
            wanted = (self._units(names) - 1) // self.interval
            self.whole &= sum(1 for _ in RESTART.finditer(pixels)) >= wanted

    @property
    def complete(self) -> bool:
        """Whether every coefficient of every component came, to its last bit, and every interval between restarts began."""
        return self.whole and all(self._bits.get((name, index), 1) == 0 for name in self.sampling for index in range(64))

    def _units(self, names: list[int]) -> int:
        """How many blocks, or groups of them where components are interleaved, a scan holds."""
        across, down = (max(sides) for sides in zip(*self.sampling.values(), strict=True))
        if len(names) > 1:
            return int(-(-self.width // (8 * across)) * -(-self.height // (8 * down)))
        own = self.sampling.get(names[0], (across, down))
        width, height = -(-self.width * own[0] // across), -(-self.height * own[1] // down)
        return int(-(-width // 8) * -(-height // 8))
