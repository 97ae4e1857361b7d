"""`Scope`, the thread-safe handle that classifies cells and examines frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.crop import crop_cell
from blastscope.runtime.errors import Closed, UsageError, renamed_keywords
from blastscope.runtime.inference.explanation import Explanation, explain_crop
from blastscope.runtime.inference.options import as_path
from blastscope.runtime.inference.request_queue import answered
from blastscope.runtime.inference.voting import SmearCall, call_smear, smear_model
from blastscope.runtime.io.concurrency import keeping, ordered_map
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import check_array, list_images, load_pixels, read_image
from blastscope.runtime.io.paths import as_paths, each_image, read_ahead
from blastscope.runtime.session.open_session import OpenSession
from blastscope.runtime.types import VOTERS, Prediction, Refusal

if TYPE_CHECKING:
    from blastscope.runtime.frames.pipeline import Classify, Examiner, FrameCallback, TileCallback
    from blastscope.runtime.frames.types import FrameReport, FrameSpecification
    from blastscope.runtime.inference.neighbours import LabelledArchive
    from blastscope.runtime.io.image import ImageSource
    from blastscope.runtime.streaming.stream import OnError, OnReport, Stream, WhenFull


class Scope(OpenSession):
    """An open bundle for many threads at once. `close` it, or use it as a context manager. It doesn't survive a fork."""

    def classify(self, image: ImageSource) -> Prediction:
        """The call on one cell on black, a `Prediction`; with a refusal if the image shows no such cell.

        Parameters
        ----------
        image : (H, W, 3) uint8 array in RGB, path or bytes of an image file, or PIL image in RGB
            Arrays may be strided views; they are neither written to nor kept. A bad file gets a refusal. A handle on a GPU
            reads that GPU's arrays in place as well (`__dlpack__`, `__cuda_array_interface__`).

        Raises
        ------
        ImageError
            `image` is none of these: an array of floats, for example, or a PIL image in gray.
        """
        run = self._run
        with run.opened.lanes.call():
            return run.predictor.classify(image)

    def classify_many(self, images: Iterable[ImageSource], *, in_one_thread: bool = False) -> list[Prediction]:
        """The calls on many cells, a list of `Prediction`s in the order of `images`.

        Parameters
        ----------
        images : iterable of images as `classify` takes them
            What `classify` raises for is refused here, as 'not-8-bit-rgb'.
        in_one_thread : bool
            The calling thread gets no help: for programs whose own threads keep all cores busy.

        Raises
        ------
        UsageError
            `images` is a single image.
        """
        run, several = self._run, list_images(images)
        with run.opened.lanes.call():
            return run.predictor.classify_many(several, in_one_thread=in_one_thread)

    def classify_smear(self, images: Iterable[ImageSource]) -> SmearCall:
        """The call on one person, a `SmearCall` from the calls on many of their cells.

        Parameters
        ----------
        images : iterable of images as `classify` takes them
            Refused cells are counted, and have no part in the call.

        Raises
        ------
        UsageError
            The bundle doesn't say how cells become a call on a person.
        """
        model = smear_model(self.bundle)
        return call_smear(self.classify_many(images), model)

    def explain(self, image: ImageSource) -> Explanation:
        """An `Explanation` of the call on one cell: which parts of the cell it rests on. It takes some hundred inferences.

        Parameters
        ----------
        image : as `classify` takes it
            An array must be in host memory.

        Raises
        ------
        ImageError, UsageError
            `image` is none of these; the cell is refused, so there is no call to explain.
        """
        pixels: Any = load_pixels(image)
        prediction = self._run.predictor.refused(pixels) if isinstance(pixels, Refusal) else self.classify(pixels)
        crop = prediction.refusal or crop_cell(pixels, self.bundle.manifest.crop)
        if isinstance(crop, Refusal):
            raise UsageError(f"there is no call to explain, the cell is refused: {crop.detail}")
        return explain_crop(prediction, crop, self.infer)

    def open_archive(self, place: Path | str | None = None) -> LabelledArchive:
        """A `LabelledArchive`: its `nearest` gives those labelled cells that are most like one cell.

        They are compared by the features that this bundle's networks measure novelty by, on the CPU. The first time each cell
        of a folder or table takes some hundredths of a second; then the user's cache has its features.

        Parameters
        ----------
        place : Path or str, optional
            A folder of cells in C-NMC's naming, as training takes them, or with folders all and hem; or a CSV file: path,label
            and, if known, patient, of images of single cells, or labels or corrections of frames. By default the training's
            cells, by the index in the bundle: without pictures.

        Raises
        ------
        DataError, UsageError, BundleError, UnavailableError
            The place holds no such cells; the bundle measures no novelty, or has no index; its index breaks a rule; OpenVINO is
            missing or refuses the graph.
        """
        from blastscope.runtime.inference.neighbours import open_training_cells

        cache_dir, threads = self._options.cache_dir, self._options.threads
        if place is None:
            return open_training_cells(self.bundle, threads=threads)
        from blastscope.runtime.evaluation.labelled_cells import list_labelled_cells
        from blastscope.runtime.inference.archive_features import open_archive

        listing = list_labelled_cells(as_path("place", place), threads=threads or usable_threads())
        return open_archive(self.bundle, listing, cache_dir=cache_dir, threads=threads)

    def submit(self, image: ImageSource) -> Future[Prediction]:
        """The future of `classify(image)`. When this returns, the buffer of an image on the host may be used again.

        Blocks while `queue` images wait. A future's callback runs in a thread of the handle: it must not wait for a future.

        Parameters
        ----------
        image : as `classify` takes it
            A device array must stay as it is until the future is done.

        Raises
        ------
        ImageError, Closed
            As `classify`; the handle is closed, or was closed meanwhile.
        UsageError
            The queue is full, in a future's callback.
        """
        run = self._run
        with run.opened.lanes.call():
            taken = run.predictor.preprocess(image)
        return answered(run.predictor.refused(taken)) if isinstance(taken, Refusal) else run.queue.put(taken)

    def classify_files(self, paths: Path | str | Iterable[Path | str]) -> Iterator[tuple[Path, Prediction]]:
        """Each image file with its call, in the order given; a file that can't be decoded gets a refusal.

        Decoding, cropping and inference of several files overlap. `workload='throughput'` is meant for this.

        Parameters
        ----------
        paths : Path, str or iterable of them
            Files and folders; a folder stands for the image files below it, sorted. The iterable is read as the work proceeds.

        Yields
        ------
        (Path, Prediction)
        """
        run = self._run
        with run.opened.lanes.call():  # a closed handle says so now, not at the first file
            pass

        def classify(path: Path) -> Prediction:
            with run.opened.lanes.call():
                image = read_image(path)
                if isinstance(image, Refusal):
                    return run.predictor.refused(image)
                return run.predictor.classify_decoded(image, lambda taken: run.queue.put(taken).result())

        return keeping(self, ordered_map(classify, read_ahead(each_image(paths)), workers=run.predictor.io_workers))

    def classify_pictures(
        self, paths: Iterable[Path | str], *, pixel_um: float | None = None
    ) -> Iterator[tuple[Path, Prediction]]:
        """Each picture of one cell with its background, and the call on the cell in its middle, cut out as `examine` does.

        Parameters
        ----------
        paths : iterable of Path or str
            The pictures. One without a cell is refused as 'empty'.
        pixel_um : float, optional
            Their scale in micrometres per pixel, which can seldom be measured in small pictures.

        Yields
        ------
        (Path, Prediction)
        """
        from blastscope.runtime.frames.pipeline import call_pictures

        return call_pictures(self.examine_files(paths, pixel_um=pixel_um), self._run.predictor.refused)

    def examine(
        self,
        frame: NDArray[np.uint8] | bytes,
        *,
        pixel_um: float | None = None,
        stated_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        """A `FrameReport`: the white cells of a stained bright-field frame, each with a call or the reason why it got none.

        Calls on frames are outside what was validated: the shipped networks were trained on the single cells of C-NMC.

        Parameters
        ----------
        frame : (H, W, 3) uint8 array in RGB, or bytes of an image file
            It may be strided; it is neither written to nor kept. Above 8 megapixels it is examined in tiles.
        pixel_um : float, optional
            Micrometres per pixel. By default the specification's scale, or that of the red cells in the frame.
        stated_um : float, optional
            Micrometres per pixel as a file or layer states it, which is used unless the red cells contradict it.
        spec : FrameSpecification, optional
            What is assumed of frames and cells.
        metadata : mapping, optional
            Comes back in the report.

        Raises
        ------
        ImageError, UsageError
            `frame` is no such array; a scale is impossible.
        """
        run = self._run
        with run.opened.lanes.call():
            examiner = self._examiner(run.predictor.classify_many, spec, pixel_um)
            pixels = frame if isinstance(frame, bytes) else check_array(frame)
            return examiner.examine(pixels, metadata, stated_um=stated_um)

    @renamed_keywords(look="on_frame", watch="on_tile")
    def examine_files(
        self,
        paths: Iterable[Path | str],
        *,
        pixel_um: float | None = None,
        spec: FrameSpecification | None = None,
        on_frame: FrameCallback | None = None,
        on_tile: TileCallback | None = None,
        resume: Path | str | None = None,
    ) -> Iterator[FrameReport]:
        """The `FrameReport` on each file, in the order given; a file that can't be read gets one with a refusal.

        Parameters
        ----------
        paths : iterable of Path or str
            PNG, JPEG, BMP, WebP, TIFF, scanners' slides, OME-Zarr folders. Several are examined at once; scans in pieces.
        pixel_um, spec : float, FrameSpecification, optional
            As in `examine`. If neither gives the scale, the file's own is used.
        on_frame : callable, optional
            Is called with the open `Slide` and the report, in one of several threads, before the report is returned.
        on_tile : callable, optional
            Is called with a `TileProgress` and its cells for each tile of a scan and each whole frame, in several threads.
        resume : Path or str, optional
            A file that keeps finished tiles and frames; what it holds already isn't examined again.
        """
        run = self._run

        def classify(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
            with run.opened.lanes.call():  # a call a batch: a scan of an hour doesn't keep the handle from closing
                return run.predictor.classify_many(cells)

        journal = None if resume is None else as_path("resume", resume)
        origin = {"bundle": self.bundle.digest, "handling of unlike cells": self._options.unlike_training}
        with run.opened.lanes.call():
            examiner = self._examiner(classify, spec, pixel_um)
        return keeping(self, examiner.examine_files(as_paths(paths), on_frame, on_tile=on_tile, journal=journal, origin=origin))

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
        keep_pixels: bool = False,
    ) -> Stream:
        """A `Stream`: examines frames as they come, in threads of its own, and calls `on_report` with each report, in order.

        It continues after `reopen`. `close` ends it, once the waiting frames are reported.

        Parameters
        ----------
        frames : iterable, or None
            Arrays, pairs of array and metadata, or `Frame`s. With None frames are given to `Stream.put`.
        on_report, on_error : callable
            The first gets each report. The second gets every exception, the source's too, and the stream continues.
        queue, when_full : int, {'drop-oldest', 'block'}
            How many frames may wait, and whether then the oldest is dropped or the sender waits.
        pixel_um, spec : float, FrameSpecification, optional
            As in `examine`. If neither gives the scale, a frame's metadata may, as 'pixel_um'.
        keep_pixels : bool
            Whether each report has its frame, as `FrameReport.pixels`.

        Raises
        ------
        Closed, UsageError
            The handle is closed; an argument is impossible.
        """
        from blastscope.runtime.streaming.frame_queue import told_um
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

        stream = Stream(
            examine, on_report, frames, queue=queue, when_full=when_full, on_error=on_error, keep_pixels=keep_pixels
        )
        self._streams.add(stream)
        return stream

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3) made as the bundle's specification says, for benchmarks."""
        return self._run.opened.lanes.infer(crops)[:, : len(VOTERS)]

    def _examiner(self, classify: Classify, spec: FrameSpecification | None, pixel_um: float | None) -> Examiner:
        from blastscope.runtime.frames.pipeline import Examiner
        from blastscope.runtime.frames.types import FrameSpecification

        spec = spec or FrameSpecification()
        validated = self.validation is not None and self._objection(spec) is None
        threads = self._options.threads or usable_threads()
        detector = self._run.detector.get(self._detector) if spec.finder == "auto" else None
        return Examiner(classify, spec, pixel_um, threads, validated=validated, detector=detector)
