"""The steps of the GPU check: the crop by each specification, and each engine of each network. A failure is a finding too."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from blastscope.benchmarks.gpu.engines import EngineBenchmark, GpuBenchmarkConfig, error_summary, problem_rows
from blastscope.benchmarks.gpu_schema import CropCheck, Findings, GpuRow, with_timings
from blastscope.benchmarks.interleaved_timing import Contender, Image, TimingConfig, interleaved_times_ms
from blastscope.benchmarks.models import prepare_model
from blastscope.runtime.backends.nvidia.batch_executor import BatchBinding, ExecutionContext
from blastscope.runtime.backends.nvidia.engine_factory import PixelPipeline
from blastscope.runtime.backends.protocol import ANSWER_SHAPES, PLAIN_OUTPUT
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.cuda.memory import DeviceImage
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import ClassName, Refusal

logger = logging.getLogger(__name__)

OPENCV = "OpenCV on the CPU"
CROP = "crop"
# the paper's, and that of the shipped bundle
SPECIFICATIONS = {"fit": CropSpecification(), "keep": CropSpecification(side_px=144, scale="keep", window_px=288)}
TIMED_SPECIFICATION = "fit"


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


def step_name(network: str, engine: str) -> str:
    """The step that measures `engine` on `network`; or with network 'crop' the crop by the specification `engine`."""
    return f"{network} {engine}"


def failed_step(step: str, problem: str, config: GpuBenchmarkConfig) -> Findings:
    """The findings of a step that gave none: rows with the reason in place of figures."""
    network, _, engine = step.partition(" ")
    if network != CROP:
        return Findings(rows=problem_rows(network, engine, config, problem))
    source = f"{engine} to {SPECIFICATIONS[engine].side_px} px"
    check = CropCheck(source=source, images=0, different=0, problem=problem)
    row = GpuRow(network=CROP, scope="crop", engine="kernels", batch=1, problem=problem)
    timed = config.batches if engine == TIMED_SPECIFICATION else ()
    return Findings(crops=(check,), rows=tuple(row.model_copy(update={"batch": batch}) for batch in timed))


class StepRunner:
    """Runs steps on one GPU in this process. What several steps need is made once.

    Parameters
    ----------
    gpu
        Where the steps run.
    config
        What is measured, and for how long.
    data
        Folder of C-NMC cells; None: synthetic cells.
    """

    def __init__(self, gpu: Gpu, config: GpuBenchmarkConfig, data: Path | None) -> None:
        self._gpu, self._config, self._data = gpu, config, data
        self._benchmark: tuple[str, EngineBenchmark] | None = None  # of one network at a time: each fills the GPU's memory

    def run(self, step: str) -> Findings:
        """The findings of a step that `step_name` names. It raises nothing: an error becomes a finding."""
        network, _, engine = step.partition(" ")
        logger.info("%s", step)
        try:
            return self._check_crops(engine) if network == CROP else self._benchmark_of(network).measure(engine)
        except Exception as error:  # noqa: BLE001  a first run on a new GPU may fail in any way
            return failed_step(step, error_summary(error), self._config)

    def gpu_lost(self) -> bool:
        """Whether nothing on the GPU works any more in this process."""
        try:
            with self._gpu.current():
                self._gpu.check("looking at the GPU")
        except DeviceError:
            return True
        return False

    def _check_crops(self, name: str) -> Findings:
        """The kernels on all real cells or on synthetic ones, against OpenCV, and their times."""
        spec, config, rows = SPECIFICATIONS[name], self._config, list[GpuRow]()
        images = load_images(self._data, None)
        source = f"{'C-NMC' if self._data else 'drawn'}, {name} to {spec.side_px} px"
        pipeline = PixelPipeline(CROP, self._gpu, NoNetwork(), spec, batches=config.batches)
        try:
            check = compare_crops(pipeline, images, spec, source)
            if name == TIMED_SPECIFICATION:
                for batch in config.batches:
                    rows += time_crops(self._gpu, pipeline, self._images[:batch], spec, config.timing)
        except Exception as error:  # noqa: BLE001
            found = failed_step(step_name(CROP, name), error_summary(error), config)
            return found if not rows else found.model_copy(update={"rows": tuple(rows)})
        finally:
            pipeline.close()
        return Findings(crops=(check,), rows=tuple(rows))

    def _benchmark_of(self, network: str) -> EngineBenchmark:
        if self._benchmark is None or self._benchmark[0] != network:
            self._benchmark = None
            model = prepare_model(network, self._data)
            self._benchmark = (network, EngineBenchmark(self._gpu, model, self._images, self._config))
        return self._benchmark[1]

    @cached_property
    def _images(self) -> list[Image]:
        count = max(*self._config.batches, self._config.cells)
        return croppable_images(load_images(self._data, 2 * count), count)


def load_images(data: Path | None, count: int | None) -> list[Image]:
    """Images of cells, uint8 (H, W, 3) RGB.

    Parameters
    ----------
    data
        Folder of C-NMC cells; None: synthetic cells.
    count
        How many at most, drawn at random; None: all real ones, or 256 synthetic ones.
    """
    if data is None:
        return [cell.image for cell in synthetic_cells(count or 256, seed=0)]
    cells = list(scan_dataset(data).cells)
    chosen = cells if count is None else random.Random(0).sample(cells, min(count, len(cells)))
    read = [read_image(cell.path) for cell in chosen]
    return [image for image in read if not isinstance(image, Refusal)]


def croppable_images(images: Sequence[Image], count: int) -> list[Image]:
    """`count` of `images` that no specification refuses, so that all contenders do the same; repeated if too few."""
    found = [image for image in images if all(isinstance(crop_cell(image, spec), Crop) for spec in SPECIFICATIONS.values())]
    return list(islice(cycle(found), count))
