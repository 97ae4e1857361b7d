"""Batches for training and validation, of crops or of cached features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blastscope.train.augment import augment, draw_augmentations
from blastscope.train.bagging import Bag, sample_epoch
from blastscope.train.config import AugmentConfig

Inputs = NDArray[np.uint8] | NDArray[np.float32]  # crops (N, S, S, 3), or features (N, F) that frozen networks gave


class Batch(NamedTuple):
    """What one step of training takes."""

    inputs: Tensor
    labels: Tensor  # (n,) class indices
    nuisance: Tensor | None = None  # (n,) float32, what the margin is not to follow (`trainer.nuisance_covariance`)


@dataclass(frozen=True)
class TrainingBatches:
    """One epoch after the other over a bag.

    Everything random is a pure function of (seed, epoch), so that a resumed run goes on exactly where it was cut off. `seed`
    holds the run's seed and the stage's number.
    """

    inputs: Inputs
    labels: NDArray[np.int64]  # a class index for each row of the inputs
    bag: Bag
    batch_size: int
    seed: tuple[int, ...]
    chance: NDArray[np.float64] | None = None
    images_per_epoch: int | None = None
    augment: AugmentConfig | None = None  # None: the inputs as they are
    nuisance: NDArray[np.float32] | None = None  # a number for each row of the inputs
    share: tuple[int, int] = field(default=(0, 1))  # this process's rank and how many there are

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        images = self.images_per_epoch or len(self.bag)
        # a last batch of one image has no spread for batch-norm to divide by
        return images // self.batch_size + (images % self.batch_size > self.share[1])

    def epoch(self, number: int, device: torch.device) -> Iterator[Batch]:
        """The batches of epoch `number`; of each batch this process's share."""
        rng = np.random.default_rng([*self.seed, number])
        order = sample_epoch(self.chance, len(self.bag), self.images_per_epoch, rng)
        table = draw_augmentations(self.augment, self.bag.augmented[order], rng) if self.augment else None
        rank, world = self.share
        for step in range(self.steps):
            places = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(order)))
            places = places[: len(places) // world * world][rank::world]  # alike for all: gradients are averaged over processes
            rows = self.bag.cells[order[places]]
            inputs = self.inputs[rows]
            if table is not None:
                inputs = augment(inputs.astype(np.uint8, copy=False), table[places], rng)
            nuisance = None if self.nuisance is None else torch.from_numpy(self.nuisance[rows]).to(device)
            yield Batch(torch.from_numpy(inputs).to(device), torch.from_numpy(self.labels[rows]).to(device), nuisance)


@dataclass(frozen=True)
class ValidationBatches:
    """The validation cells in their order, each as it is."""

    inputs: Inputs
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    batch_size: int

    def __len__(self) -> int:
        return len(self.rows)

    def all(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels), every cell once."""
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            yield torch.from_numpy(self.inputs[rows]).to(device), torch.from_numpy(self.labels[rows]).to(device)


def seed_of(*numbers: int) -> int:
    """One seed for PyTorch out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] % 2**63)
