"""The crop against scikit-image, against a slow reference in exact arithmetic, and against its own laws."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from crop_oracles import VIEWS, labelled_largest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import convex_hull_image

from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.crop.reference import histogram_of, otsu_threshold
from blastscope.runtime.errors import ConfigError, ImageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import Refusal

Image = NDArray[np.uint8]
PAPER = CropSpecification()
SMALL = CropSpecification(side_px=32, min_box_px=1)
SPECS = [
    PAPER,
    CropSpecification(side_px=224, scale="keep", window_px=300),
    CropSpecification(side_px=64, scale="keep", window_px=64, min_box_px=1),
    CropSpecification(side_px=64, erosion_px=3, grow_back=False, min_box_px=1),
    CropSpecification(side_px=33, erosion_px=0, min_box_px=1),
]


# the slow reference: every step of the specification written out, nothing from OpenCV


def slow_gray(image: Image) -> NDArray[np.int64]:
    red, green, blue = (image[..., channel].astype(np.int64) for channel in range(3))
    return (9798 * red + 19235 * green + 3735 * blue + 16384) >> 15


def slow_otsu(gray: NDArray[np.int64]) -> int:
    values = [int(value) for value in gray.ravel()]
    best, threshold = Fraction(-1), 0
    for candidate in range(256):
        below, above = [v for v in values if v <= candidate], [v for v in values if v > candidate]
        if below and above:
            gap = Fraction(sum(below), len(below)) - Fraction(sum(above), len(above))
            if gap * gap * len(below) * len(above) > best:
                best, threshold = gap * gap * len(below) * len(above), candidate
    return threshold


def slow_erosion(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_and.reduce([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])


@lru_cache
def slow_weights(old: int, new: int) -> list[tuple[int, int, int]]:
    """(left index, its weight, the right one's weight) for each new pixel; weights add up to 256."""
    rows = []
    for index in range(new):
        place = Fraction(2 * index + 1, 2) * Fraction(old, new) - Fraction(1, 2)
        if place < 0:
            rows.append((0, 256, 0))
            continue
        left = int(place)
        right = 0 if left >= old - 1 else round(256 * (place - left))  # ties to even
        rows.append((min(left, old - 1), 256 - right, right))
    return rows


def slow_resize(patch: Image, side: int) -> Image:
    across, down = slow_weights(patch.shape[1], side), slow_weights(patch.shape[0], side)
    wide = np.pad(patch.astype(np.int64), ((0, 1), (0, 1), (0, 0)), mode="edge")
    left = np.array([item[0] for item in across])
    a, b = (np.array([item[part] for item in across])[None, :, None] for part in (1, 2))
    rows = wide[:, left] * a + wide[:, left + 1] * b
    top = np.array([item[0] for item in down])
    a, b = (np.array([item[part] for item in down])[:, None, None] for part in (1, 2))
    return ((rows[top] * a + rows[top + 1] * b + 32768) >> 16).astype(np.uint8)


def slow_crop(image: Image, threshold: int, spec: CropSpecification) -> Crop | None:
    mask = slow_gray(image) > threshold
    for _ in range(spec.erosion_px):
        mask = slow_erosion(mask)
    box = labelled_largest(mask)
    if box is None:
        return None
    grown = spec.erosion_px if spec.grow_back else 0
    x0, y0, x1, y1 = box[0] - grown, box[1] - grown, box[2] + grown, box[3] + grown
    if spec.window_px is None:
        patch = image[y0:y1, x0:x1]
    else:
        size = spec.window_px
        left, top = (x0 + x1) // 2 - size // 2, (y0 + y1) // 2 - size // 2
        rows, columns = np.arange(top, top + size), np.arange(left, left + size)
        inside = ((rows >= 0) & (rows < image.shape[0]))[:, None] & ((columns >= 0) & (columns < image.shape[1]))[None]
        patch = image[np.clip(rows, 0, image.shape[0] - 1)[:, None], np.clip(columns, 0, image.shape[1] - 1)[None]]
        patch = patch * inside[..., None].astype(np.uint8)
    return Crop(slow_resize(patch, spec.side_px), (x0, y0, x1, y1))


def same(one: Crop | Refusal | None, other: Crop | Refusal | None) -> bool:
    if isinstance(one, Crop) and isinstance(other, Crop):
        return one.box == other.box and np.array_equal(one.pixels, other.pixels)
    return one == other


def cropped(image: Image, spec: CropSpecification = PAPER) -> Crop:
    crop = crop_cell(image, spec)
    assert isinstance(crop, Crop), crop
    return crop


def code(image: Image, spec: CropSpecification = PAPER) -> str | None:
    result = crop_cell(image, spec)
    return result.code if isinstance(result, Refusal) else None


def disk(size: tuple[int, int] = (300, 300), middle: tuple[int, int] = (150, 150), radius: int = 60) -> Image:
    """A gray disk on black; size is (height, width), middle (x, y)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = (rows - middle[1]) ** 2 + (columns - middle[0]) ** 2 <= radius * radius + radius  # no thin tips to erode
    return (inside[..., None] * np.array([120, 60, 130])).astype(np.uint8)


@pytest.fixture(scope="session")
def real_cells(cnmc: Path) -> list[Image]:
    """400 real cells, spread over all patients, and those whose debris reaches the edge."""
    paths = [cell.path for cell in scan_dataset(cnmc).cells]
    trailing = ("UID_48_12_9_all", "UID_H7_14_1_hem", "UID_52_29_10_all", "UID_34_22_4_all", "UID_23_11_1_all")
    chosen = paths[::13] + [path for path in paths if path.stem in trailing]
    images = [read_image(path) for path in chosen]
    return [image for image in images if not isinstance(image, Refusal)]


def test_every_real_cell_is_accepted(real_cells: list[Image]) -> None:
    assert len(real_cells) > 400
    assert {code(image) for image in real_cells} == {None}


def test_real_boxes_are_those_of_scikit_image_within_a_pixel(real_cells: list[Image]) -> None:
    for image in real_cells[::10]:
        gray = slow_gray(image)
        box = labelled_largest(slow_erosion(gray > threshold_otsu(gray.astype(np.uint8))))
        assert box is not None
        grown = np.add(box, (-1, -1, 1, 1))
        assert np.abs(grown - cropped(image).box).max() <= 1


def test_the_box_of_the_hull_is_the_box_of_the_component(real_cells: list[Image]) -> None:
    image = real_cells[7]
    gray = slow_gray(image)
    labels = label(slow_erosion(gray > otsu_threshold(histogram_of(gray.astype(np.uint8)))), connectivity=2)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    rows, columns = np.nonzero(convex_hull_image(largest))
    box = cropped(image, CropSpecification(grow_back=False)).box
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_real_crops_are_the_slow_reference_to_the_byte(real_cells: list[Image], spec: CropSpecification) -> None:
    for image in real_cells[::80]:
        threshold = otsu_threshold(np.bincount(slow_gray(image).ravel(), minlength=256))
        assert same(crop_cell(image, spec), slow_crop(image, threshold, spec))


def test_otsu_is_opencvs_on_real_cells(real_cells: list[Image]) -> None:
    for image in real_cells[::4]:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        assert otsu_threshold(histogram_of(gray)) == cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)[0]


@settings(deadline=None, max_examples=60)
@given(
    gray=arrays(
        np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 1, 2, 9, 200, 254, 255])
    )
)
def test_otsu_is_the_first_largest_fraction(gray: NDArray[np.uint8]) -> None:
    threshold = otsu_threshold(histogram_of(gray))
    if gray.min() == gray.max():
        assert threshold == gray.min()
    else:
        assert threshold == slow_otsu(gray.astype(np.int64))


def test_of_equal_components_the_first_in_raster_order_wins() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[50:90, 20:60] = 200
    image[49:89, 120:160] = 200
    assert cropped(image, SMALL).box == (120, 49, 160, 89)
    assert cropped(np.ascontiguousarray(image[::-1]), SMALL).box == (20, 30, 60, 70)


random_cells = st.builds(
    lambda seed, blur, level: cv2.GaussianBlur(
        np.pad(np.random.default_rng(seed).integers(0, level, (40, 46, 3), dtype=np.uint8), ((12, 12), (12, 12), (0, 0))),
        (0, 0),
        blur,
    ),
    st.integers(0, 10_000),
    st.floats(0.6, 2.5),
    st.integers(80, 256),
)


@settings(deadline=None, max_examples=40)
@given(image=random_cells, spec=st.sampled_from(SPECS[2:]))
def test_random_crops_are_the_slow_reference_to_the_byte(image: Image, spec: CropSpecification) -> None:
    result = crop_cell(image, spec)
    expected = slow_crop(image, otsu_threshold(np.bincount(slow_gray(image).ravel(), minlength=256)), spec)
    if isinstance(result, Crop):
        assert same(result, expected)
    else:
        assert expected is None or result.code in ("empty", "touches-border")


@settings(deadline=None, max_examples=25)
@given(right=st.integers(0, 40), down=st.integers(0, 40), spec=st.sampled_from([*SPECS[2:], SPECS[1]]), seed=st.integers(0, 50))
def test_shifting_the_cell_shifts_the_box_and_nothing_else(right: int, down: int, spec: CropSpecification, seed: int) -> None:
    image = synthetic_cell(seed, size_px=120)
    shifted = np.zeros((300, 290, 3), np.uint8)
    shifted[down : down + 120, right : right + 120] = image
    if spec.window_px:  # the window may show the frame's edge, so compare on a wide margin
        image = np.pad(image, ((0, 180), (0, 170), (0, 0)))
    before, after = cropped(image, spec), cropped(shifted, spec)
    assert after.box == tuple(np.add(before.box, (right, down, right, down)))
    assert np.array_equal(after.pixels, before.pixels)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 200), size=st.integers(96, 160))
def test_half_a_turn_turns_the_box(seed: int, size: int) -> None:
    image = synthetic_cell(seed, size_px=size)
    x0, y0, x1, y1 = cropped(image, SMALL).box
    turned = cropped(image[::-1, ::-1], SMALL)
    assert turned.box == (size - x1, size - y1, size - x0, size - y0)


EVERY_VIEW = {**VIEWS, "fortran": np.asfortranarray}


@pytest.mark.parametrize("view", EVERY_VIEW)
def test_a_strided_view_gives_what_its_copy_gives(view: str) -> None:
    image = EVERY_VIEW[view](synthetic_cell(4))
    assert same(crop_cell(image, PAPER), crop_cell(np.array(image, order="C"), PAPER))
    assert code(image) is None


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_image_is_neither_written_to_nor_kept(spec: CropSpecification) -> None:
    image = synthetic_cell(4)
    image.flags.writeable = False
    before = image.copy()
    crop = cropped(image, spec)
    assert np.array_equal(image, before)
    assert not np.shares_memory(crop.pixels, image)
    assert crop.pixels.base is None or not np.shares_memory(crop.pixels.base, image)
    assert crop.pixels.shape == (spec.side_px, spec.side_px, 3)
    assert crop.pixels.flags.c_contiguous
    assert crop.pixels.flags.writeable


def test_a_box_of_the_crops_own_size_is_copied_and_not_shared() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48] = 180
    crop = cropped(image, SMALL)
    crop.pixels[:] = 0
    assert image[20, 20, 0] == 180


def test_a_kept_window_is_black_where_it_leaves_the_image() -> None:
    crop = cropped(disk((100, 90), (40, 50), 30), CropSpecification(side_px=200, scale="keep", window_px=200))
    assert crop.box == (10, 20, 71, 81)
    assert crop.pixels[100, 100].any()
    assert not crop.pixels[:50].any()
    assert int((crop.pixels.any(axis=2)).sum()) == int(disk((100, 90), (40, 50), 30).any(axis=2).sum())


@pytest.mark.parametrize("shape", [(0, 0), (0, 50), (50, 0), (1, 1), (8, 8), (1, 3000), (3000, 1), (450, 450), (4096, 4096)])
def test_black_and_pixelless_images_are_empty(shape: tuple[int, int]) -> None:
    assert code(np.zeros((*shape, 3), np.uint8)) == "empty"


def test_dark_noise_is_empty() -> None:
    assert code(np.random.default_rng(0).integers(0, 24, (200, 200, 3), dtype=np.uint8)) == "empty"


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1, 3000), (3000, 1), (450, 450), (4096, 4096)])
def test_white_images_are_not_on_black(shape: tuple[int, int]) -> None:
    assert code(np.full((*shape, 3), 255, np.uint8)) == "not-on-black"


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), blur=st.floats(0, 6), height=st.integers(4, 200), width=st.integers(4, 200))
def test_textures_are_not_on_black(seed: int, blur: float, height: int, width: int) -> None:
    texture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert code(cv2.GaussianBlur(texture, (0, 0), blur) if blur > 0.5 else texture) == "not-on-black"


def test_smear_frames_are_not_on_black(shared_data: Path) -> None:
    frames = sorted((shared_data / "bccd" / "JPEGImages").iterdir())[::6]
    images = [read_image(frame) for frame in frames]
    assert {code(image) for image in images if isinstance(image, np.ndarray)} == {"not-on-black"}
    assert len(images) > 40


@pytest.mark.parametrize("middle", [(60, 150), (240, 150), (150, 60), (150, 239), (20, 150), (280, 280), (150, 0)])
def test_a_cell_at_the_edge_touches_the_border(middle: tuple[int, int]) -> None:
    assert code(disk(middle=middle)) == "touches-border"
    assert code(disk(middle=middle), CropSpecification(grow_back=False)) == "touches-border"


def test_a_cell_one_pixel_from_the_edge_is_whole() -> None:
    assert cropped(disk(middle=(61, 150))).box[0] == 1


def test_a_real_cell_that_the_edge_cuts_touches_the_border(real_cells: list[Image]) -> None:
    for image in real_cells[:40:4]:
        x0, y0, x1, y1 = cropped(image).box
        for cut in (image[:, x0 + 9 :], image[: y1 - 9], image[y0 + 40 :], image[:, : (x0 + x1) // 2]):
            assert code(cut) in ("touches-border", "not-on-black")


def test_a_bar_across_the_image_touches_the_border() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    image[130:160] = 150
    assert code(image) == "touches-border"


def test_debris_that_trails_to_the_edge_does_not_cut_the_cell() -> None:
    image = disk()
    image[140:150, 200:] = 90
    assert cropped(image).box == (90, 90, 300, 211)


def test_a_speck_is_too_small() -> None:
    assert code(disk(radius=5)) == "too-small"
    assert code(disk(radius=0)) == "too-small"  # erosion leaves nothing
    assert code(disk(radius=12), CropSpecification(min_box_px=25)) is None
    assert code(disk(radius=12), CropSpecification(min_box_px=26)) == "too-small"


def test_a_giant_is_too_large() -> None:
    assert code(disk((1400, 1400), (700, 700), 600)) == "too-large"
    assert code(disk(radius=60), CropSpecification(max_box_px=121)) is None
    assert code(disk(radius=60), CropSpecification(max_box_px=120)) == "too-large"


def test_jpeg_ringing_around_a_cell_passes(real_cells: list[Image]) -> None:
    for image in real_cells[::40]:
        for quality in (30, 60, 95):
            ringing = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
            assert np.abs(np.array(cropped(np.asarray(ringing, np.uint8)).box) - cropped(image).box).max() <= 12


@pytest.mark.parametrize("image", [[[1, 2, 3]], None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_misuse_raises(image: object) -> None:
    with pytest.raises(ImageError):
        crop_cell(image, PAPER)  # type: ignore[arg-type]


def test_a_specification_says_which_key_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "crop.toml"
    path.write_text('side_px = 224\nscale = "keep"\n')
    with pytest.raises(ConfigError, match="window_px"):
        CropSpecification.from_toml(path)
