"""The crop alone: to the byte against OpenCV, and its time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from blastscope.benchmarks.gpu.schema import CropCheck, GpuRow, measured
from blastscope.benchmarks.interleaved_timing import Image, Pace, Side, time_in_turn
from blastscope.runtime.backends.nvidia.bound_network import BatchBinding, ExecutionContext
from blastscope.runtime.backends.nvidia.pixel_pipeline import PixelPipeline
from blastscope.runtime.backends.protocol import ANSWER_SHAPES, PLAIN_OUTPUT
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.memory import DeviceImage
from blastscope.runtime.cuda.protocol import Gpu
from blastscope.runtime.types import ClassName

OPENCV = "OpenCV on the CPU"


class NoNetwork:
    """A network that does nothing, so that what is left is the crop."""

    def bind(self, place: BatchBinding) -> ExecutionContext:
        """A pass that queues nothing."""
        return _NoPass()

    def close(self) -> None:
        """Nothing is held."""


class _NoPass:
    recordable = True
    answer_shape = ANSWER_SHAPES[PLAIN_OUTPUT]

    def enqueue(self) -> None:
        pass

    def close(self) -> None:
        pass


def compare_crops(pipeline: PixelPipeline, images: Sequence[Image], spec: CropSpecification, source: str) -> CropCheck:
    """Every image through the kernels and through OpenCV, in batches of the largest size."""
    size, different = max(pipeline.batches), 0
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        found, crops = pipeline.look(batch).found, pipeline.crops(batch)
        for image, one, pixels in zip(batch, found, crops, strict=True):
            wanted = crop_cell(image, spec)
            same = one == wanted.box and np.array_equal(pixels, wanted.pixels) if isinstance(wanted, Crop) else one == wanted
            different += not same
    return CropCheck(source=source, images=len(images), different=different)


def time_crops(gpu: Gpu, pipeline: PixelPipeline, images: Sequence[Image], spec: CropSpecification, pace: Pace) -> list[GpuRow]:
    """From host memory, and from device memory, in turn with OpenCV."""

    def opencv(chosen: Sequence[Image]) -> list[ClassName | None]:
        for image in chosen:
            crop_cell(image, spec)
        return []

    def uploaded(chosen: Sequence[Image]) -> list[ClassName | None]:
        pipeline.look(chosen)
        return []

    with resident(gpu, images) as there:

        def on_device(chosen: Sequence[Image]) -> list[ClassName | None]:
            pipeline.look(there)
            return []

        def repeated(chosen: Sequence[Image]) -> list[ClassName | None]:
            pipeline.repeat(len(there))  # what stood beside it last: the images on the device
            return []

        # in this order: what is repeated is the work of the side before it
        sides = [
            Side(OPENCV, opencv),
            Side("kernels, from host memory", uploaded),
            Side("kernels, from device memory", on_device),
            Side("kernels, the recorded work alone", repeated),
        ]
        times = time_in_turn(sides, images, pace)
    rows = [GpuRow(network="crop", what="crop", engine=side.name, batch=len(images)) for side in sides]
    peer = (OPENCV, times[OPENCV])
    return [measured(row, times[row.engine], None if row.engine == OPENCV else peer) for row in rows]


@contextmanager
def resident(gpu: Gpu, images: Sequence[Image]) -> Iterator[list[DeviceImage]]:
    """Copies of `images` in the GPU's memory."""
    held: list[DeviceImage] = []
    try:
        for image in images:
            with gpu.current():
                stream, pinned, address = gpu.open_stream(), gpu.pinned(image.nbytes), gpu.allocate(image.nbytes)
                held.append(DeviceImage(address, image.shape, (image.shape[1] * 3, 3, 1), None, None))
                pinned[...] = image.reshape(-1)
                gpu.upload(address, pinned, stream)
                gpu.wait(stream)
                gpu.unpin(pinned)
                gpu.close_stream(stream)
        yield held
    finally:
        with gpu.current():
            for one in held:
                gpu.free(one.address)
