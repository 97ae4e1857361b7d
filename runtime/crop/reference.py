"""The crop on the CPU, by OpenCV: the reference that every other implementation matches to the bit.

Otsu's threshold is computed in whole numbers, so that no rounding can make two implementations differ. The largest
8-connected component is found without labelling every pixel. `crop_dataset` decodes and crops many cells in threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.io.cnmc import DatasetEntry
from blastscope.runtime.io.concurrency import ordered_map
from blastscope.runtime.io.image import check_array, read_image
from blastscope.runtime.types import Box, Refusal

KERNEL = np.ones((3, 3), np.uint8)
# Of the image's outermost pixels, the share that may be brighter than black. A cell that is cut off covers less, and every
# smear of BCCD more, so that the two get different refusals.
MOST_BRIGHT_BORDER = 0.5
SERIAL_PX = 1 << 16  # OpenCV gives each thread as many pixels as these or more
STRIP_PX = 1 << 23  # OpenCV counts in float32, which is exact below 2^24
NEARLY_EQUAL = 1 - 1e-9  # far wider than the rounding of the few float64 operations below


@dataclass(frozen=True, slots=True)
class Crop:
    """The crop of one cell, and the cell's box in the image.

    Attributes
    ----------
    pixels : (S, S, 3) uint8 array, RGB
        An array of its own; S is the specification's `side_px`.
    box : (x0, y0, x1, y1)
        The cell in pixels of the image, half-open.
    """

    pixels: NDArray[np.uint8]  # (S, S, 3) RGB, owned
    box: Box


def crop_cell(image: NDArray[np.uint8], spec: CropSpecification) -> Crop | Refusal:
    """The crop of the cell in `image`, or the reason why there is none.

    Parameters
    ----------
    image : (H, W, 3) uint8 array, RGB
        One cell on black. Any strided view will do; it is neither written to nor kept.
    spec : CropSpecification
        How to crop; `bundle.manifest.crop` is that of a bundle.

    Returns
    -------
    Crop or Refusal
        A refusal has one of the codes 'empty', 'not-on-black', 'touches-border', 'too-small', 'too-large'.

    Raises
    ------
    ImageError
        `image` is not a uint8 array of shape (H, W, 3).

    Examples
    --------
    >>> from blastscope import synthetic_cell
    >>> from blastscope.runtime.crop import CropSpecification, crop_cell
    >>> crop = crop_cell(synthetic_cell(seed=7), CropSpecification())
    >>> crop.pixels.shape, crop.box
    ((299, 299, 3), (117, 108, 337, 341))
    """
    image = np.ascontiguousarray(check_array(image))
    if image.size == 0:
        return Refusal("empty", f"the image has no pixels: {image.shape[1]} x {image.shape[0]}")
    gray = _gray_of(image)
    # Everything outside this box is 0, which no threshold lets through: on C-NMC a fifth of the pixels is left to look at.
    x, y, width, height = cv2.boundingRect(gray)
    lit = np.ascontiguousarray(gray[y : y + height, x : x + width])
    histogram = histogram_of(lit)
    histogram[0] += gray.size - lit.size
    refusal = _not_a_cell(gray, histogram, spec)
    if refusal:
        return refusal
    threshold = otsu_threshold(histogram)
    found = _eroded_component(lit, threshold, spec.erosion_px)
    if found is None:
        return Refusal("too-small", f"nothing is left of what is brighter than gray {threshold} after erosion")
    x0, y0, x1, y1 = found[1].box
    eroded = (x0 + x, y0 + y, x1 + x, y1 + y)
    # an eroded pixel has mask pixels on every side, so the grown box can't leave the image
    grown = spec.erosion_px
    box = (eroded[0] - grown, eroded[1] - grown, eroded[2] + grown, eroded[3] + grown)
    if _is_cut(box, eroded, gray.shape, found):
        return Refusal(
            "touches-border", f"the cell's box {box} reaches the edge of the {gray.shape[1]} x {gray.shape[0]} image"
        )
    box = box if spec.grow_back else eroded
    return _wrong_size(box, spec) or Crop(_resized(_patch(image, box, spec), spec.side_px), box)


def _gray_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image` (H, W, 3) in gray (H, W), by bands that OpenCV converts in the calling thread.

    A larger piece wakes OpenCV's own threads, which then spin for a while: measured, a crop cost twice its time in processor
    time, taken from the networks that share the cores.
    """
    gray = np.empty(image.shape[:2], np.uint8)
    rows = max(1, SERIAL_PX // image.shape[1])
    for row in range(0, len(image), rows):
        cv2.cvtColor(image[row : row + rows], cv2.COLOR_RGB2GRAY, dst=gray[row : row + rows])
    return gray


def _not_a_cell(gray: NDArray[np.uint8], histogram: NDArray[np.int64], spec: CropSpecification) -> Refusal | None:
    """Why the image can't be a cell on black, as far as brightness alone tells."""
    brightest = int(np.flatnonzero(histogram)[-1])
    if brightest <= spec.max_background:
        return Refusal("empty", f"nothing is brighter than background: the brightest gray is {brightest}")
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    share = np.count_nonzero(border > spec.max_background) / border.size
    if share > MOST_BRIGHT_BORDER:
        return Refusal("not-on-black", f"{share:.0%} of the border is brighter than gray {spec.max_background}")
    return None


def _eroded_component(lit: NDArray[np.uint8], threshold: int, erosion_px: int) -> tuple[NDArray[np.uint8], Component] | None:
    """The eroded mask of `lit` and its largest component."""
    mask = cv2.threshold(lit, threshold, 255, cv2.THRESH_BINARY)[1]
    if erosion_px:
        mask = cv2.erode(mask, KERNEL, iterations=erosion_px, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    eroded = np.asarray(mask, np.uint8)
    component = largest_component(eroded)
    return component and (eroded, component)


def _is_cut(box: Box, eroded: Box, shape: tuple[int, ...], found: tuple[NDArray[np.uint8], Component]) -> bool:
    """Whether the image's edge cuts the cell, and not just a thread that hangs on it.

    13 of 5,250 cells of C-NMC trail debris to the edge while the cell itself is whole. A side of the grown box at the edge cuts
    the cell when the middle of the component's n pixels is nearer to that edge than sqrt(4 n / 5) = 0.89 sqrt(n). A disk that
    touches lies at 0.56 sqrt(n), an ellipse twice as long as wide at 0.8, and those 13 cells at 0.97 or more. What spans the
    image is cut as well.
    """
    height, width = shape
    reached = (box[0] == 0, box[1] == 0, box[2] == width, box[3] == height)
    if not any(reached):
        return False
    if (reached[0] and reached[2]) or (reached[1] and reached[3]):
        return True
    rows, columns = np.nonzero(component_mask(*found))
    count, across, down = len(rows), int(columns.sum()), int(rows.sum())
    # twice `count` times the distance of the mean pixel's middle from each edge, in exact integers
    left, top = 2 * (across + eroded[0] * count) + count, 2 * (down + eroded[1] * count) + count
    distances = (left, top, 2 * count * width - left, 2 * count * height - top)
    return any(at_edge and 5 * far * far < 16 * count**3 for at_edge, far in zip(reached, distances, strict=True))


def _wrong_size(box: Box, spec: CropSpecification) -> Refusal | None:
    width, height = box[2] - box[0], box[3] - box[1]
    if min(width, height) < spec.min_box_px:
        return Refusal("too-small", f"the cell is {width} x {height} px, less than {spec.min_box_px} px")
    if max(width, height) > spec.max_box_px:
        return Refusal("too-large", f"the cell is {width} x {height} px, more than {spec.max_box_px} px")
    return None


def _patch(image: NDArray[np.uint8], box: Box, spec: CropSpecification) -> NDArray[np.uint8]:
    """The pixels that are resized: the box, or the window at its middle; may be a view of `image`."""
    x0, y0, x1, y1 = box
    if spec.window_px is None:
        return image[y0:y1, x0:x1]
    size = spec.window_px
    left, top = (x0 + x1) // 2 - size // 2, (y0 + y1) // 2 - size // 2
    window = np.zeros((size, size, 3), np.uint8)
    inside = image[max(top, 0) : top + size, max(left, 0) : left + size]
    row, column = max(-top, 0), max(-left, 0)
    window[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return window


def _resized(patch: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A (side, side, 3) array of its own."""
    if patch.shape[:2] == (side, side):
        return patch.copy()
    return np.asarray(cv2.resize(patch, (side, side), interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


class Component(NamedTuple):
    """Where one component lies: enough to find its pixels again.

    Attributes
    ----------
    box : (x0, y0, x1, y1)
        In pixels of the mask; x1 and y1 are the first outside.
    first : (int, int)
        Row and column of its first pixel in raster order.
    """

    box: Box
    first: tuple[int, int]


def largest_component(mask: NDArray[np.uint8]) -> Component | None:
    """The component of `mask` with most pixels; of equals the first in raster order.

    Contours cost a fifteenth of `connectedComponents` (0.06 against 0.9 ms on a cell of C-NMC). A contour encloses holes
    too, so where there are several components their pixels are counted by filling them, largest box first, until no box left
    could hold more.

    Parameters
    ----------
    mask : (H, W) uint8 array
        0 outside, 255 inside.

    Returns
    -------
    Component or None
        None where no pixel is set.
    """
    # CCOMP, not EXTERNAL: a small ring may enclose the largest component
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    parents = np.reshape(hierarchy, (-1, 4))[:, 3]
    outer = [_component(contour) for contour, parent in zip(contours, parents, strict=True) if parent < 0]
    return outer[0] if len(outer) == 1 else _fullest(mask, outer)


def component_mask(mask: NDArray[np.uint8], component: Component) -> NDArray[np.bool_]:
    """The pixels of one component within its box, without those of its neighbours.

    Parameters
    ----------
    mask : (H, W) uint8 array
        0 outside, 255 inside. It is not written to.
    component : Component
        One that was found in `mask`.

    Returns
    -------
    (y1 - y0, x1 - x0) bool array
    """
    x0, y0, x1, y1 = component.box
    region = mask[y0:y1, x0:x1].copy()
    cv2.floodFill(region, None, (component.first[1] - x0, 0), (128,), flags=8)
    return np.asarray(region == 128)


def _component(contour: Any) -> Component:
    x, y, width, height = cv2.boundingRect(contour)
    points = np.reshape(contour, (-1, 2))  # x and y
    return Component((x, y, x + width, y + height), (y, int(points[points[:, 1] == y, 0].min())))


def _fullest(mask: NDArray[np.uint8], components: list[Component]) -> Component:
    best, most = components[0], 0
    for component in sorted(components, key=_room, reverse=True):
        if _room(component) < most:
            break
        pixels = int(np.count_nonzero(component_mask(mask, component)))
        if pixels > most or (pixels == most and component.first < best.first):
            best, most = component, pixels
    return best


def _room(component: Component) -> int:
    """The pixels of the component's box: it can't hold more."""
    x0, y0, x1, y1 = component.box
    return (x1 - x0) * (y1 - y0)


def histogram_of(gray: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels have each gray value, exactly.

    Parameters
    ----------
    gray : (H, W) uint8 array
        Any size.

    Returns
    -------
    (256,) int64 array
    """
    flat = gray.reshape(1, -1)
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.shape[1], STRIP_PX):
        strip = flat[:, start : start + STRIP_PX]
        counts += np.ravel(cv2.calcHist([strip], [0], None, [256], [0, 256])).astype(np.int64)
    return counts


def otsu_threshold(histogram: NDArray[np.int64]) -> int:
    """Otsu's threshold: the gray value t for which the classes gray <= t and gray > t differ most; of equals the first.

    Computed in exact integers. The variance between the classes is (N m - n M)^2 / (n (N - n)), up to a constant factor:
    n and m are count and sum up to t, N and M those of all pixels.

    Parameters
    ----------
    histogram : (256,) int64 array
        Pixels of each gray value. At least one must be there.

    Returns
    -------
    int
        0 to 255. With a single gray value that value, so that nothing is brighter.
    """
    values = np.flatnonzero(histogram)  # an empty bin repeats its predecessor's variance, so it is never the first
    counts = histogram[values]
    below, total = np.cumsum(counts)[:-1], int(counts.sum())
    if not below.size:
        return int(values[0])
    sums = np.cumsum(counts * values)
    # |N m - n M| <= 255 N^2 / 4, exact in int64 up to 380 million pixels
    distance = total * sums[:-1] - below * int(sums[-1])
    variance = distance.astype(np.float64) ** 2 / (below.astype(np.float64) * (total - below))
    near = np.flatnonzero(variance >= variance.max() * NEARLY_EQUAL)
    best = near[0] if len(near) == 1 else max(near, key=lambda i: _exact(int(distance[i]), int(below[i]), total))
    return int(values[best])


def _exact(distance: int, below: int, total: int) -> Fraction:
    return Fraction(distance * distance, below * (total - below))


def crop_dataset(
    cells: Iterable[DatasetEntry], spec: CropSpecification, *, workers: int
) -> Iterator[tuple[DatasetEntry, Crop | Refusal]]:
    """Each labelled cell with its crop, or with the reason why there is none, in the order given.

    Parameters
    ----------
    cells : iterable of DatasetEntry
        Read as the work goes, a few cells ahead.
    spec : CropSpecification
        How to crop.
    workers : int
        Threads that decode and crop.

    Yields
    ------
    (DatasetEntry, Crop or Refusal)
    """

    def crop(cell: DatasetEntry) -> Crop | Refusal:
        image = read_image(cell.path)
        return image if isinstance(image, Refusal) else crop_cell(image, spec)

    return ordered_map(crop, cells, workers=workers)
