"""Compares each graph's outputs with PyTorch's, and derives the tolerance of each execution.

The rule, one line per way of execution, d being the largest difference of a probability measured on the crops at hand:

    fp32 graph in f32    4 d of ONNX Runtime, at least 1e-4: other engines sum in another order
    fp32 graph in bf16   2 d of PyTorch with weights and every layer's output rounded to bf16, at least 0.02
    fp32 graph in f16    4 d of the fp16 graph, at least 0.005: the same rounding of weights and activations
    fp16 graph in f32    4 d of ONNX Runtime, which has no fp16 on CPUs and computes the rounded graph in fp32, at least 0.002
    fp16 graph in f16    4 d of the same, at least 0.005
    fp16 graph in bf16   the sum of the fp32 graph's in bf16 and d

The factors make room for crops that were not measured, the floors for engines that fuse and round elsewhere. The fp32 graph
must repeat PyTorch within 1e-3, or the export fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blastscope.calibration.evaluation import BATCH, ReferenceRunner, batches, voter_margins
from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.errors import EngineError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.types import Execution

Tolerances = dict[Execution, float]
MAX_FP32_DIFFERENCE = 1e-3  # both compute in fp32: what differs by more is not the same network


def torch_probabilities(graph: nn.Module, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities that PyTorch gives for `crops` (N, S, S, 3) in fp32."""
    return torch_outputs(graph, crops)[0]


def torch_outputs(graph: nn.Module, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Probabilities and, of a graph that measures it, novelty (N,) that PyTorch gives for `crops` (N, S, S, 3) in fp32."""
    probabilities, novelty = [], []
    with torch.inference_mode():
        for batch in batches(crops, BATCH):
            answer: Any = graph(torch.from_numpy(batch))
            probabilities.append((answer if isinstance(answer, Tensor) else answer.probabilities).numpy())
            if hasattr(answer, "novelty"):
                novelty.append(answer.novelty.numpy())
    return np.concatenate(probabilities), np.concatenate(novelty) if novelty else None


def require_finite_layers(graph: nn.Module, crops: NDArray[np.uint8]) -> None:
    """Raises `EngineError`, which names the layer, where one gives NaN or an infinite number for `crops`.

    Later layers can hide it, each engine's in a way of its own: ReLU makes 0 of NaN in some, int8 any number.
    """
    names = {module: name for name, module in graph.named_modules() if not any(module.children())}

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            raise EngineError(f"layer '{names[module]}' gives what is not a number: the training diverged, train it anew")

    hooks = [module.register_forward_hook(check) for module in names]
    try:
        torch_outputs(graph, crops)
    finally:
        for hook in hooks:
            hook.remove()


def bf16_probabilities(graph: nn.Module, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What an engine answers about that multiplies in bf16 and sums in fp32: weights and layers' outputs are rounded.

    PyTorch's own bf16 says the same, but takes minutes on a CPU without bf16 instructions.
    """
    weights = [weight for weight in graph.parameters() if weight.dtype == torch.float32]
    kept = [weight.data for weight in weights]
    leaves = [module for module in graph.modules() if not any(module.children())]
    hooks = [module.register_forward_hook(_round_output) for module in leaves]
    try:
        for weight in weights:
            weight.data = _rounded(weight.data)
        return torch_probabilities(graph, crops)
    finally:
        for hook in hooks:
            hook.remove()
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data


def _round_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return _rounded(output) if isinstance(output, Tensor) and output.dtype == torch.float32 else output


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).to(torch.float32)


def max_difference(answers: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The largest difference of a probability. Raises `EngineError` where an answer is not a number."""
    if not np.isfinite(answers).all():
        raise EngineError("the graph answers with something that is not a number")
    return float(np.abs(answers.astype(np.float64) - reference).max())


def check_fp32(content: bytes, models: GraphModels, crops: NDArray[np.uint8], reference: NDArray[np.float32]) -> float:
    """The largest difference of an fp32 graph's probabilities from PyTorch's.

    Parameters
    ----------
    content : bytes
        The ONNX file.
    models : {'ensemble', 'a', 'b', 'combined'}
        What it holds.
    crops : (N, S, S, 3) uint8 array
        What both are asked of, RGB.
    reference : float32 array
        PyTorch's probabilities: (N, 3, 2) of the ensemble, (N, 2) of one voter.

    Returns
    -------
    float
        The largest difference of a probability.

    Raises
    ------
    EngineError
        The two are not the same network.
    """
    answers = ReferenceRunner(content).all(crops)
    difference = max_difference(answers["probabilities"], reference)
    if difference > MAX_FP32_DIFFERENCE:
        raise EngineError(
            f"the ONNX graph of '{models}' differs from PyTorch by {difference:.2g}, more than {MAX_FP32_DIFFERENCE:g}"
        )
    if models == "ensemble":
        _check_vote(answers)
    return difference


def _check_vote(answers: dict[str, NDArray[Any]]) -> None:
    votes = vote(answers["probabilities"])
    # two margins within rounding of each other may be told apart on one side only
    sizes = np.sort(np.abs(voter_margins(answers["probabilities"])), axis=1)
    clear = sizes[:, -1] - sizes[:, -2] > 1e-4
    if ((answers["label"] != votes.label) | (answers["voter"] != votes.voter))[clear].any():
        raise EngineError("the vote in the ONNX graph differs from runtime/inference/voting.py")


def fp32_tolerances(f32: float, bf16: float, fp16: float | None) -> Tolerances:
    """The tolerance of each execution of an fp32 graph.

    Parameters
    ----------
    f32, bf16 : float
        Its own largest difference of a probability from PyTorch's, in fp32 and in bf16.
    fp16 : float or None
        That of the fp16 graph, if there is one.

    Returns
    -------
    dict of str to float
        By execution.
    """
    found: Tolerances = {"f32": max(4 * f32, 1e-4), "bf16": max(2 * bf16, 0.02)}
    if fp16 is not None:
        found["f16"] = max(4 * fp16, 0.005)
    return _at_most_one(found)


def fp16_tolerances(fp16: float, bf16: float) -> Tolerances:
    """Of the fp16 graph, from its own distance and that of bf16."""
    return _at_most_one({"f32": max(4 * fp16, 0.002), "f16": max(4 * fp16, 0.005), "bf16": max(2 * bf16, 0.02) + fp16})


def _at_most_one(tolerances: Tolerances) -> Tolerances:
    return {execution: min(value, 1.0) for execution, value in tolerances.items()}
