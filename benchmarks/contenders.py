"""The contenders of a comparison: this runtime, and PyTorch models run as PyTorch's documentation advises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope import Scope
from blastscope.benchmarks.interleaved_timing import Answer, Image
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import CLASSES, VOTERS, ClassName


def separate_models(run: Path, *, threads: int | None = None, compiled: bool = False) -> Answer:
    """The three models of `run` in PyTorch, each on its own, as they were trained: four backbone passes a cell.

    Crops on the CPU as the runtime does; weights and pixels channels-last; no gradients. `compiled` by torch.compile with
    frozen weights, which takes minutes where its cache is cold.
    """
    ensemble, spec = _loaded(run, threads)
    return _answer([ready(ensemble.voter(name), compiled=compiled) for name in VOTERS], spec)


def fused_model(run: Path, *, threads: int | None = None, compiled: bool = False) -> Answer:
    """All three voters of `run` as one PyTorch network: two backbone passes a cell."""
    ensemble, spec = _loaded(run, threads)
    return _answer([ready(ensemble, compiled=compiled)], spec)


def ready(model: Any, *, compiled: bool) -> Any:
    """A model as PyTorch's tuning guide advises for inference on a CPU."""
    import torch

    model = model.eval().to(memory_format=torch.channels_last)
    # frozen: weights become constants, and convolutions are packed and fused; without it torch.compile leaves them as they are
    return torch.compile(model, dynamic=False, options={"freezing": True}) if compiled else model


def _loaded(run: Path, threads: int | None) -> tuple[Any, CropSpecification]:
    import torch

    from blastscope.train.ensemble_checkpoint import load_ensemble

    torch.set_num_threads(threads or usable_threads())
    trained = load_ensemble(run)
    return trained.ensemble, trained.config.crop


def _answer(models: Sequence[Any], spec: CropSpecification) -> Answer:
    import torch

    def answer(images: Sequence[Image]) -> list[ClassName]:
        crops = torch.from_numpy(crop_all(images, spec))
        with torch.inference_mode():
            logits = [model(crops).reshape(len(crops), -1, len(CLASSES)) for model in models]
            table = torch.cat(logits, dim=1).softmax(dim=-1)  # (N, 3, 2)
        return labels_of(table.numpy())

    return answer


def handle(scope: Scope) -> Answer:
    """The runtime: one image through `classify`, more through `classify_many`."""

    def answer(images: Sequence[Image]) -> list[ClassName | None]:
        if len(images) == 1:
            return [scope.classify(images[0]).label]
        return [prediction.label for prediction in scope.classify_many(images)]

    return answer


def labels_of(probabilities: NDArray[np.float32], *, partial: bool = False) -> list[ClassName]:
    """The vote on probabilities (N, 3, 2); with `partial` NaN stands for voters that were left out."""
    return [CLASSES[index] for index in vote(probabilities, partial=partial).label]


def crop_all(images: Sequence[Image], spec: CropSpecification) -> NDArray[np.uint8]:
    """Crops (N, S, S, 3) of images that are known to be cells."""
    crops = [crop_cell(image, spec) for image in images]
    return np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)])
