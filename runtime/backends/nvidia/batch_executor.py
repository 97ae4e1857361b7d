"""One size of batch on one stream: memory, recordings, what goes in and out. Nothing is allocated from call to call.

    pinned host  [ table of images | pixels ]  --one upload-->  device [ table | pixels ]
    device       [ table | pixels ] or other libraries' arrays  --crop kernels-->  crops, verdicts
    device       crops  --fused network-->  answers
    device       [ answers | verdicts ]  --one download-->  pinned host

A batch that isn't full is filled up with images without pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import ANSWER_SHAPES, BatchResult
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.cuda.graphs import Gpu, Recording, Work
from blastscope.runtime.cuda.kernels.crop_launch_plan import MOST_PX, CropPlan, VerdictRow, box_of, refusal_of
from blastscope.runtime.cuda.memory import DeviceImage, Image, aligned, pixel_bytes, stage
from blastscope.runtime.errors import DeviceError, DeviceLost, EngineError, OutOfDeviceMemory

Note = Callable[[str], None]
USUAL_PX = 512  # longest side that room is made for at first: C-NMC's images have 450
_ANSWER = max(map(math.prod, ANSWER_SHAPES.values())) * 4  # bytes that a cell's answer takes at most


class BatchBinding(NamedTuple):
    """The device buffers of one batch, and its stream.

    Attributes
    ----------
    batch : int
        Crops in the batch.
    crops : int
        Device address of the crops, (batch, S, S, 3) uint8.
    answers : int
        Device address of the answers, (batch, *shape) float32; the shape is `ExecutionContext.answer_shape`.
    stream : int
        Handle of the CUDA stream.
    """

    batch: int
    crops: int
    answers: int
    stream: int


class ExecutionContext(Protocol):
    """The network bound to one place. Used by one thread at a time, inside the GPU's `current`."""

    answer_shape: tuple[int, int]  # of one crop, see `protocol.answer_output`

    @property
    def recordable(self) -> bool:
        """Whether `enqueue` does nothing but queue work on the stream, so that it can be recorded."""
        ...

    def enqueue(self) -> None:
        """Queues the network on the stream. Raises `EngineError`, `DeviceError`s."""
        ...

    def close(self) -> None:
        """Frees what the pass holds."""
        ...


class GpuNetwork(Protocol):
    """A fused graph, loaded. Its passes work side by side."""

    def bind(self, place: BatchBinding) -> ExecutionContext:
        """A pass that reads and writes at `place`. Raises `EngineError`, `DeviceError`s."""
        ...

    def close(self) -> None:
        """Frees the graph, after its passes."""
        ...


def capture_graph(gpu: Gpu, stream: int, network: ExecutionContext, note: Note, *, before: Work, after: Work) -> Recording:
    """`before`, the network, `after`, done once and then recorded; with the network in between where it can't be recorded.

    `note` gets the reason where the network was thought to be recordable and isn't.
    """

    def whole() -> None:
        before()
        network.enqueue()
        after()

    whole()  # libraries and kernels get ready at their first use, which no recording may hold
    gpu.wait(stream)
    if network.recordable:
        try:
            return gpu.record(stream, whole)
        except (DeviceLost, OutOfDeviceMemory):
            raise
        except (DeviceError, EngineError) as error:
            note(f"the network can't be recorded, so a call is three steps instead of one launch: {error}")
    return _Interrupted(gpu.record(stream, before), network, after)


class _Interrupted:
    """A recording, then a network that queues its own work, then what follows."""

    def __init__(self, before: Recording, network: ExecutionContext, after: Work) -> None:
        self._before, self._network, self._after = before, network, after

    def launch(self) -> None:
        self._before.launch()
        self._network.enqueue()
        self._after()

    def resize(self, target: int, size: int) -> None:
        self._before.resize(target, size)

    def close(self) -> None:
        self._before.close()


