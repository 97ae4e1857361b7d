"""An engine on a GPU: lanes that share one network, and the check of images on their way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.nvidia.batch_executor import BatchExecutor, GpuNetwork
from blastscope.runtime.backends.protocol import BatchResult, Engine, EngineOptions, ImageInput
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.cuda.kernels.crop_launch_plan import MOST_PX
from blastscope.runtime.cuda.memory import DeviceArrayImporter, Image, on_device
from blastscope.runtime.errors import DeviceError, EngineError
from blastscope.runtime.io.image import check_array
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import Box, Execution, Refusal

BATCHES = (1, 8, 64)
# Larger images go one by one: a batch of 64 of them would take gigabytes.
ORDINARY_PX = 1024
LANES = 2  # for throughput: one lane's images are copied while the other's network works


class PixelPipeline:
    """A lane that crops by itself: `infer_images` is the path from pixels, `infer` the one from crops. Not thread-safe."""

    def __init__(
        self, name: str, gpu: Gpu, network: GpuNetwork, spec: CropSpecification, *, batches: Sequence[int] = BATCHES
    ) -> None:
        self.name = name
        self.batches = tuple(sorted(set(batches)))
        self._gpu, self._spec = gpu, spec
        self._held = ExitStack()
        self._fixed: list[BatchExecutor] = []
        try:
            with gpu.current():
                stream = gpu.open_stream()
                self._held.callback(gpu.close_stream, stream)
                for batch in self.batches:
                    fixed = BatchExecutor(gpu, network, spec, batch, stream)
                    self._held.callback(fixed.close)
                    self._fixed.append(fixed)
            self._answer_shape = self._fixed[0].answer_shape
        except BaseException:
            self.close()
            raise

    def infer_images(self, images: Sequence[Image]) -> BatchResult:
        """What the crop kernels and the network say of `images`, in their order. Raises `EngineError`, `DeviceError`s."""
        self._require_open()
        found: dict[int, Box | Refusal] = {}
        answers = np.zeros((len(images), *self._answer_shape), np.float32)
        with self._gpu.current():
            for numbers, fixed in self._shares(images):
                chosen = [images[number] for number in numbers]
                result = fixed.infer_images(chosen) if _fits(chosen) else self._infer_by_hand(chosen)
                found.update(zip(numbers, result.found, strict=True))
                answers[numbers] = result.answers
        return BatchResult([found[number] for number in range(len(images))], answers)

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answers (N, R, 2) on `crops` (N, S, S, 3)."""
        self._require_open()
        side = self._spec.side_px
        if crops.shape[1:] != (side, side, 3) or crops.dtype != np.uint8:
            raise EngineError(
                f"{self.name}: crops are {crops.dtype} {crops.shape}, the graph takes uint8 (N, {side}, {side}, 3)"
            )
        answers = np.empty((len(crops), *self._answer_shape), np.float32)
        with self._gpu.current():
            for start, fixed in self._portions(len(crops)):
                answers[start : start + fixed.batch] = fixed.infer(crops[start : start + fixed.batch])
        return answers

    @property
    def notes(self) -> tuple[str, ...]:
        """What isn't as it should be, each thing once."""
        return tuple(dict.fromkeys(note for fixed in self._fixed for note in fixed.notes))

    def crops(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        """The crops (N, S, S, 3) that the kernels make of at most as many `images` as fit a batch, for those who check them."""
        self._require_open()
        fixed = next(one for one in self._fixed if one.batch >= len(images))
        with self._gpu.current():
            fixed.infer_images(images)
            return fixed.crops(len(images))

    def repeat(self, batch: int) -> None:
        """Does the last work of batches of that size once more, for benchmarks of the device alone."""
        fixed = next(one for one in self._fixed if one.batch == batch)
        with self._gpu.current():
            fixed.repeat()

    def close(self) -> None:
        """Gives everything back. Safe to call twice."""
        self._fixed = []
        with suppress(DeviceError), self._gpu.current():  # a lost GPU holds nothing any more
            self._held.close()

    def _shares(self, images: Sequence[Image]) -> Iterator[tuple[list[int], BatchExecutor]]:
        """Which images go together, and where."""
        ordinary = [number for number, image in enumerate(images) if max(image.shape[:2]) <= ORDINARY_PX]
        for start, fixed in self._portions(len(ordinary)):
            yield ordinary[start : start + fixed.batch], fixed
        for number in sorted(set(range(len(images))) - set(ordinary)):
            yield [number], self._fixed[0]

    def _portions(self, count: int) -> Iterator[tuple[int, BatchExecutor]]:
        """How `count` of something are taken: by the largest batch that is at least half full, again and again."""
        start = 0
        while start < count:
            left = count - start
            fixed = next((one for one in reversed(self._fixed) if 2 * left >= one.batch), self._fixed[0])
            yield start, fixed
            start += fixed.batch

    def _infer_by_hand(self, images: Sequence[Image]) -> BatchResult:
        """For images that the kernels can't number: cropped on the host, which gives the same bytes."""
        (image,) = images
        if not isinstance(image, np.ndarray):
            raise EngineError(
                f"{self.name}: a device array of {image.shape} is more than the kernels take: {MOST_PX} px a side"
            )
        crop = crop_cell(image, self._spec)
        if isinstance(crop, Refusal):
            return BatchResult([crop], np.zeros((1, *self._answer_shape), np.float32))
        return BatchResult([crop.box], self._fixed[0].infer(crop.pixels[None]))

    def _require_open(self) -> None:
        if not self._fixed:
            raise EngineError(f"{self.name}: the engine is closed")


def _fits(images: Sequence[Image]) -> bool:
    return max(max(image.shape[:2]) for image in images) <= MOST_PX


def make_engine(
    gpu: Gpu,
    load: Callable[[], GpuNetwork],
    options: EngineOptions,
    *,
    name: str,
    execution: Execution,
    digest: str,
    notes: tuple[str, ...] = (),
) -> Engine:
    """An engine on a GPU, in as many lanes as the workload wants. Its crops are compared with the host's first.

    Parameters
    ----------
    gpu : Gpu
        The device.
    load : callable
        Gives the network, once.
    options : EngineOptions
        How it was asked for.
    name : str
        The backend's.
    execution : {'f32', 'bf16', 'f16', 'int8'}
        The number type that it computes in.
    digest : str
        Of all that can change the engine, in hex.
    notes : tuple of str
        What its user should know.

    Returns
    -------
    Engine

    Raises
    ------
    EngineError, DeviceError
        What was taken until then is given back.
    """
    if options.crop is None:
        raise EngineError(f"{name}: the crop's specification is needed")
    lanes = 1 if options.workload == "latency" else min(LANES, options.threads or LANES)
    with ExitStack() as held:
        with gpu.current():
            network = load()
        held.callback(_close_network, gpu, network)
        importer = DeviceArrayImporter(gpu)
        held.callback(importer.close)
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
        image_input=ImageInput(tuple(pipelines), _InputValidator(importer).check, _kept),
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


class _InputValidator:
    """Checks images as they come in. Holds no lane, so that a forgotten engine can be collected."""

    def __init__(self, importer: DeviceArrayImporter) -> None:
        self._importer = importer

    def check(self, image: object) -> Image:
        if not isinstance(image, np.ndarray) and on_device(image):
            return self._importer.take(image)
        return check_array(image)


def _kept(image: Image) -> Image:
    return image.copy() if isinstance(image, np.ndarray) else image


def _close_network(gpu: Gpu, network: GpuNetwork) -> None:
    with suppress(DeviceError), gpu.current():
        network.close()
