"""Drawn cells: stand-ins for stained white cells on black, where no real ones are at hand. They look alike; they prove nothing.

A blast is drawn large, its round nucleus filling the cell with fine, even chromatin; a normal lymphocyte is smaller, with more
cytoplasm around coarse, clumped chromatin. Only integers decide a pixel, so that every machine draws the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import UsageError
from blastscope.runtime.types import CLASSES, ClassName

Field = NDArray[np.int64]  # (H, W)
Tint = tuple[int, int, int]
NO_TINT: Tint = (0, 0, 0)
SCALE_PX = 450  # C-NMC's frame: every length below is in its pixels
WAVES = np.round(1024 * np.sin(np.arange(1024) * np.pi / 512)).astype(np.int64)  # a turn in 1024 steps


@dataclass(frozen=True, slots=True)
class SyntheticCell:
    """A drawn cell with its label.

    Attributes
    ----------
    image : (S, S, 3) uint8 array, RGB
        The cell on black.
    label : {'hem', 'all'}
        What it was drawn as.
    seed : int
        The seed that draws it again.
    """

    image: NDArray[np.uint8]  # (S, S, 3) RGB
    label: ClassName
    seed: int


@dataclass(frozen=True, slots=True)
class _Appearance:
    """What tells blasts and normal cells apart. Ranges are drawn from; lengths are in pixels of C-NMC's frame.

    Attributes
    ----------
    radius : (int, int)
        Of the cell.
    nucleus : (int, int)
        Radius of the nucleus, in per cent of the cell's.
    clump : int
        Size of chromatin clumps.
    depth : (int, int)
        Contrast of the clumps, in gray levels.
    lobes : int
        How far the nucleus is from round, in per cent of its radius.
    """

    radius: tuple[int, int]
    nucleus: tuple[int, int]
    clump: int
    depth: tuple[int, int]
    lobes: int


BLAST = _Appearance(radius=(98, 126), nucleus=(93, 98), clump=11, depth=(12, 19), lobes=5)
NORMAL = _Appearance(radius=(84, 104), nucleus=(78, 89), clump=27, depth=(17, 27), lobes=8)


def synthetic_cell(
    seed: int, *, malignant: bool | None = None, size_px: int = SCALE_PX, tint: Tint = NO_TINT
) -> NDArray[np.uint8]:
    """A drawn cell on black, the same for the same arguments on every machine.

    Parameters
    ----------
    seed : int
        What the cell is drawn from, at least 0.
    malignant : bool, optional
        A blast or a normal cell. By default the seed decides.
    size_px : int
        Side of the image in pixels, at least 32.
    tint : (int, int, int)
        Added to the red, green and blue of the stain, which differs a little from patient to patient.

    Returns
    -------
    (size_px, size_px, 3) uint8 array, RGB

    Raises
    ------
    UsageError
        `size_px` is below 32.

    Examples
    --------
    >>> from blastscope import synthetic_cell
    >>> synthetic_cell(seed=7).shape
    (450, 450, 3)
    """
    if size_px < 32:
        raise UsageError(f"a drawn cell needs at least 32 px, not {size_px}")
    random = np.random.Generator(np.random.PCG64(seed))
    is_blast = bool(random.integers(2)) if malignant is None else malignant
    if malignant is not None:
        random.integers(2)  # so that naming what the seed would choose changes nothing
    return _painted(random, BLAST if is_blast else NORMAL, size_px, tint)


def synthetic_cells(count: int, seed: int, *, size_px: int = SCALE_PX) -> list[SyntheticCell]:
    """Drawn cells with their labels, normal ones and blasts in turn.

    Parameters
    ----------
    count : int
        How many.
    seed : int
        What they are drawn from, at least 0.
    size_px : int
        Side of each image in pixels, at least 32.

    Returns
    -------
    list of SyntheticCell

    Raises
    ------
    UsageError
        `size_px` is below 32.
    """
    seeds = [seed * 100_003 + index for index in range(count)]
    labels = [CLASSES[index % 2] for index in range(count)]
    return [
        SyntheticCell(synthetic_cell(own, malignant=label == "all", size_px=size_px), label, own)
        for own, label in zip(seeds, labels, strict=True)
    ]


def write_synthetic_dataset(
    root: Path | str, *, patients: int = 6, cells_each: int = 8, seed: int = 0, size_px: int = SCALE_PX
) -> Path:
    """Writes a small folder of drawn cells in the layout of C-NMC's archive, and returns its root.

    Patients are normal and leukaemic in turn (H1, 2, H3, 4 ...), in two folds, each with a stain of its own.

    Parameters
    ----------
    root : Path or str
        The folder; it is made where it doesn't exist.
    patients : int
        How many patients.
    cells_each : int
        PNG files of each patient.
    seed : int
        What the cells are drawn from, at least 0.
    size_px : int
        Side of each image in pixels, at least 32.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    UsageError
        `size_px` is below 32.
    """
    root = Path(root)
    for patient in range(1, patients + 1):
        malignant = patient % 2 == 0
        label = "all" if malignant else "hem"
        random = np.random.Generator(np.random.PCG64([seed, patient]))
        red, green, blue = (int(value) for value in random.integers(-9, 10, 3))
        folder = root / "C-NMC_training_data" / f"fold_{(patient - 1) // 2 % 2}" / label
        folder.mkdir(parents=True, exist_ok=True)
        for cell in range(1, cells_each + 1):
            image = synthetic_cell(
                (seed * 1009 + patient) * 10_007 + cell, malignant=malignant, size_px=size_px, tint=(red, green, blue)
            )
            path = folder / f"UID_{'' if malignant else 'H'}{patient}_{cell}_1_{label}.png"
            path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
    return root


def _painted(random: np.random.Generator, look: _Appearance, size_px: int, tint: Tint) -> NDArray[np.uint8]:
    """Cytoplasm, nucleus, chromatin and grain, from the outside in, in a square that just holds the cell."""
    radius = _scaled(int(random.integers(*look.radius)), size_px)
    side = min(radius * 5 // 2, size_px)
    cell = _blob(random, side, (side // 2, side // 2), radius, look.lobes)  # 0 at the middle, 1024 at the rim
    share = int(random.integers(*look.nucleus))
    shift = radius * (100 - share) // 250  # the nucleus lies off the middle where there is room
    off = (side // 2 + int(random.integers(-shift, shift + 1)), side // 2 + int(random.integers(-shift, shift + 1)))
    nucleus = _blob(random, side, off, radius * share // 100, look.lobes // 2)
    stain = random.integers(-7, 8, 3) + np.array(tint)
    depth = int(random.integers(*look.depth))
    chromatin = _texture(random, side, _scaled(look.clump, size_px)) * depth // 256
    chromatin += _texture(random, side, _scaled(look.clump * 5 // 3, size_px)) * depth // 512
    cytoplasm = _texture(random, side, _scaled(15, size_px)) * 7 // 256
    edge = np.clip((1024 - nucleus) * 8 // 3, 0, 256)[..., None]  # a soft rim, in 256ths of nucleus
    inside = np.array([80, 31, 86]) + stain + chromatin[..., None] * np.array([5, 2, 3]) // 4
    outside = np.array([92, 48, 110]) + stain + cytoplasm[..., None]
    painted = np.clip((inside * edge + outside * (256 - edge)) // 256, 28, 250)
    image = np.zeros((size_px, size_px, 3), np.uint8)
    top, left = ((size_px - side) // 2 + int(random.integers(-3, 4)) * (side + 8 <= size_px) for _ in range(2))
    image[top : top + side, left : left + side] = np.where((cell < 1024)[..., None], painted, 0)
    return image


def _scaled(length: int, size_px: int) -> int:
    """A length of C-NMC's frame in a frame of `size_px`."""
    return max(length * size_px // SCALE_PX, 2)


def _blob(random: np.random.Generator, side: int, middle: tuple[int, int], radius: int, lobes: int) -> Field:
    """1024 times the distance from `middle` over the distance of the rim, which waves by up to `lobes` %."""
    rows, columns = np.mgrid[:side, :side].astype(np.int64)
    down, across = rows - middle[1], columns - middle[0]
    squash = int(random.integers(100 - 2 * lobes, 101 + 2 * lobes))
    across = across * squash // 100
    angle = _angle(down, across)
    rim = np.full((side, side), 100 * 1024, np.int64)
    for wave in (2, 3, 5, 9):
        rim += int(random.integers(0, lobes * 100 + 1)) * WAVES[(angle * wave + int(random.integers(1024))) % 1024] // 300
    # sqrt is correctly rounded by IEEE 754, so this is the same everywhere
    distance = np.floor(np.sqrt(((down * down + across * across) * 1_048_576).astype(np.float64))).astype(np.int64)
    return np.asarray(distance * 102_400 // np.maximum(rim * radius, 1), np.int64)


def _angle(down: Field, across: Field) -> Field:
    """The direction in 1024ths of a turn, by the diamond's perimeter instead of an arctangent: exact in integers."""
    total = np.maximum(np.abs(down) + np.abs(across), 1)
    ahead = down * 256 // total
    return np.asarray(np.where(across >= 0, ahead, 512 - ahead) % 1024, np.int64)


def _texture(random: np.random.Generator, side: int, clump_px: int) -> NDArray[np.int32]:
    """Smooth noise between -256 and 256 with clumps of about `clump_px`: a coarse grid, smooth between its knots.

    The grid is turned by the angle of the 3-4-5 triangle or its mirror, which integers can do, so that no rows show.
    """
    rows, columns = np.mgrid[:side, :side].astype(np.int32)
    turn = 3 if random.integers(2) else -3
    down, across = (4 * rows + turn * columns) // 5 + 2 * side, (4 * columns - turn * rows) // 5 + 2 * side
    knots = 4 * side // clump_px + 3
    grid = random.integers(-256, 257, (knots, knots)).astype(np.int32)
    (row, below), (column, right) = _smooth(down, clump_px), _smooth(across, clump_px)
    upper = grid[row, column] * (256 - right) + grid[row, column + 1] * right
    lower = grid[row + 1, column] * (256 - right) + grid[row + 1, column + 1] * right
    return np.asarray((upper * (256 - below) + lower * below) // 65536, np.int32)


def _smooth(steps: NDArray[np.int32], clump_px: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The knot before each step, and how far the next one is mixed in, in 256ths."""
    part = np.arange(clump_px, dtype=np.int64)
    mixed = (part * part * (3 * clump_px - 2 * part) * 256 // clump_px**3).astype(np.int32)
    knot = steps // clump_px
    return knot, mixed[steps - knot * clump_px]
