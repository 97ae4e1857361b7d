"""Augmentations of the crop: drawn for an epoch as one table of numbers, applied to a batch as a few tensor operations.

A row of the table belongs to one image; zeros leave it as it is. The table is a pure function of (seed, stage, epoch), so that
a resumed run draws what the uninterrupted one would have drawn. Black stays black: what the crop knows to be background is
never tinted, and the networks at work see it black too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blastscope.train.config import AugmentConfig

# columns of the table, by the augmentation that they belong to
OPERATIONS: dict[str, tuple[str, ...]] = {
    "rotation_deg": ("rotation",),
    "flip_horizontal": ("horizontal",),
    "flip_vertical": ("vertical",),
    "noise": ("noise",),
    "contrast": ("contrast",),
    "channel": ("red", "green", "blue"),
    "scale": ("scale",),
    "shift": ("right", "down"),
    "brightness": ("brightness",),
    "saturation": ("saturation",),
    "hue_deg": ("hue",),
    "offset": ("red_offset", "green_offset", "blue_offset"),
    "stain": ("stain", "stranger"),
    "gray": ("gray",),
    "gamma": ("gamma",),
    "blur": ("blur",),
    "cutout": ("cutout", "cutout_x", "cutout_y"),
}
COLUMNS = {name: place for place, name in enumerate(name for names in OPERATIONS.values() for name in names)}
GRAY = torch.tensor([0.299, 0.587, 0.114])


def draw_augmentations(
    config: AugmentConfig, augmented: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:  # (M, len(COLUMNS))
    """One row of magnitudes for each image of an epoch; zeros where `augmented` is false (and `mode` is 'paper')."""
    count = len(augmented)
    active = [name for name in OPERATIONS if getattr(config, name)]
    table = np.zeros((count, len(COLUMNS)), np.float32)
    if not active:
        return table
    chosen = np.ones((count, len(active)), np.bool_)
    if config.choose == "some":
        how_many = rng.integers(1, len(active) + 1, size=(count, 1))
        chosen = rng.random((count, len(active))).argsort(axis=1).argsort(axis=1) < how_many
    if config.mode == "paper":
        chosen &= augmented[:, None]
    for place, name in enumerate(active):
        for column in OPERATIONS[name]:
            table[:, COLUMNS[column]] = chosen[:, place] * _magnitudes(config, name, column, rng.random(count))
    return table


def _magnitudes(config: AugmentConfig, name: str, column: str, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    most = float(getattr(config, name))
    if name in ("flip_horizontal", "flip_vertical"):
        return np.where(config.choose == "some", 1.0, uniform < 0.5)
    if name == "gray":
        return (uniform < most).astype(np.float64)
    if column == "stain":
        return np.where(uniform < most, uniform / most, 0.0)  # a part that is uniform again, given that it is drawn
    if column in ("noise", "blur", "cutout"):
        return most * np.where(uniform < config.texture_chance, uniform / config.texture_chance, 0.0)
    if column in ("stranger", "cutout_x", "cutout_y"):
        return uniform
    return most * (2 * uniform - 1)


def augment(crops: Tensor, table: NDArray[np.float32], generator: torch.Generator) -> Tensor:
    """`crops` (N, S, S, 3) uint8 with the augmentations of their rows of `table`; `generator` makes the noise."""
    rows = np.flatnonzero(table.any(axis=1))
    if not len(rows):
        return crops
    columns = {name: torch.from_numpy(table[rows, place]).to(crops.device) for name, place in COLUMNS.items()}
    where = torch.from_numpy(rows).to(crops.device)
    pixels = crops[where].permute(0, 3, 1, 2).float().div_(255)  # (n, 3, S, S)
    pixels = _move(pixels, columns)
    cell = pixels.amax(dim=1, keepdim=True) > 0  # (n, 1, S, S)
    pixels = _recolour(pixels, cell, columns)
    pixels = _texture(pixels, columns, generator)
    pixels = pixels.clamp_(0, 1).mul_(255).round_().mul_(cell)
    return crops.index_copy(0, where, _cut_out(pixels, columns).permute(0, 2, 3, 1).to(torch.uint8))


def _move(pixels: Tensor, columns: dict[str, Tensor]) -> Tensor:
    """Rotation, flips, scale and shift in one resampling; outside is black."""
    moves = ("rotation", "horizontal", "vertical", "scale", "right", "down")
    if not any(columns[name].any() for name in moves):
        return pixels
    angle = columns["rotation"] * (math.pi / 180)
    grow = 1 / (1 + columns["scale"])  # affine_grid maps output to input
    across, down = 1 - 2 * columns["horizontal"], 1 - 2 * columns["vertical"]
    cos, sin = angle.cos() * grow, angle.sin() * grow
    first = torch.stack([cos * across, -sin * down, 2 * columns["right"]], dim=1)
    second = torch.stack([sin * across, cos * down, 2 * columns["down"]], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolour(pixels: Tensor, cell: Tensor, columns: dict[str, Tensor]) -> Tensor:
    """Stain, saturation, gray, hue, contrast, brightness, channels and offsets: all linear in a pixel: one matrix an image."""
    count = cell.sum(dim=(2, 3)).clamp_min(1)  # (n, 1)
    mean = pixels.sum(dim=(2, 3)) / count  # (n, 3); black adds nothing
    spread = (pixels.square().sum(dim=(2, 3)) / count - mean.square()).clamp_min(1e-6).sqrt()
    stranger = (columns["stranger"] * len(pixels)).long().clamp_max(len(pixels) - 1)
    stain = columns["stain"][:, None]
    gain = (spread + stain * (spread[stranger] - spread)) / spread
    new_mean = mean + stain * (mean[stranger] - mean)
    matrix, offset = torch.diag_embed(gain), new_mean - gain * mean  # (n, 3, 3), (n, 3)

    keep = ((1 + columns["saturation"]) * (1 - columns["gray"]))[:, None, None]
    gray = GRAY.to(pixels.device)
    eye = torch.eye(3, device=pixels.device)
    turn = _hue(columns["hue"]) @ (keep * eye + (1 - keep) * gray.expand(3, 3))
    contrast = 1 + columns["contrast"]
    middle = (turn @ new_mean[:, :, None])[:, :, 0] @ gray  # the gray level about which contrast grows
    factor = contrast * (1 + columns["brightness"])
    channel = 1 + torch.stack([columns["red"], columns["green"], columns["blue"]], dim=1)
    turn = (factor[:, None] * channel)[:, :, None] * turn
    shift = ((1 - contrast) * middle * (1 + columns["brightness"]))[:, None] * channel
    shift = shift + torch.stack([columns["red_offset"], columns["green_offset"], columns["blue_offset"]], dim=1)
    matrix, offset = turn @ matrix, (turn @ offset[:, :, None])[:, :, 0] + shift
    return torch.baddbmm(offset[:, :, None], matrix, pixels.flatten(2)).view_as(pixels)


def _hue(degrees: Tensor) -> Tensor:
    """Rotations (n, 3, 3) of colour about the gray axis (Rodrigues)."""
    angle = (degrees * (math.pi / 180))[:, None, None]
    third, root = 1 / 3, math.sqrt(1 / 3)
    cross = torch.tensor([[0, -root, root], [root, 0, -root], [-root, root, 0]], device=degrees.device)
    axis = torch.full((3, 3), third, device=degrees.device)
    return angle.cos() * (torch.eye(3, device=degrees.device) - axis) + axis + angle.sin() * cross


def _texture(pixels: Tensor, columns: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Gamma, blur and noise: what one matrix can't do, and what costs nothing when it is off."""
    if columns["gamma"].any():
        pixels = pixels.clamp(1e-4, 1) ** (1 + columns["gamma"])[:, None, None, None]
    if columns["blur"].any():
        smooth = F.avg_pool2d(pixels, 3, stride=1, padding=1)
        pixels = torch.lerp(pixels, smooth, columns["blur"][:, None, None, None])
    if columns["noise"].any():
        noisy = columns["noise"].nonzero()[:, 0]
        grain = torch.randn(len(noisy), *pixels.shape[1:], generator=generator, device=pixels.device)
        pixels = pixels.index_add(0, noisy, grain * columns["noise"][noisy][:, None, None, None])
    return pixels


def _cut_out(pixels: Tensor, columns: dict[str, Tensor]) -> Tensor:
    if not columns["cutout"].any():
        return pixels
    side = pixels.shape[-1]
    places = torch.arange(side, device=pixels.device) / side
    half = columns["cutout"][:, None] / 2
    across = (places - columns["cutout_x"][:, None]).abs() < half  # (n, S)
    down = (places - columns["cutout_y"][:, None]).abs() < half
    return pixels * ~(down[:, None, :, None] & across[:, None, None, :])
