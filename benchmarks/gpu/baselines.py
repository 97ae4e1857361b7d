"""PyTorch on the GPU: three separate models with the crop on the CPU, which all ratios are of, and the fused network compiled.

The compiled network also runs behind our crop kernels, bound to our memory: on a GPU that no other engine supports, that row is
the road from pixels to call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.contenders import crop_all
from blastscope.benchmarks.interleaved_timing import Answer, Image
from blastscope.runtime.backends.nvidia.bound_network import BatchBinding, ExecutionContext
from blastscope.runtime.backends.protocol import ANSWER_SHAPES, PLAIN_OUTPUT
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.types import CLASSES, VOTERS, ClassName

EAGER = "fp32/three PyTorch models"
COMPILED = "fp16/compiled PyTorch"
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # crops (N, S, S, 3) to probabilities (N, 3, 2)


def require_torch(ordinal: int) -> str:
    """PyTorch's name of the GPU. Raises `DeviceError`."""
    try:
        import torch
    except ImportError as error:
        raise DeviceError("PyTorch is not installed: pip install 'blastscope[train]'") from error
    if not torch.cuda.is_available():
        raise DeviceError(f"PyTorch {torch.__version__} has no CUDA here")
    return str(torch.cuda.get_device_name(ordinal))


def three_models(run: Path, where: str) -> Infer:
    """The three models of `run` on PyTorch's device `where`, one after the other, as they were trained: fp32, eager."""
    import torch

    from blastscope.train.ensemble_checkpoint import load_ensemble

    device = torch.device(where)
    ensemble = load_ensemble(run).ensemble
    models = [ensemble.voter(name).eval().to(device) for name in VOTERS]

    def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        there = torch.from_numpy(crops).to(device)
        with torch.inference_mode():
            logits = torch.stack([model(there) for model in models], dim=1)
            return np.asarray(logits.softmax(dim=-1).cpu().numpy(), np.float32)  # waits for the GPU

    return infer


def with_host_crop(infer: Infer, spec: CropSpecification) -> Answer:
    """Images to labels, the crop on the CPU."""

    def answer(images: Sequence[Image]) -> list[ClassName]:
        return [CLASSES[label] for label in vote(infer(crop_all(images, spec))).label]

    return answer


class CompiledNetwork:
    """The fused ensemble of `run` in fp16, compiled, as a `Network`: PyTorch captures it in a CUDA graph on our stream."""

    def __init__(self, run: Path, ordinal: int) -> None:
        import torch

        from blastscope.train.ensemble_checkpoint import load_ensemble

        self._torch = torch
        self._device = torch.device("cuda", ordinal)
        ensemble: Any = load_ensemble(run).ensemble.eval().to(self._device)
        ensemble = ensemble.to(memory_format=torch.channels_last)
        self._forward: Any = torch.compile(ensemble, dynamic=False)
        self._config = load_ensemble(run).config

    def bind(self, place: BatchBinding) -> ExecutionContext:
        """A pass at `place`."""
        torch, side = self._torch, self._config.crop.side_px
        crops = torch.as_tensor(_Shown(place.crops, (place.batch, side, side, 3), "|u1"), device=self._device)
        answers = torch.as_tensor(_Shown(place.answers, (place.batch, 3, 2), "<f4"), device=self._device)
        stream = torch.cuda.ExternalStream(place.stream, device=self._device)

        def run() -> None:
            with torch.inference_mode(), torch.autocast("cuda", torch.float16):
                answers.copy_(self._forward(crops).float().softmax(dim=-1))

        with torch.cuda.device(self._device):
            with torch.cuda.stream(stream):
                for _ in range(3):  # compiles, and tries kernels
                    run()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                run()
        return _GraphPass(torch, graph, stream)

    def close(self) -> None:
        """Lets go of the network."""
        self._forward = None


class _GraphPass:
    # a graph can't be launched into a capture: it goes between the two recordings of ours
    recordable = False
    answer_shape = ANSWER_SHAPES[PLAIN_OUTPUT]

    def __init__(self, torch: Any, graph: Any, stream: Any) -> None:
        self._torch, self._graph, self._stream = torch, graph, stream

    def enqueue(self) -> None:
        with self._torch.cuda.stream(self._stream):
            self._graph.replay()

    def close(self) -> None:
        self._graph = None


class _Shown:
    """Our memory as PyTorch takes it."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: str) -> None:
        self.__cuda_array_interface__ = {"shape": shape, "typestr": kind, "data": (address, False), "version": 3}
