"""The PyTorch contenders, run as PyTorch's documentation advises, and the crop and the vote that all contenders share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Image
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import CLASSES, VOTERS, ClassName


def separate_torch_models(run: Path, *, threads: int | None = None, compiled: bool = False) -> ClassifyFunction:
    """The three models of `run` in PyTorch, one after the other, as they were trained: four backbone passes a cell.

    Crops are made on the CPU as the runtime makes them; weights and pixels are channels-last, and no gradients are kept.

    Parameters
    ----------
    run
        Folder of a trained ensemble.
    threads
        Threads of PyTorch; None: one for each core that this process may use.
    compiled
        Whether torch.compile compiles the models with frozen weights, which takes minutes where its cache is empty.

    Returns
    -------
    ClassifyFunction
        Images, uint8 (H, W, 3) RGB, to one label each.
    """
    ensemble, spec = _load_run(run, threads)
    return _torch_classifier([prepare_for_inference(ensemble.voter(name), compiled=compiled) for name in VOTERS], spec)


def fused_torch_model(run: Path, *, threads: int | None = None, compiled: bool = False) -> ClassifyFunction:
    """All three voters of `run` as one PyTorch network: two backbone passes a cell.

    Parameters and return value are those of `separate_torch_models`.
    """
    ensemble, spec = _load_run(run, threads)
    return _torch_classifier([prepare_for_inference(ensemble, compiled=compiled)], spec)


def prepare_for_inference(model: Any, *, compiled: bool) -> Any:
    """A torch module as PyTorch's tuning guide advises for inference on a CPU: evaluation mode, channels-last weights."""
    import torch

    model = model.eval().to(memory_format=torch.channels_last)
    # frozen: weights become constants, and convolutions are packed and fused; without it torch.compile leaves them as they are
    return torch.compile(model, dynamic=False, options={"freezing": True}) if compiled else model


def _load_run(run: Path, threads: int | None) -> tuple[Any, CropSpecification]:
    import torch

    from blastscope.train.ensemble_checkpoint import load_ensemble

    torch.set_num_threads(threads or usable_threads())
    trained = load_ensemble(run)
    return trained.ensemble, trained.config.crop


def _torch_classifier(models: Sequence[Any], spec: CropSpecification) -> ClassifyFunction:
    import torch

    def classify(images: Sequence[Image]) -> list[ClassName]:
        crops = torch.from_numpy(crop_images(images, spec))
        with torch.inference_mode():
            logits = [model(crops).reshape(len(crops), -1, len(CLASSES)) for model in models]
            probabilities = torch.cat(logits, dim=1).softmax(dim=-1)  # (N, 3, 2)
        return vote_labels(probabilities.numpy())

    return classify


def vote_labels(probabilities: NDArray[np.float32], *, partial: bool = False) -> list[ClassName]:
    """The label of each cell by the vote.

    Parameters
    ----------
    probabilities
        Float32 (N, 3, 2): cells, voters, classes.
    partial
        Whether NaN stands for voters that were not run.

    Returns
    -------
    list of str
        N labels.
    """
    return [CLASSES[index] for index in vote(probabilities, partial=partial).label]


def crop_images(images: Sequence[Image], spec: CropSpecification) -> NDArray[np.uint8]:
    """The crops, uint8 (N, S, S, 3) RGB, of images that are known to be cells; an image that is refused has none."""
    crops = [crop_cell(image, spec) for image in images]
    return np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)])
