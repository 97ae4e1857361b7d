"""`open_bundle` and `Scope`, the thread-safe handle that classifies cells and examines frames."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import Workload
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.bundle.opening import verify_again
from blastscope.runtime.crop import crop_cell
from blastscope.runtime.errors import Closed, DigestMismatch, UsageError
from blastscope.runtime.inference.device import parse_device
from blastscope.runtime.inference.device_selection import load_session
from blastscope.runtime.inference.explanation import Explanation, explain_crop
from blastscope.runtime.inference.loader import LoadedSession
from blastscope.runtime.inference.options import SessionOptions, as_path, whole_number
from blastscope.runtime.inference.predictor import Predictor, make_predictor
from blastscope.runtime.inference.request_queue import RequestQueue, answered
from blastscope.runtime.inference.smear import SmearCall, call_smear, smear_model
from blastscope.runtime.io.concurrency import keeping, ordered_map
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import check_array, list_images, read_image
from blastscope.runtime.io.paths import as_paths, default_cache_dir, each_image, read_ahead
from blastscope.runtime.types import VOTERS, Audit, Execution, Layout, Precision, Prediction, Refusal

if TYPE_CHECKING:
    from blastscope.runtime.evaluation.validation_record import ValidationRecord
    from blastscope.runtime.frames.pipeline import Classify, Examiner, Look
    from blastscope.runtime.frames.types import FrameReport, FrameSpecification
    from blastscope.runtime.io.image import ImageSource
    from blastscope.runtime.streaming.stream import OnError, OnReport, Stream, WhenFull


def open_bundle(
    path: Path | str | None = None,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] | str = "auto",
    execution: Execution | Literal["auto"] | str = "auto",
    backend: str = "auto",
    workload: Workload | str = "latency",
    threads: int | None = None,
    allow_ungated: bool = False,
    queue: int = 64,
    cache_dir: Path | str | None = None,
    while_building: Literal["wait", "cpu"] | str = "wait",
    validation: Path | str | None = None,
    tell: Callable[[str], None] | None = None,
    layout: Layout | Literal["auto"] | str = "auto",
    cascade: bool = False,
    unlike_training: Literal["refuse", "call"] | str = "refuse",
) -> Scope:
    """A handle on the networks of the bundle (folder or zip) at `path`; without one, of the shipped bundle.

    `precision` names a graph of the bundle, `execution` what the engine computes in, `backend` who does; `auto` takes those
    measured to be fastest on this machine, of those that the gate admitted, and before that the likely fastest. `workload` is
    'latency' (one answer as soon as possible) or 'throughput' (as many as possible). `queue` images may wait in
    `submit`. Compiled engines and what was measured are kept in `cache_dir`, by default the user's cache.

    `device` is 'auto' (an NVIDIA GPU where an engine for it exists or can be built, else the CPU; `Scope.notes` says which and
    why), 'cpu', 'cuda[:n]' or 'openvino:NAME'. A GPU's engine is built when it is first wanted, which takes seconds to minutes:
    with `while_building='cpu'` the handle answers on the CPU meanwhile, until `Scope.reopen` is called. `tell` hears of what
    takes long while it happens.

    `layout` is how the network lies on a CPU's cores; `auto` takes what was measured to be fastest here. With `cascade` the
    bundle's first voter decides alone where it is as sure as the bundle's record demands; such predictions say `decided_early`.
    That changes calls, as often as the record says. It is only on a CPU, and a bundle without such a record is refused.

    A cell that lies farther from the training's cells than the bundle's limit is refused as 'unlike-training', since nobody
    knows what a call on it is worth; with `unlike_training='call'` it is called all the same, and `Prediction.novelty` tells.

    `validation` is the record that `blastscope validate` left: where it passed with this bundle and the specification in use,
    reports on frames say that they are validated; else `Scope.notes` say why not.

    Raises `UsageError` for an argument that can't be, `BundleError` for a bundle that can't be trusted (`UngatedBundle`,
    `GoldenMismatch` among them), `UnavailableError` where library or device are missing.
    """
    if path is None:
        from blastscope import SHIPPED_BUNDLE

        path = SHIPPED_BUNDLE
    path, queue = as_path("path", path), whole_number("queue", queue)
    cache = default_cache_dir() if cache_dir is None else as_path("cache_dir", cache_dir)
    options = SessionOptions.parse(
        device=device,
        precision=precision,
        execution=execution,
        backend=backend,
        workload=workload,
        threads=threads,
        allow_ungated=allow_ungated,
        cache_dir=cache,
        while_building=while_building,
        tell=tell,
        layout=layout,
        cascade=cascade,
        unlike_training=unlike_training,
    )
    record = None
    if validation is not None:
        from blastscope.runtime.evaluation.validation_record import read_validation

        record = read_validation(as_path("validation", validation))
    for _ in range(2):
        try:
            return Scope(read_bundle(path, cache_dir=cache), options, queue=queue, validation=record)
        except DigestMismatch:
            continue  # a writer may have put the next bundle in this one's place; of a damaged one the next reading tells
    return Scope(read_bundle(path, cache_dir=cache), options, queue=queue, validation=record)


class _Run(NamedTuple):
    """What answers from one opening to the next."""

    opened: LoadedSession
    audit: Audit
    predictor: Predictor
    room: RequestQueue
    close: Callable[[], Any]


class Scope:
    """An open bundle for many threads at once. `close` it, or use it as a context manager. It doesn't survive a fork."""

    def __init__(
        self, bundle: Bundle, options: SessionOptions, *, queue: int, validation: ValidationRecord | None = None
    ) -> None:
        self.bundle = bundle
        self.validation = validation
        self._options, self._queue = options, queue
        self._reopening = threading.Lock()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._run = self._open(options)

    @property
    def audit(self) -> Audit:
        """What every prediction says of its origin."""
        return self._run.audit

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening the bundle took and passed over, and why."""
        # whether it holds for a specification shows in each report
        objection = self._objection(self.validation.spec) if self.validation else None
        return (*self._run.opened.notes, *([objection] if objection else []))

    @property
    def building(self) -> Future[None] | None:
        """Done when the engine that is built meanwhile is there and `reopen` takes it; None where none is built."""
        building = self._run.opened.building
        return building.done if building else None

    def classify(self, image: ImageSource) -> Prediction:
        """The call on one cell on black; with a refusal if it shows no such cell.

        `image` is an array (H, W, 3) uint8 RGB, or any strided view of one, which is neither written to nor kept; the path of
        an image file, or the bytes of one, of which a bad one gets a refusal; or a PIL image in RGB. A handle on a GPU takes
        that GPU's arrays as well (`__dlpack__`, `__cuda_array_interface__`), where they lie. Raises `ImageError` for what is
        none of these, such as an array of floats or a PIL image in gray.
        """
        run = self._run
        with run.opened.lanes.call():
            return run.predictor.classify(image)

    def classify_many(self, images: Iterable[ImageSource]) -> list[Prediction]:
        """The calls on many images, in their order. What `classify` raises for is refused there as 'not-8-bit-rgb'.

        Raises `UsageError` for a single image.
        """
        run, several = self._run, list_images(images)
        with run.opened.lanes.call():
            return run.predictor.classify_many(several)

    def classify_smear(self, images: Iterable[ImageSource]) -> SmearCall:
        """The call on one person, from many of their cells, each an image as `classify` takes it.

        Refused cells are counted and have no part in the call. Raises `UsageError` for a bundle that doesn't say how cells
        become a call on a person.
        """
        model = smear_model(self.bundle)
        return call_smear(self.classify_many(images), model)

    def explain(self, image: NDArray[np.uint8]) -> Explanation:
        """The call on one cell on the host, and which parts of the cell it rests on; some hundred inferences.

        Raises `ImageError` for what is no (H, W, 3) uint8 array, and `UsageError` for a cell that is refused.
        """
        prediction = self.classify(image)
        crop = crop_cell(image, self.bundle.manifest.crop)
        if prediction.refusal or isinstance(crop, Refusal):
            refusal = prediction.refusal or crop
            raise UsageError(f"there is no call to explain, the cell is refused: {refusal.detail}")  # type: ignore[union-attr]
        return explain_crop(prediction, crop, self.infer)

    def submit(self, image: ImageSource) -> Future[Prediction]:
        """The future of `classify(image)`. When this returns, the buffer of an image on the host may be used again.

        A device array is kept as it is until the future is done. Waits while `queue` images wait. Raises `ImageError`, and
        `Closed` also when the handle is closed meanwhile. In a future's callback, which runs in a thread of the handle, it
        raises `UsageError` where it would have to wait; nor may a callback wait for another future.
        """
        run = self._run
        with run.opened.lanes.call():
            taken = run.predictor.take(image)
        return answered(run.predictor.refused(taken)) if isinstance(taken, Refusal) else run.room.put(taken)

    def classify_files(self, paths: Path | str | Iterable[Path | str]) -> Iterator[tuple[Path, Prediction]]:
        """Each image file with its call, in the order given; a file that can't be decoded gets a refusal.

        Of a folder, the image files below it, sorted; `paths` may be a single folder, too. Decoding, cropping and inference of
        several files overlap. `paths` is read as it goes. `workload='throughput'` is meant for this.
        """
        run = self._run
        with run.opened.lanes.call():  # a closed handle says so now, not at the first file
            pass

        def classify(path: Path) -> Prediction:
            with run.opened.lanes.call():
                image = read_image(path)
                if isinstance(image, Refusal):
                    return run.predictor.refused(image)
                return run.predictor.classify_decoded(image, lambda taken: run.room.put(taken).result())

        return keeping(self, ordered_map(classify, read_ahead(each_image(paths)), workers=run.predictor.io_workers))

    def classify_pictures(
        self, paths: Iterable[Path | str], *, pixel_um: float | None = None
    ) -> Iterator[tuple[Path, Prediction]]:
        """Each file of one cell with its background (as CellaVision's), with the call on the cell nearest to the middle.

        The cell is cut out and put on black as `examine_files` does, at C-NMC's scale: `pixel_um` is that of the pictures, in
        micrometres a pixel, which small pictures hardly tell themselves. Without a cell the picture is refused as 'empty'.
        """
        from blastscope.runtime.frames.pipeline import call_pictures

        return call_pictures(self.examine_files(paths, pixel_um=pixel_um), self._run.predictor.refused)

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        stated_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        """The white cells of a stained bright-field frame (H, W, 3) uint8 RGB, each with a call or the reason why it got none.

        `pixel_um` is the frame's scale in micrometres per pixel; without it the specification's holds, or that of the red cells
        in the frame. `stated_um` is the scale by a file's or layer's word, which holds unless red cells differ. A frame of more
        than 8 megapixels is looked at in tiles, with scale and stain measured once. The array may be any strided view; it is
        neither written to nor kept. `metadata` comes back in the report. Raises `ImageError` for what is no such array,
        `UsageError` for a scale that can't be.

        The shipped networks were trained on C-NMC's cells: calls on frames are outside what was validated.
        """
        run = self._run
        with run.opened.lanes.call():
            return self._examiner(run.predictor.classify_many, spec, pixel_um).examine(
                check_array(frame), metadata, stated_um=stated_um
            )

    def examine_files(
        self,
        paths: Iterable[Path | str],
        *,
        pixel_um: float | None = None,
        spec: FrameSpecification | None = None,
        look: Look | None = None,
    ) -> Iterator[FrameReport]:
        """The report on each file (PNG, JPEG, BMP, WebP, TIFF, a scanner's slide) or OME-Zarr folder, in the order given.

        Reading, finding and inference of several files overlap; scans are read piece by piece. A file that can't be read gets a
        report with a refusal. Where neither `pixel_um` nor the specification says the scale, the file's own word holds. `look`
        is called with the open `Scan` and the report, in one of several threads, before the report is handed out.
        """
        run = self._run

        def classify(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
            with run.opened.lanes.call():  # a call a batch: a scan of an hour doesn't keep the handle from closing
                return run.predictor.classify_many(cells)

        with run.opened.lanes.call():
            examiner = self._examiner(classify, spec, pixel_um)
        return keeping(self, examiner.examine_files(as_paths(paths), look))

    def stream(
        self,
        frames: Iterable[Any] | None,
        on_report: OnReport,
        queue: int = 4,
        when_full: WhenFull | str = "drop-oldest",
        *,
        on_error: OnError | None = None,
        pixel_um: float | None = None,
        spec: FrameSpecification | None = None,
    ) -> Stream:
        """Examines frames as they come, in threads of its own, and calls `on_report` with each report, in order.

        `frames` gives arrays, arrays with their metadata, or `Frame`s; with None they come by `Stream.put`. Where neither
        `pixel_um` nor the specification says the scale, a frame's metadata may, as 'pixel_um'.

        `queue` frames may wait; when there are more, the oldest gives way or the sender waits ('drop-oldest', 'block'). While
        `on_report` is slow frames wait or are dropped, and memory doesn't grow. A frame that can't be examined gets a report
        with a refusal; `on_error` hears of every exception, also of the source's and of `on_report`'s own, and the stream goes
        on.

        The stream survives `reopen`, and ends with `close`, which tells what waits first. Raises `Closed`, `UsageError`.
        """
        from blastscope.runtime.streaming.metadata import told_um
        from blastscope.runtime.streaming.stream import Stream

        with self._run.opened.lanes.call():
            self._examiner(self._run.predictor.classify_many, spec, pixel_um)  # a scale that can't be is said now

        def examine(frame: NDArray[np.uint8], *, metadata: Mapping[str, Any]) -> FrameReport:
            scale_um = pixel_um or (spec and spec.pixel_um) or told_um(metadata, "pixel_um")
            stated_um = told_um(metadata, "stated_um")
            try:
                return self.examine(frame, pixel_um=scale_um, stated_um=stated_um, spec=spec, metadata=metadata)
            except Closed:
                with self._reopening:  # closed for the time of a `reopen`, perhaps
                    pass
                return self.examine(frame, pixel_um=scale_um, stated_um=stated_um, spec=spec, metadata=metadata)

        stream = Stream(examine, on_report, frames, queue=queue, when_full=when_full, on_error=on_error)
        self._streams.add(stream)
        return stream

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3) made as the bundle's specification says, for benchmarks."""
        return self._run.opened.lanes.infer(crops)[:, : len(VOTERS)]

    def reopen(self, *, device: str | None = None) -> None:
        """Opens the bundle anew, in this handle: after `DeviceLost`, once `building` is done, or for another `device`.

        Finishes what was submitted first. The bundle is verified anew: `DigestMismatch` says that another lies in its place.
        Where it raises, the handle is closed, and may be reopened again.
        """
        with self._reopening:
            if device is not None:
                self._options = replace(self._options, device=parse_device(device))
            self._run.close()
            verify_again(self.bundle)
            self._run = self._open(self._options)

    def close(self) -> None:
        """Ends the streams, finishes what was submitted and frees the networks; later calls raise `Closed`. Safe to call twice.

        The first time that `auto` meets a machine it also finishes the measurement that it is in, which takes seconds.

        A callback that hangs doesn't hang this: that of a stream, or of a future, is left behind with its thread after 30
        seconds, and logged. What then still waits for it is dropped (of a stream), or gets `Closed` (of `submit`).
        """
        for stream in list(self._streams):
            stream.stop()
        self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self, options: SessionOptions) -> _Run:
        opened = load_session(self.bundle, options)
        audit = opened.audit(self.bundle)
        decider = make_predictor(self.bundle, opened.lanes, audit, opened.on_first_result, options.unlike_training)
        room = RequestQueue(opened.lanes, decider.decide, self._queue)
        # closes a handle that was forgotten, when it is collected or when the process ends
        return _Run(opened, audit, decider, room, weakref.finalize(self, opened.close))

    def _examiner(self, classify: Classify, spec: FrameSpecification | None, pixel_um: float | None) -> Examiner:
        from blastscope.runtime.frames.pipeline import Examiner
        from blastscope.runtime.frames.types import FrameSpecification

        validated = self.validation is not None and self._objection(spec) is None
        threads = self._options.threads or usable_threads()
        return Examiner(classify, spec or FrameSpecification(), pixel_um, threads, validated=validated)

    def _objection(self, spec: FrameSpecification | None) -> str | None:
        if self.validation is None:
            return None
        from blastscope.runtime.frames.types import FrameSpecification

        return self.validation.objection(self.bundle.digest, spec or FrameSpecification())
