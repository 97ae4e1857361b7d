"""The crop kernels alone: compared with OpenCV byte by byte, and timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from blastscope.benchmarks.gpu.schema import CropCheck, GpuRow, with_timings
from blastscope.benchmarks.interleaved_timing import Contender, Image, TimingConfig, interleaved_times_ms
from blastscope.runtime.backends.nvidia.bound_network import BatchBinding, ExecutionContext
from blastscope.runtime.backends.nvidia.pixel_pipeline import PixelPipeline
from blastscope.runtime.backends.protocol import ANSWER_SHAPES, PLAIN_OUTPUT
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.memory import DeviceImage
from blastscope.runtime.cuda.protocol import Gpu
from blastscope.runtime.types import ClassName

OPENCV = "OpenCV on the CPU"


class NoNetwork:
    """A network that does nothing, so that a pipeline runs the crop alone."""

    def bind(self, binding: BatchBinding) -> ExecutionContext:
        """A context that enqueues nothing."""
        return _EmptyContext()

    def close(self) -> None:
        """Does nothing: there is nothing to free."""


class _EmptyContext:
    recordable = True
    answer_shape = ANSWER_SHAPES[PLAIN_OUTPUT]

    def enqueue(self) -> None:
        pass

    def close(self) -> None:
        pass


def compare_crops(pipeline: PixelPipeline, images: Sequence[Image], spec: CropSpecification, source: str) -> CropCheck:
    """Compares the kernels' crops with OpenCV's.

    Parameters
    ----------
    pipeline
        The crop kernels, with `NoNetwork`. Its largest batch size is used.
    images
        Uint8 (H, W, 3) RGB.
    spec
        How images are cropped.
    source
        Where the images come from, for the report.

    Returns
    -------
    CropCheck
        The number of images whose crop, box or refusal differs in anything.
    """
    size, different = max(pipeline.batches), 0
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        found, crops = pipeline.infer_images(batch).found, pipeline.crops(batch)
        for image, one, pixels in zip(batch, found, crops, strict=True):
            expected = crop_cell(image, spec)
            if isinstance(expected, Crop):
                same = one == expected.box and np.array_equal(pixels, expected.pixels)
            else:
                same = one == expected
            different += not same
    return CropCheck(source=source, images=len(images), different=different)


def time_crops(
    gpu: Gpu, pipeline: PixelPipeline, images: Sequence[Image], spec: CropSpecification, timing: TimingConfig
) -> list[GpuRow]:
    """Times the kernels from host memory and from device memory, interleaved with OpenCV.

    Parameters
    ----------
    gpu
        Where the images are copied to.
    pipeline
        The crop kernels, with `NoNetwork`.
    images
        Uint8 (H, W, 3) RGB: one batch.
    spec
        How images are cropped.
    timing
        How many rounds, and how long they are.

    Returns
    -------
    list of GpuRow
        OpenCV's row and three of the kernels, whose ratios compare with OpenCV.
    """

    def opencv(batch: Sequence[Image]) -> list[ClassName | None]:
        for image in batch:
            crop_cell(image, spec)
        return []

    def from_host(batch: Sequence[Image]) -> list[ClassName | None]:
        pipeline.infer_images(batch)
        return []

    with device_copies(gpu, images) as copies:

        def from_device(batch: Sequence[Image]) -> list[ClassName | None]:
            pipeline.infer_images(copies)
            return []

        def repeat(batch: Sequence[Image]) -> list[ClassName | None]:
            pipeline.repeat(len(copies))  # of the contender before it: the images on the device
            return []

        # in this order: the last one repeats the work of the one before it
        contenders = [
            Contender(OPENCV, opencv),
            Contender("kernels, from host memory", from_host),
            Contender("kernels, from device memory", from_device),
            Contender("kernels, the recorded work alone", repeat),
        ]
        times = interleaved_times_ms(contenders, images, timing)
    rows = [GpuRow(network="crop", scope="crop", engine=one.name, batch=len(images)) for one in contenders]
    baseline = (OPENCV, times[OPENCV])
    return [with_timings(row, times[row.engine], None if row.engine == OPENCV else baseline) for row in rows]


@contextmanager
def device_copies(gpu: Gpu, images: Sequence[Image]) -> Iterator[list[DeviceImage]]:
    """Copies of `images`, uint8 (H, W, 3), in the GPU's memory, which are freed at the end."""
    copies: list[DeviceImage] = []
    try:
        for image in images:
            with gpu.current():
                stream, pinned, address = gpu.open_stream(), gpu.pinned(image.nbytes), gpu.allocate(image.nbytes)
                copies.append(DeviceImage(address, image.shape, (image.shape[1] * 3, 3, 1), None, None))
                pinned[...] = image.reshape(-1)
                gpu.upload(address, pinned, stream)
                gpu.wait(stream)
                gpu.unpin(pinned)
                gpu.close_stream(stream)
        yield copies
    finally:
        with gpu.current():
            for copy in copies:
                gpu.free(copy.address)
