"""The crop kernels, run by the host shim, against OpenCV's crop: the same bytes, boxes and refusals, whatever the image."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from crop_oracles import VIEWS
from host_kernels import HostKernels, Image, agrees, plan_for
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.crop.reference import MOST_BRIGHT_BORDER
from blastscope.runtime.cuda.kernels.crop_launch_plan import CropPlan
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell

PAPER = CropSpecification()
BARE = CropSpecification(side_px=24, erosion_px=0, min_box_px=1)  # the mask as it is, so that a shape is what is drawn


# ---- real cells


def test_real_cells_are_cropped_to_the_byte(host_kernels: HostKernels, cnmc: Path) -> None:
    paths = [cell.path for cell in scan_dataset(cnmc).cells]
    every = os.environ.get("BLASTSCOPE_EVERY_CELL")  # make kernels-check
    chosen = paths if every else paths[::175]
    for start in range(0, len(chosen), 10):
        images = [image for path in chosen[start : start + 10] if isinstance(image := read_image(path), np.ndarray)]
        assert set(agrees(host_kernels, images, plan_for(images, PAPER))) == {"ok"}
    assert len(chosen) >= (5000 if every else 30)


def test_smear_frames_are_refused_alike(host_kernels: HostKernels, shared_data: Path) -> None:
    frames = [read_image(path) for path in sorted((shared_data / "bccd" / "JPEGImages").iterdir())[::150]]
    images = [frame for frame in frames if isinstance(frame, np.ndarray)]
    assert set(agrees(host_kernels, images, plan_for(images, PAPER))) == {"not-on-black"}


# ---- specifications


@pytest.mark.parametrize("erosion_px", [0, 1, 2, 3, 16])
@pytest.mark.parametrize("grow_back", [True, False])
@pytest.mark.parametrize("scale", [{}, {"scale": "keep", "window_px": 300}, {"scale": "keep", "window_px": 61}])
def test_every_kind_of_specification(
    host_kernels: HostKernels, erosion_px: int, grow_back: bool, scale: dict[str, object]
) -> None:
    spec = CropSpecification.model_validate({"side_px": 61, "erosion_px": erosion_px, "grow_back": grow_back, **scale})
    images = [synthetic_cell(seed, size_px=150 + 31 * seed) for seed in range(2)]
    assert agrees(host_kernels, images, plan_for(images, spec)) == ["ok", "ok"]


@pytest.mark.parametrize("side_px", [8, 37, 224, 299, 300, 1024])
def test_every_side(host_kernels: HostKernels, side_px: int) -> None:
    images = [synthetic_cell(3, size_px=133)]
    assert agrees(host_kernels, images, plan_for(images, CropSpecification(side_px=side_px))) == ["ok"]


@pytest.mark.parametrize(("width", "height"), [(26, 34), (30, 51), (27, 58)])
def test_a_weight_between_two_256ths_goes_to_the_even_one(host_kernels: HostKernels, width: int, height: int) -> None:
    # there are such weights where a side of 4 n + 2 px becomes 512 px
    image = np.zeros((120, 130, 3), np.uint8)
    image[40 : 40 + height, 50 : 50 + width] = np.random.default_rng(width).integers(100, 256, (height, width, 3))
    assert agrees(host_kernels, [image], plan_for([image], CropSpecification(side_px=512, erosion_px=0))) == ["ok"]


def test_limits_beyond_any_image_are_limits_too(host_kernels: HostKernels) -> None:
    image = synthetic_cell(3, size_px=133)
    for spec in (CropSpecification(max_box_px=10**12), CropSpecification(min_box_px=10**12)):
        agrees(host_kernels, [image], plan_for([image], spec))


# ---- shapes on which components go wrong


def spiral(side: int, pitch: int, width: int) -> NDArray[np.bool_]:
    """One arm of `width` px that winds inwards."""
    mask = np.zeros((side, side), np.bool_)
    left, top, right, bottom = 0, 0, side, side
    while right - left > pitch and bottom - top > pitch:
        mask[top : top + width, left:right] = True
        mask[top:bottom, right - width : right] = True
        mask[bottom - width : bottom, left + pitch : right] = True
        mask[top + pitch : bottom, left + pitch : left + pitch + width] = True
        left, top, right, bottom = left + pitch, top + pitch, right - pitch, bottom - pitch
    return mask


def rings(side: int, pitch: int) -> NDArray[np.bool_]:
    rows, columns = np.indices((side, side))
    depth = np.minimum.reduce([rows, columns, side - 1 - rows, side - 1 - columns])
    return np.asarray(depth % pitch == 0)


def diagonals(side: int, pitch: int) -> NDArray[np.bool_]:
    """Chains of pixels that touch at corners only; the middle one is the longest."""
    rows, columns = np.indices((side, side))
    return np.asarray((rows - columns) % pitch == 0)


def comb(side: int) -> NDArray[np.bool_]:
    """Teeth that meet in the last row only: a component for each until then."""
    mask = np.zeros((side, side), np.bool_)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def in_a_ring(side: int) -> NDArray[np.bool_]:
    """A square within a ring that holds fewer pixels than the square, but has the larger box."""
    mask = np.zeros((side, side), np.bool_)
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    mask[side // 3 : 2 * side // 3, side // 3 : 2 * side // 3] = True
    return mask


SHAPES: dict[str, NDArray[np.bool_]] = {
    "a spiral": spiral(97, 2, 1),
    "a wide spiral": spiral(130, 7, 3),
    "rings": rings(99, 2),
    "diagonals": diagonals(101, 3),
    "diagonals the other way": diagonals(101, 3)[:, ::-1],
    "a chess board": diagonals(90, 2),
    "a comb": comb(95),
    "a comb upside down": comb(95)[::-1],
    "a comb on its side": comb(95).T,
    "a square in a ring": in_a_ring(96),
    "two equal squares": np.kron(np.array([[0, 1], [0, 0], [1, 0]]), np.ones((30, 30))) > 0,
    "three equal columns": np.kron(np.array([[1, 0, 1, 0, 1]]), np.ones((70, 13))) > 0,
    "words that meet at their edge": np.kron(np.array([[1, 0], [1, 1], [0, 1]]), np.ones((20, 32))) > 0,
    "words that meet at a corner": np.kron(np.array([[0, 1], [1, 0]]), np.ones((32, 32))) > 0,
    "a full square": np.ones((64, 64), np.bool_),
    "one pixel": np.ones((1, 1), np.bool_),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_component_of_every_shape(host_kernels: HostKernels, shape: str) -> None:
    mask = SHAPES[shape]
    # every alignment matters: a shape meets the bounds of words and tiles elsewhere
    images = []
    for right, down in ((1, 1), (2, 9), (31, 16), (32, 15)):
        image = np.zeros((mask.shape[0] + 40, mask.shape[1] + 40, 3), np.uint8)
        image[down : down + mask.shape[0], right : right + mask.shape[1]] = mask[..., None] * np.array([150, 90, 160])
        images.append(image)
    assert set(agrees(host_kernels, images, plan_for(images, BARE))) == {"ok"}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 30),
    height=st.integers(3, 90),
    width=st.integers(3, 90),
    share=st.floats(0.05, 0.7),
    blur=st.booleans(),
)
def test_the_largest_component_of_random_masks(
    host_kernels: HostKernels, seed: int, height: int, width: int, share: float, blur: bool
) -> None:
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    mask = np.pad((cv2.GaussianBlur(noise, (0, 0), 1.2) if blur else noise) < share, 1)
    image = (mask[..., None] * np.array([200, 180, 90])).astype(np.uint8)
    agrees(host_kernels, [image], plan_for([image], BARE))


# ---- sizes, strides, batches


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    sizes=st.lists(st.tuples(st.integers(8, 110), st.integers(8, 110)), min_size=1, max_size=4),
    more=st.integers(0, 70),
    spec=st.sampled_from(
        [
            CropSpecification(side_px=40, min_box_px=4),
            BARE,
            CropSpecification(side_px=16, scale="keep", window_px=40, erosion_px=2),
        ]
    ),
)
def test_batches_of_mixed_random_images(
    host_kernels: HostKernels, seed: int, sizes: list[tuple[int, int]], more: int, spec: CropSpecification
) -> None:
    rng = np.random.default_rng(seed)
    images = [random_image(rng, size) for size in sizes]
    plan = CropPlan.make(spec, len(images), max(map(max, sizes)) + more)  # a plan may be wider than its images
    agrees(host_kernels, images, plan)


def random_image(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """A blob, noise, or texture, some of them dark, at the edge or all over."""
    image = np.zeros((*size, 3), np.uint8)
    y0, x0 = (rng.integers(0, side // 2) for side in size)
    part = image[y0 : size[0] - rng.integers(0, 9), x0 : size[1] - rng.integers(0, 9)]
    level = rng.choice([20, 30, 120, 256])
    part[...] = cv2.blur(rng.integers(0, level, part.shape, dtype=np.uint8), (3, 3)) if part.size else 0
    rows, columns = np.indices(size)
    disk = (rows - rng.integers(0, size[0])) ** 2 + (columns - rng.integers(0, size[1])) ** 2 < rng.integers(
        2, max(size)
    ) ** 2 / 4
    image[disk] = np.maximum(image[disk], rng.integers(0, 256, 3, dtype=np.uint8))
    return image


EVERY_VIEW = {**VIEWS, "one row for all": lambda image: np.broadcast_to(image[60:61], (90, *image.shape[1:]))}


@pytest.mark.parametrize("view", EVERY_VIEW)
def test_strides_of_any_sign_are_read_where_they_point(host_kernels: HostKernels, view: str) -> None:
    image = EVERY_VIEW[view](synthetic_cell(4, size_px=121))
    agrees(host_kernels, [image, image.copy()], plan_for([image, image], CropSpecification(side_px=50)))


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (1, 300), (300, 1), (2, 3), (33, 32), (0, 5), (5, 0), (0, 0)])
def test_the_smallest_images(host_kernels: HostKernels, shape: tuple[int, int]) -> None:
    black, white = np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)
    dot = black.copy()
    dot[shape[0] // 2 : shape[0] // 2 + 1, shape[1] // 2 : shape[1] // 2 + 1] = 99
    for spec in (PAPER, BARE):
        agrees(host_kernels, [black, white, dot], plan_for([black, white, dot], spec))


def test_the_largest_images(host_kernels: HostKernels) -> None:
    large = np.zeros((4096, 4096, 3), np.uint8)
    large[1500:2700, 2900:4000] = cv2.resize(synthetic_cell(2), (1100, 1200), interpolation=cv2.INTER_NEAREST)
    large[::7, ::9] = 30  # debris: 266,000 components
    wide = np.zeros((11, 4096, 3), np.uint8)
    wide[3:8, 4000:4090] = 130
    images = [large, wide, wide.transpose(1, 0, 2)]
    spec = CropSpecification(min_box_px=5, max_box_px=2000)
    assert agrees(host_kernels, images, CropPlan.make(spec, 3, 4096)) == ["ok"] * 3


def test_a_batch_is_filled_up_with_rows_of_zeros(host_kernels: HostKernels) -> None:
    image = synthetic_cell(1, size_px=90)
    empty = np.zeros((0, 0, 3), np.uint8)
    results = host_kernels.crop([image], CropPlan.make(CropSpecification(side_px=20), 3, 90))
    crop = crop_cell(image, CropSpecification(side_px=20))
    assert isinstance(crop, Crop)
    assert isinstance(results[0], Crop)
    assert np.array_equal(results[0].pixels, crop.pixels)
    assert host_kernels.crop([empty], CropPlan.make(BARE, 1, 8)) == [crop_cell(empty, BARE)]


def test_an_image_larger_than_the_plan_is_not_touched_and_said(host_kernels: HostKernels) -> None:
    plan = CropPlan.make(BARE, 2, 50)
    assert plan.fits(50, 50)
    assert not plan.fits(51, 8)
    with pytest.raises(UsageError, match="60 x 51 px is larger than its plan"):
        host_kernels.crop([synthetic_cell(1, size_px=50), np.zeros((51, 60, 3), np.uint8)], plan)


# ---- every refusal


def disk(size: tuple[int, int], middle: tuple[int, int], radius: float) -> Image:
    rows, columns = np.indices(size)
    inside = (rows - middle[1]) ** 2 + (columns - middle[0]) ** 2 <= radius * radius
    return np.asarray(inside[..., None] * np.array([120, 60, 130]), np.uint8)


def test_every_refusal_has_the_words_of_the_cpu(host_kernels: HostKernels) -> None:
    full = np.full((70, 80, 3), 255, np.uint8)
    half = np.zeros((70, 80, 3), np.uint8)
    half[:, :40] = half[0] = 200  # 40 + 40 + 1 of 300 border pixels more than half
    images = [
        *(np.zeros((0, 9, 3), np.uint8), np.full((70, 80, 3), 24, np.uint8), full, half),
        *(disk((70, 80), (40, 35), 0.5), disk((70, 80), (40, 35), 9), disk((200, 210), (100, 100), 80)),
        *(disk((70, 80), (20, 35), 20), disk((70, 80), (40, 60), 12), disk((70, 80), (40, 35), 30)),
    ]
    spec = CropSpecification(side_px=16, max_box_px=150)
    codes = Counter(agrees(host_kernels, images, plan_for(images, spec)))
    assert set(codes) == {"empty", "not-on-black", "too-small", "too-large", "touches-border", "ok"}
    assert MOST_BRIGHT_BORDER == 0.5  # the kernels say: more bright pixels than height + width


@settings(max_examples=40)
@given(
    middle=st.tuples(st.integers(0, 99), st.integers(0, 79)),
    radii=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    tail=st.integers(0, 12),
)
def test_cells_at_the_edge_are_cut_or_not_alike(
    host_kernels: HostKernels, middle: tuple[int, int], radii: tuple[int, int], tail: int
) -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    cv2.ellipse(image, middle, radii, 0, 0, 360, (150, 90, 160), -1)
    image[middle[1] : middle[1] + tail, middle[0] :] = 120
    agrees(host_kernels, [image], plan_for([image], CropSpecification(side_px=16, min_box_px=1)))
