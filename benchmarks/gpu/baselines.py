"""PyTorch on the GPU: three separate models with the crop on the CPU, which are the baseline, and the compiled fused network.

The compiled network runs behind the runtime's crop kernels, on its device memory: on a GPU that no other engine supports it is
the only one from pixels to label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.contenders import vote_labels
from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Image
from blastscope.benchmarks.models import crop_images
from blastscope.runtime.backends.nvidia.batch_executor import BatchBinding, ExecutionContext
from blastscope.runtime.backends.protocol import ANSWER_SHAPES, PLAIN_OUTPUT
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.types import VOTERS, ClassName

TORCH_BASELINE = "fp32/three PyTorch models"  # all ratios compare with it
TORCH_COMPILED = "fp16/compiled PyTorch"
InferFunction = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # crops (N, S, S, 3) to probabilities (N, 3, 2)


def require_torch(ordinal: int) -> str:
    """PyTorch's name of the GPU with this number.

    Raises
    ------
    DeviceError
        PyTorch isn't installed, or has no CUDA.
    """
    try:
        import torch
    except ImportError as error:
        raise DeviceError("PyTorch is not installed: pip install 'blastscope[train]'") from error
    if not torch.cuda.is_available():
        raise DeviceError(f"PyTorch {torch.__version__} has no CUDA here")
    return str(torch.cuda.get_device_name(ordinal))


def separate_torch_models(run: Path, device_name: str) -> InferFunction:
    """The three models of `run`, one after the other, as they were trained: fp32, eager.

    Parameters
    ----------
    run
        Folder of a trained ensemble.
    device_name
        PyTorch's, such as 'cuda:0'.

    Returns
    -------
    InferFunction
        Crops, uint8 (N, S, S, 3), to probabilities, float32 (N, 3, 2), both in host memory.
    """
    import torch

    from blastscope.train.ensemble_checkpoint import load_ensemble

    device = torch.device(device_name)
    ensemble = load_ensemble(run).ensemble
    models = [ensemble.voter(name).eval().to(device) for name in VOTERS]

    def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        uploaded = torch.from_numpy(crops).to(device)
        with torch.inference_mode():
            logits = torch.stack([model(uploaded) for model in models], dim=1)
            return np.asarray(logits.softmax(dim=-1).cpu().numpy(), np.float32)  # waits for the GPU

    return infer


def with_host_crop(infer: InferFunction, spec: CropSpecification) -> ClassifyFunction:
    """Images to labels, with the crop on the CPU."""

    def classify(images: Sequence[Image]) -> list[ClassName]:
        return vote_labels(infer(crop_images(images, spec)))

    return classify


class CompiledNetwork:
    """The fused ensemble of a run in fp16, compiled, as a `Network`: PyTorch captures it in a CUDA graph.

    Parameters
    ----------
    run
        Folder of a trained ensemble.
    ordinal
        Number of the GPU.
    """

    def __init__(self, run: Path, ordinal: int) -> None:
        import torch

        from blastscope.train.ensemble_checkpoint import load_ensemble

        self._torch = torch
        self._device = torch.device("cuda", ordinal)
        ensemble: Any = load_ensemble(run).ensemble.eval().to(self._device)
        ensemble = ensemble.to(memory_format=torch.channels_last)
        self._forward: Any = torch.compile(ensemble, dynamic=False)
        self._config = load_ensemble(run).config

    def bind(self, binding: BatchBinding) -> ExecutionContext:
        """What runs the network on the device memory of `binding`."""
        torch, side = self._torch, self._config.crop.side_px
        crops = torch.as_tensor(_CudaArray(binding.crops, (binding.batch, side, side, 3), "|u1"), device=self._device)
        probabilities = torch.as_tensor(_CudaArray(binding.answers, (binding.batch, 3, 2), "<f4"), device=self._device)
        stream = torch.cuda.ExternalStream(binding.stream, device=self._device)

        def run() -> None:
            with torch.inference_mode(), torch.autocast("cuda", torch.float16):
                probabilities.copy_(self._forward(crops).float().softmax(dim=-1))

        with torch.cuda.device(self._device):
            with torch.cuda.stream(stream):
                for _ in range(3):  # compiles, and tries kernels
                    run()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                run()
        return _TorchGraph(torch, graph, stream)

    def close(self) -> None:
        """Frees the network."""
        self._forward = None


class _TorchGraph:
    # a graph can't be launched into a capture: it runs between the two captured parts of the pipeline
    recordable = False
    answer_shape = ANSWER_SHAPES[PLAIN_OUTPUT]

    def __init__(self, torch: Any, graph: Any, stream: Any) -> None:
        self._torch, self._graph, self._stream = torch, graph, stream

    def enqueue(self) -> None:
        with self._torch.cuda.stream(self._stream):
            self._graph.replay()

    def close(self) -> None:
        self._graph = None


class _CudaArray:
    """Device memory as PyTorch accepts it: `__cuda_array_interface__`."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str) -> None:
        self.__cuda_array_interface__ = {"shape": shape, "typestr": typestr, "data": (address, False), "version": 3}
