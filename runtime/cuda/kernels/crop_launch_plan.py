"""The launch plan of the crop kernels: grid sizes, arguments and buffer layout for a batch; needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.errors import UsageError
from blastscope.runtime.types import Box, Refusal

THREADS = 256  # of every block: the kernels count on it
MOST_PX = 16384  # longest side of an image: 128-bit products in the kernels are proved up to it
MOST_BATCH = 65535  # a grid's second dimension
ALIGNMENT = 256  # of each part of the workspace, in bytes
NO_LIMIT = 2**31 - 1  # the kernels' ints; longer than any side

# One image of the batch. Strides are in bytes and may be negative or 0; `address` is that of pixel [0, 0, 0]. A row of zeros is
# an image without pixels, which fills a batch up.
ImageRow = np.dtype(
    [
        ("address", "<u8"),
        ("row_stride", "<i8"),
        ("pixel_stride", "<i8"),
        ("channel_stride", "<i8"),
        ("height", "<i4"),
        ("width", "<i4"),
    ]
)

# What became of one image. `box` is the crop's box, or the box that a refusal speaks of; 0 where it doesn't come to that.
VerdictRow = np.dtype(
    [
        ("status", "<i4"),  # index into STATUSES
        ("threshold", "<i4"),
        ("box", "<i4", (4,)),  # x0, y0, x1, y1
        ("brightest", "<i4"),  # largest gray value
        ("bright_border", "<i4"),  # border pixels brighter than background, corners twice
    ]
)

STATUSES = ("ok", "no-pixels", "dark", "not-on-black", "nothing-left", "touches-border", "too-small", "too-large", "unplanned")


class Address(int):
    """A device address: passed to a kernel as 64 bits, where a plain int is passed as 32."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch. `arguments` are `Address` (64 bits, unsigned) or plain int (32 bits, signed), in order.

    Attributes
    ----------
    kernel : str
        Its name.
    grid : (int, int, int)
        Blocks along x, y and z.
    block : (int, int, int)
        Threads along x, y and z.
    shared_bytes : int
        Dynamic shared memory of a block.
    arguments : tuple of int
        Addresses and numbers, in the kernel's order.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]