class BatchExecutor:
    """Everything for batches of `batch` images on `stream`. Used by one thread at a time, inside the GPU's `current`."""

    def __init__(self, gpu: Gpu, network: GpuNetwork, spec: CropSpecification, batch: int, stream: int) -> None:
        self.batch = batch
        self.notes: list[str] = []  # what isn't as it should be
        self._gpu, self._spec, self._stream = gpu, spec, stream
        self._kept, self._roomy = ExitStack(), ExitStack()  # what is held for good, and until larger images come
        self._verdicts_at = aligned(batch * _ANSWER)
        self._staged = 0  # bytes that the recorded upload copies
        self._at_work = False  # the last launch was not waited for: an exception of a signal handler broke it off
        try:
            plan = CropPlan.make(spec, batch, USUAL_PX)
            self._crops = self._allocate(self._kept, plan.crops_bytes)
            size = self._verdicts_at + plan.verdicts_bytes
            self._outbox, self._answers = self._allocate(self._kept, size), self._pinned(self._kept, size)
            self._pass = network.bind(BatchBinding(batch, self._crops, self._outbox, stream))
            self.answer_shape = self._pass.answer_shape
            self._kept.callback(self._pass.close)
            self._make_room(plan, batch * aligned(USUAL_PX * USUAL_PX * 3))
        except BaseException:
            self.close()
            raise

    def infer_images(self, images: Sequence[Image]) -> BatchResult:
        """What the crop kernels and the network say of 1 to `batch` images."""
        self._settle()
        self._reserve(images)
        size = stage(images, self._staging, self.batch, self._inbox)
        for stream in {image.stream for image in images if isinstance(image, DeviceImage) and image.stream is not None}:
            self._gpu.follow(self._stream, stream)
        if size != self._staged:
            self._staged = 0  # unknown until it is done
            self._from_pixels.resize(self._inbox, size)
            self._staged = size
        self._run(self._from_pixels)
        rows = self._answers[self._verdicts_at :].view(VerdictRow)
        found = [refusal_of(row, self._spec, image.shape) or box_of(row) for row, image in zip(rows, images, strict=False)]
        return BatchResult(found, self._answered(len(images)))

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answers (n, R, 2) on 1 to `batch` crops (n, S, S, 3) from the host."""
        self._settle()
        self._staging[: crops.size].reshape(crops.shape)[...] = crops
        self._run(self._from_crops)
        return self._answered(len(crops))

    def repeat(self) -> None:
        """Does the work of the last `infer_images` once more, with nothing of the host in it: what the device takes for it."""
        self._run(self._from_pixels)

    def crops(self, count: int) -> NDArray[np.uint8]:
        """The crops (count, S, S, 3) that the last `infer_images` made, for those who check them: an extra trip to the host."""
        side = self._spec.side_px
        copy = self._staging[: count * side * side * 3]
        self._gpu.download(copy, self._crops, self._stream)
        self._gpu.wait(self._stream)
        return copy.reshape(count, side, side, 3).copy()

    def close(self) -> None:
        """Gives everything back. Safe to call twice."""
        self._roomy.close()
        self._kept.close()

    def _run(self, recorded: Recording) -> None:
        self._at_work = True
        recorded.launch()
        self._gpu.wait(self._stream)
        self._at_work = False

    def _settle(self) -> None:
        """Before the host writes where the device may still be reading."""
        if self._at_work:
            self._gpu.wait(self._stream)
            self._at_work = False

    def _answered(self, count: int) -> NDArray[np.float32]:
        size = count * math.prod(self.answer_shape) * 4
        return self._answers[:size].view(np.float32).reshape(count, *self.answer_shape).copy()

    def _allocate(self, stack: ExitStack, size: int) -> int:
        address = self._gpu.allocate(size)
        stack.callback(self._gpu.free, address)
        return address

    def _pinned(self, stack: ExitStack, size: int) -> NDArray[np.uint8]:
        memory = self._gpu.pinned(size)
        stack.callback(self._gpu.unpin, memory)
        return memory

    def _reserve(self, images: Sequence[Image]) -> None:
        """Makes room where `images` need more than there is: the one time that anything is allocated after the warm-up."""
        longest = max(max(image.shape[:2]) for image in images)
        pixels = pixel_bytes(images)
        there = len(self._staging) - aligned(self._plan.images_bytes)
        if longest > self._plan.largest_px or pixels > there:
            side = max(self._plan.largest_px, min(1 << (longest - 1).bit_length(), MOST_PX))
            self._make_room(CropPlan.make(self._spec, self.batch, side), max(pixels, there))

    def _make_room(self, plan: CropPlan, pixels: int) -> None:
        """Memory for `plan` and for `pixels` bytes of images, recorded anew. Where that fails, all stays as it was."""
        with ExitStack() as fresh:
            self._equip(fresh, plan, max(aligned(plan.images_bytes) + pixels, plan.crops_bytes))
            self._roomy.close()
            self._roomy = fresh.pop_all()

    def _equip(self, fresh: ExitStack, plan: CropPlan, size: int) -> None:
        gpu, stream = self._gpu, self._stream
        inbox = self._allocate(fresh, size)
        workspace = self._allocate(fresh, plan.workspace_bytes)
        staging = self._pinned(fresh, size)
        launches = plan.launches(inbox, self._crops, self._outbox + self._verdicts_at, workspace)

        def crop() -> None:
            gpu.upload(inbox, staging, stream)
            for launch in launches:
                gpu.launch(launch, stream)

        def hand_in() -> None:
            gpu.upload(self._crops, staging[: plan.crops_bytes], stream)

        def answer() -> None:
            gpu.download(self._answers, self._outbox, stream)

        from_pixels = capture_graph(gpu, stream, self._pass, self.notes.append, before=crop, after=answer)
        fresh.callback(from_pixels.close)
        from_crops = capture_graph(gpu, stream, self._pass, self.notes.append, before=hand_in, after=answer)
        fresh.callback(from_crops.close)
        self._from_pixels, self._from_crops = from_pixels, from_crops
        self._plan, self._inbox, self._staging, self._staged = plan, inbox, staging, size
