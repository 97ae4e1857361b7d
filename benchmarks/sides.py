"""The contenders: three separate PyTorch models, one after the other, and this runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope import Scope
from blastscope.benchmarks.turns import Answer, Image
from blastscope.runtime.classes import CLASSES, VOTERS, ClassName
from blastscope.runtime.crop import Crop, CropSpec, crop_cell
from blastscope.runtime.vote import vote


def separate_models(run: Path) -> Answer:
    """The three models of `run` in PyTorch, each on its own, as they were trained: four backbone passes a cell.

    Crops on the CPU as the runtime does; channels-last follows from the crops' own layout; no gradients.
    """
    import torch

    from blastscope.train.checkpoint import load_ensemble

    trained = load_ensemble(run)
    models = [trained.ensemble.voter(name).eval() for name in VOTERS]
    spec = trained.config.crop

    def answer(images: Sequence[Image]) -> list[ClassName]:
        crops = torch.from_numpy(crop_all(images, spec))
        with torch.inference_mode():
            logits = torch.stack([model(crops) for model in models], dim=1)  # (N, 3, 2)
        return [CLASSES[index] for index in vote(logits.softmax(dim=-1).numpy()).label]

    return answer


def handle(scope: Scope) -> Answer:
    """The runtime: one image through `classify`, more through `classify_many`."""

    def answer(images: Sequence[Image]) -> list[ClassName | None]:
        if len(images) == 1:
            return [scope.classify(images[0]).label]
        return [prediction.label for prediction in scope.classify_many(images)]

    return answer


def crop_all(images: Sequence[Image], spec: CropSpec) -> NDArray[np.uint8]:
    """Crops (N, S, S, 3) of images that are known to be cells."""
    crops = [crop_cell(image, spec) for image in images]
    return np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)])