class BufferSlice(NamedTuple):
    """One array in the workspace, for the whole batch.

    Attributes
    ----------
    name : str
        What it is called.
    offset : int
        In bytes from the start of the workspace.
    size : int
        Size in bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class CropPlan:
    """How a batch of `batch` images, none with a side longer than `largest_px`, is cropped as `spec` says.

    Neither the launches' number nor their shape depends on the images, so they may be recorded once. The workspace may hold
    anything before and holds nothing of worth afterwards.

    Attributes
    ----------
    spec : CropSpecification
        The crop.
    batch : int
        Most images in one launch.
    largest_px : int
        Longest side of an image.
    """

    spec: CropSpecification
    batch: int
    largest_px: int

    @classmethod
    def make(cls, spec: CropSpecification, batch: int, largest_px: int) -> Self:
        """The plan. Raises `UsageError` for a batch or a side that the kernels can't take."""
        if not 1 <= batch <= MOST_BATCH:
            raise UsageError(f"a batch of {batch} images can't be planned: choose 1 to {MOST_BATCH}")
        if not 1 <= largest_px <= MOST_PX:
            raise UsageError(f"images of {largest_px} px can't be planned: choose a longest side of 1 to {MOST_PX} px")
        return cls(spec, batch, largest_px)

    def fits(self, height: int, width: int) -> bool:
        """Whether an image of that size may be in the batch."""
        return max(height, width) <= self.largest_px

    @property
    def crops_bytes(self) -> int:
        """The size of the crops, (batch, S, S, 3) uint8; those of refused images are black."""
        return self.batch * self.spec.side_px**2 * 3

    @property
    def verdicts_bytes(self) -> int:
        """The size of the verdicts, one `VerdictRow` an image."""
        return self.batch * VerdictRow.itemsize

    @property
    def images_bytes(self) -> int:
        """The size of the table of images, one `ImageRow` an image."""
        return self.batch * ImageRow.itemsize

    @property
    def workspace_bytes(self) -> int:
        """The memory that the kernels need beside images, crops and verdicts; about 5.2 bytes a pixel."""
        last = self.parts[-1]
        return last.offset + last.size

    @property
    def parts(self) -> tuple[BufferSlice, ...]:
        """The arrays in the workspace."""
        words = self._words
        sizes = {
            "grays": words * 32,
            "histograms": self._gray_blocks * 257 * 4,
            "masks": words * 4,
            "parents": words * 16 * 4,
            "pixels": words * 16 * 4,
            "states": 64,
        }
        parts: list[BufferSlice] = []
        offset = 0
        for name, size in sizes.items():
            parts.append(BufferSlice(name, offset, size * self.batch))
            offset += -(-size * self.batch // ALIGNMENT) * ALIGNMENT
        return tuple(parts)

    def launches(self, images: int, crops: int, verdicts: int, workspace: int) -> tuple[Launch, ...]:
        """The kernels in their order, each to begin when the one before has ended.

        Parameters
        ----------
        images : int
            Device address of `batch` rows of `ImageRow`.
        crops, verdicts : int
            Device addresses of `crops_bytes` and `verdicts_bytes` of memory.
        workspace : int
            Device address of `workspace_bytes` of memory, a multiple of 256.

        Returns
        -------
        tuple of Launch
        """
        spec, side = self.spec, self.largest_px
        table = Address(images)
        grays, histograms, masks, parents, pixels, states = (Address(workspace + part.offset) for part in self.parts)
        tiles = -(-side // 16) * -(-side // 512)  # of 16 rows x 16 words
        words = -(-self._words // THREADS)
        return (
            self._launch("crop_gray", self._gray_blocks, table, grays, histograms, states, side, spec.max_background),
            self._launch(
                *("crop_mask", min(tiles, 256), table, grays, histograms, masks, parents, pixels, states),
                *(side, self._gray_blocks, spec.erosion_px, spec.max_background),
            ),
            self._launch("crop_join", min(words, 1024), table, masks, parents, states, side),
            self._launch("crop_tally", min(words, 256), table, masks, parents, pixels, states, side),
            self._launch("crop_measure", min(words, 256), table, masks, parents, states, side),
            self._launch(
                *("crop_resize", -(-(spec.side_px**2) // (2 * THREADS)), table, states, Address(crops), Address(verdicts)),
                *(spec.side_px, spec.window_px or 0, spec.erosion_px, int(spec.grow_back)),
                *(min(spec.min_box_px, NO_LIMIT), min(spec.max_box_px, NO_LIMIT)),
            ),
        )

    @property
    def _words(self) -> int:
        """32-pixel words of the largest image."""
        return self.largest_px * -(-self.largest_px // 32)

    @property
    def _gray_blocks(self) -> int:
        """Blocks that share an image, each with a histogram of its own; 16 pixels a thread, until there are 64."""
        return min(-(-self._words * 2 // THREADS), 64)

    def _launch(self, kernel: str, blocks: int, *arguments: int) -> Launch:
        return Launch(kernel, (blocks, self.batch, 1), (THREADS, 1, 1), 0, arguments)


def image_row(address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.void:
    """The row of the table by which the kernels find an image.

    Parameters
    ----------
    address : int
        Device address of its pixel [0, 0, 0].
    shape : (int, int, int)
        Height, width, 3.
    strides : (int, int, int)
        In bytes, as numpy has them.

    Returns
    -------
    numpy.void
        An `ImageRow`.
    """
    row: np.void = np.zeros(1, ImageRow)[0]
    row["address"] = address
    row["row_stride"], row["pixel_stride"], row["channel_stride"] = strides
    row["height"], row["width"] = shape[:2]
    return row


def refusal_of(row: np.void, spec: CropSpecification, shape: tuple[int, ...]) -> Refusal | None:
    """The refusal in a row that the kernels wrote, in the words of `crop_cell`.

    Parameters
    ----------
    row : numpy.void
        A `VerdictRow`.
    spec : CropSpecification
        The crop's.
    shape : tuple of int
        The image's.

    Returns
    -------
    Refusal or None
        None where there is a crop.

    Raises
    ------
    UsageError
        The image was larger than its plan: the caller should have asked `CropPlan.fits`.
    """
    height, width = shape[:2]
    box = box_of(row)
    across, down = box[2] - box[0], box[3] - box[1]
    match STATUSES[int(row["status"])]:
        case "ok":
            return None
        case "no-pixels":
            return Refusal("empty", f"the image has no pixels: {width} x {height}")
        case "dark":
            return Refusal("empty", f"nothing is brighter than background: the brightest gray is {row['brightest']}")
        case "not-on-black":
            share = int(row["bright_border"]) / (2 * (height + width))
            return Refusal("not-on-black", f"{share:.0%} of the border is brighter than gray {spec.max_background}")
        case "nothing-left":
            return Refusal("too-small", f"nothing is left of what is brighter than gray {row['threshold']} after erosion")
        case "touches-border":
            return Refusal("touches-border", f"the cell's box {box} reaches the edge of the {width} x {height} image")
        case "too-small":
            return Refusal("too-small", f"the cell is {across} x {down} px, less than {spec.min_box_px} px")
        case "too-large":
            return Refusal("too-large", f"the cell is {across} x {down} px, more than {spec.max_box_px} px")
    raise UsageError(f"an image of {width} x {height} px is larger than its plan: choose a larger largest_px")


def box_of(row: np.void) -> Box:
    """The box in a `VerdictRow`."""
    x0, y0, x1, y1 = (int(value) for value in row["box"])
    return x0, y0, x1, y1
