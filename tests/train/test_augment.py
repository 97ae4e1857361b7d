"""train/augment.py against numpy: every augmentation does what its name says and leaves black black."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.train.augment import COLUMNS, OPERATIONS, augment, draw_augmentations
from blastscope.train.config import AugmentConfig

SIDE = 32
EVERYTHING = AugmentConfig(
    mode="all", choose="every", scale=0.1, shift=0.1, brightness=0.2, saturation=0.3, hue_deg=20, offset=0.05, stain=0.5,
    gray=0.2, gamma=0.2, blur=0.5, cutout=0.3,
)  # fmt: skip


@pytest.fixture
def crops() -> NDArray[np.uint8]:
    """Four coloured squares on black, none symmetric."""
    rng = np.random.default_rng(3)
    cells = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    smooth = rng.integers(60, 200, (4, 5, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    cells[:, 6:26, 8:24] = smooth
    return cells


def apply(crops: NDArray[np.uint8], *, seed: float = 0, **columns: float) -> NDArray[np.uint8]:
    table = np.zeros((len(crops), len(COLUMNS)), np.float32)
    for name, value in columns.items():
        table[:, COLUMNS[name]] = value
    return augment(crops, table, np.random.default_rng(int(seed)))


def as_is(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    return crops.astype(np.float64)


def rounded(pixels: NDArray[np.float64], crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    cell = crops.any(axis=3, keepdims=True)
    return pixels.clip(0, 255).round() * cell


def test_a_row_of_zeros_leaves_the_crop_as_it_is(crops: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(apply(crops), crops)


@pytest.mark.parametrize(("columns", "axes"), [({"horizontal": 1}, 2), ({"vertical": 1}, 1), ({"rotation": 180}, (1, 2))])
def test_flips_and_half_turns_move_pixels_exactly(
    crops: NDArray[np.uint8], columns: dict[str, float], axes: int | tuple[int, int]
) -> None:
    np.testing.assert_allclose(as_is(apply(crops, **columns)), as_is(np.flip(crops, axes)), atol=1)


def test_a_quarter_turn_is_numpys(crops: NDArray[np.uint8]) -> None:
    turned = apply(crops, rotation=90)
    both = [as_is(np.rot90(crops, k, axes=(1, 2))) for k in (1, 3)]
    assert min(np.abs(turned - other).max() for other in both) <= 1


def test_a_larger_cell_covers_more(crops: NDArray[np.uint8]) -> None:
    area = crops.any(axis=3).sum()
    assert apply(crops, scale=0.2).any(axis=3).sum() == pytest.approx(1.44 * area, rel=0.15)
    assert apply(crops, scale=-0.2).any(axis=3).sum() == pytest.approx(0.64 * area, rel=0.15)


def test_contrast_grows_about_the_gray_level_of_the_cells_own_pixels(crops: NDArray[np.uint8]) -> None:
    middle = np.array([crop[crop.any(axis=2)].mean(axis=0) @ (0.299, 0.587, 0.114) for crop in crops])
    middle = middle[:, None, None, None]
    wanted = rounded((as_is(crops) - middle) * 1.2 + middle, crops)
    np.testing.assert_allclose(apply(crops, contrast=0.2), wanted, atol=1)


def test_brightness_and_channels_are_factors_and_offsets_are_added(crops: NDArray[np.uint8]) -> None:
    wanted = rounded(as_is(crops) * 1.1 * (1.1, 0.9, 1.0) + (0, 0, 0.05 * 255), crops)
    out = apply(crops, brightness=0.1, red=0.1, green=-0.1, blue_offset=0.05)
    np.testing.assert_allclose(out, wanted, atol=1)


def test_gray_has_no_colour_left(crops: NDArray[np.uint8]) -> None:
    out = apply(crops, gray=1)
    wanted = rounded((as_is(crops) @ (0.299, 0.587, 0.114))[..., None].repeat(3, axis=3), crops)
    np.testing.assert_allclose(out, wanted, atol=1)


def test_hue_keeps_the_sum_of_the_channels_and_a_third_turn_swaps_them(crops: NDArray[np.uint8]) -> None:
    out = apply(crops, hue=120)
    assert any(np.abs(out - as_is(np.roll(crops, k, axis=3))).max() <= 1 for k in (1, 2))


def test_a_whole_strangers_stain_brings_its_mean_and_spread(crops: NDArray[np.uint8]) -> None:
    out = apply(crops, stain=1, stranger=0.99)  # the last of the batch
    wanted = crops[3][crops[3].any(axis=2)]
    for crop in out:
        pixels = crop[crop.any(axis=2)]
        np.testing.assert_allclose(pixels.mean(axis=0), wanted.mean(axis=0), atol=2)
        np.testing.assert_allclose(pixels.std(axis=0), wanted.std(axis=0), atol=4)


def test_noise_has_the_spread_asked_for_and_its_own_seed(crops: NDArray[np.uint8]) -> None:
    flat = np.where(crops.any(axis=3, keepdims=True), np.uint8(128), np.uint8(0)).repeat(3, axis=3)
    noisy = apply(flat, noise=0.05)
    assert (noisy[flat > 0] - 128.0).std() == pytest.approx(0.05 * 255, rel=0.1)
    np.testing.assert_array_equal(noisy, apply(flat, noise=0.05))
    assert (noisy != apply(flat, seed=1, noise=0.05)).any()


def test_cutout_blackens_a_square_of_the_size_asked_for() -> None:
    full = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    out = apply(full, cutout=0.25, cutout_x=0.5, cutout_y=0.5)
    assert (out == 0).all(axis=3).sum() == pytest.approx(64, abs=16)


def test_black_stays_black_whatever_the_colours_do(crops: NDArray[np.uint8]) -> None:
    still = EVERYTHING.model_copy(
        update={"rotation_deg": 0, "scale": 0, "shift": 0, "flip_horizontal": False, "flip_vertical": False}
    )
    table = draw_augmentations(still, np.ones(4, np.bool_), np.random.default_rng(0))
    out = augment(crops, table, np.random.default_rng(0))
    assert not out[~crops.any(axis=3)].any()
    assert out.any()


def test_rows_that_are_not_augmented_are_left_alone(crops: NDArray[np.uint8]) -> None:
    augmented = np.array([True, False, True, False])
    table = draw_augmentations(AugmentConfig(rotation_deg=90), augmented, np.random.default_rng(0))
    assert table.any(axis=1).tolist() == augmented.tolist()
    out = augment(crops, table, np.random.default_rng(0))
    np.testing.assert_array_equal(out[~augmented], crops[~augmented])


def test_the_paper_draws_one_or_several_and_not_always_all() -> None:
    table = draw_augmentations(AugmentConfig(), np.ones(3000, np.bool_), np.random.default_rng(0))
    active = [name for name in OPERATIONS if getattr(AugmentConfig(), name)]
    drawn = np.array([table[:, [COLUMNS[c] for c in OPERATIONS[name]]].any(axis=1) for name in active])
    many = drawn.sum(axis=0)
    assert (many.min(), many.max()) == (1, len(active) == 6 and 6)
    assert np.bincount(many)[1:] == pytest.approx(np.full(6, 500), rel=0.2)  # any number as likely as any other
    assert drawn.mean(axis=1) == pytest.approx(np.full(6, 3.5 / 6), rel=0.1)  # and each augmentation


def test_magnitudes_stay_within_the_configuration() -> None:
    table = draw_augmentations(EVERYTHING, np.ones(500, np.bool_), np.random.default_rng(0))
    for name in ("contrast", "scale", "brightness", "saturation", "gamma"):
        assert np.abs(table[:, COLUMNS[name]]).max() <= getattr(EVERYTHING, name)
    for name in ("noise", "blur", "cutout"):
        assert 0 <= table[:, COLUMNS[name]].min() <= table[:, COLUMNS[name]].max() <= getattr(EVERYTHING, name)
    assert (table[:, COLUMNS["stain"]] > 0).mean() == pytest.approx(0.5, abs=0.1)
    assert 0.9 < table[:, COLUMNS["stain"]].max() <= 1
    assert table[:, COLUMNS["gray"]].mean() == pytest.approx(0.2, abs=0.05)
    assert table[:, COLUMNS["horizontal"]].mean() == pytest.approx(0.5, abs=0.1)
