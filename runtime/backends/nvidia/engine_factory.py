"""An engine on a GPU: lanes that share one network, and the door for images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

import numpy as np

from blastscope.runtime.backends.nvidia.bound_network import Network
from blastscope.runtime.backends.nvidia.pixel_pipeline import PixelPipeline
from blastscope.runtime.backends.protocol import Engine, EngineOptions, ImageInput
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.memory import DeviceArrayImporter, Image, on_device
from blastscope.runtime.cuda.protocol import Gpu
from blastscope.runtime.errors import DeviceError, EngineError
from blastscope.runtime.io.image import check_array
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import Execution

LANES = 2  # for throughput: one lane's images are copied while the other's network works


def make_engine(
    gpu: Gpu,
    load: Callable[[], Network],
    options: EngineOptions,
    *,
    name: str,
    execution: Execution,
    digest: str,
    notes: tuple[str, ...] = (),
) -> Engine:
    """The network that `load` gives, in as many lanes as the workload wants, its crops compared with the host's first.

    Raises `EngineError`, `DeviceError`s; what was taken until then is given back.
    """
    if options.crop is None:
        raise EngineError(f"{name}: the crop's specification is needed")
    lanes = 1 if options.workload == "latency" else min(LANES, options.threads or LANES)
    with ExitStack() as held:
        with gpu.current():
            network = load()
        held.callback(_close_network, gpu, network)
        intake = DeviceArrayImporter(gpu)
        held.callback(intake.close)
        pipelines = []
        for _ in range(lanes):
            pipelines.append(PixelPipeline(name, gpu, network, options.crop))
            held.callback(pipelines[-1].close)
        check_crops(pipelines[0], options.crop)
        closing = held.pop_all()
    return Engine(
        lanes=tuple(pipelines),
        backend=name,
        device=f"cuda:{gpu.found.ordinal} {gpu.found.name}",
        execution=execution,
        digest=digest,
        batch=max(pipelines[0].batches),
        notes=(*notes, *pipelines[0].notes),
        image_input=ImageInput(tuple(pipelines), _Door(intake).check, _kept),
        on_close=closing.close,
    )


def check_crops(pipeline: PixelPipeline, spec: CropSpecification) -> None:
    """Raises `EngineError` unless the kernels, as this GPU runs them, crop a drawn cell as the host does, to the byte."""
    image = synthetic_cell(1)
    expected = crop_cell(image, spec)
    (found,) = pipeline.infer_images([image]).found
    wanted = expected.box if isinstance(expected, Crop) else expected
    same = found == wanted and (not isinstance(expected, Crop) or np.array_equal(pipeline.crops([image])[0], expected.pixels))
    if not same:
        raise EngineError(f"{pipeline.name}: the crop kernels differ from the host's crop on this GPU: say device='cpu'")


class _Door:
    """Checks images as they come in. Holds no lane, so that a forgotten engine can be collected."""

    def __init__(self, intake: DeviceArrayImporter) -> None:
        self._intake = intake

    def check(self, image: object) -> Image:
        if not isinstance(image, np.ndarray) and on_device(image):
            return self._intake.take(image)
        return check_array(image)


def _kept(image: Image) -> Image:
    return image.copy() if isinstance(image, np.ndarray) else image


def _close_network(gpu: Gpu, network: Network) -> None:
    with suppress(DeviceError), gpu.current():
        network.close()
