"""`OpenSession`: a bundle opened on a device, until it is closed or opened anew; the base of `Scope`."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.opening import verify_again
from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.inference.device_selection import load_session
from blastscope.runtime.inference.events import SessionEvent
from blastscope.runtime.inference.loader import LoadedSession
from blastscope.runtime.inference.options import SessionOptions, parse_device
from blastscope.runtime.inference.predictor import Predictor, make_predictor
from blastscope.runtime.inference.request_queue import RequestQueue
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import Audit

if TYPE_CHECKING:
    from blastscope.runtime.evaluation.validation_record import ValidationRecord
    from blastscope.runtime.frames.detection.detector import Detector
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.streaming.stream import Stream

logger = logging.getLogger(__name__)


class DeferredOpening:
    """The bundle's detector, opened when it is first asked for: whoever classifies single cells doesn't wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: tuple[Detector | None] | None = None
        self._closed = False

    def get(self, open_it: Callable[[], Detector | None]) -> Detector | None:
        """What `open_it` gave at the first call that didn't raise. Thread-safe. Raises `Closed`."""
        with self._lock:
            if self._closed:
                raise Closed
            if self._found is None:
                self._found = (open_it(),)
            return self._found[0]

    def close(self) -> None:
        """Frees the detector's network, on a GPU its memory; whoever uses it gets `Closed`. Safe to call twice."""
        with self._lock:
            self._closed = True
            if self._found and self._found[0]:
                self._found[0].network.close()


class _Run(NamedTuple):
    """What answers from one opening to the next.

    Attributes
    ----------
    opened : LoadedSession
        Engine, lanes and events.
    audit : Audit
        What predictions name as their origin.
    predictor : Predictor
        Images to predictions.
    queue : RequestQueue
        What was submitted.
    detector : DeferredOpening
        The bundle's detector, opened at the first frame.
    close : callable
        Ends all of it.
    """

    opened: LoadedSession
    audit: Audit
    predictor: Predictor
    queue: RequestQueue
    detector: DeferredOpening
    close: Callable[[], Any]


def _close(opened: LoadedSession, detector: DeferredOpening) -> None:
    """Ends a run. In a forked child nothing, as `LoadedSession.close`."""
    try:
        opened.close()
    finally:
        if not opened.lanes.inherited:
            detector.close()


class OpenSession:
    """What opens, reopens and closes. `Scope` adds what is asked of an open bundle."""

    def __init__(
        self, bundle: Bundle, options: SessionOptions, *, queue: int, validation: ValidationRecord | None = None
    ) -> None:
        self.bundle = bundle
        self.validation = validation
        self._options, self._queue = options, queue
        self._reopening = threading.Lock()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._run = self._open(options)
        if objection := self._validation_objection():
            logger.info(objection)

    @property
    def audit(self) -> Audit:
        """What answers, as every prediction says it."""
        return self._run.audit

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening the bundle chose and passed over, and why: `events` as sentences for people."""
        objection = self._validation_objection()
        return (*map(str, self.events), *([objection] if objection else []))

    @property
    def events(self) -> tuple[SessionEvent, ...]:
        """What opening the bundle chose and passed over, and what was measured and built since, as typed events."""
        return self._run.opened.events.events()

    @property
    def building(self) -> Future[None] | None:
        """A future that is done when the GPU's engine is built and `reopen` takes it; None where none is being built."""
        building = self._run.opened.building
        return building.done if building else None

    @property
    def lanes(self) -> InferencePool:
        """What the networks run in, for programs that have crops or batches of their own; another one after `reopen`."""
        return self._run.opened.lanes

    def reopen(self, *, device: str | None = None) -> None:
        """Opens the bundle anew, in this handle: after `DeviceLost`, once `building` is done, or for another `device`.

        Finishes what was submitted first. If it raises (`DigestMismatch`: a changed bundle) it is closed until reopened.
        """
        self._run.opened.lanes.require_own_process()
        with self._reopening:
            if device is not None:
                self._options = replace(self._options, device=parse_device(device))
            self._run.close()
            verify_again(self.bundle)
            self._run = self._open(self._options)

    def close(self) -> None:
        """Ends the streams, finishes what was submitted and frees the networks; later calls raise `Closed`. Safe to call twice.

        Finishes a measurement of `auto` first, in seconds. A callback that hangs is left behind after 30 seconds, an inference
        after 30 and 2 more for each of its crops, with a warning in the log; whoever waits for their thread gets `Closed`.
        """
        for stream in list(self._streams):
            stream.stop()
        self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """Neither `pickle` nor `copy` takes a handle: it has threads, and memory of a device."""
        raise UsageError("a handle can't be copied or sent to another process: open the bundle there")

    def _open(self, options: SessionOptions) -> _Run:
        opened = load_session(self.bundle, options)
        audit = opened.audit(self.bundle)
        predictor = make_predictor(self.bundle, opened.lanes, audit, opened.on_first_result, options.unlike_training)
        queue = RequestQueue(opened.lanes, predictor.predict_batch, self._queue)
        # closes a handle that was forgotten, when it is collected or when the process ends
        detector = DeferredOpening()
        return _Run(opened, audit, predictor, queue, detector, weakref.finalize(self, _close, opened, detector))

    def _detector(self) -> Detector | None:
        from blastscope.runtime.frames.detection.loading import EnginePlace, load_detector

        threads = self._options.threads or usable_threads()
        backend, precision = self._run.opened.lanes.engine.backend, self._options.precision
        number = self._options.device.name  # of a GPU
        place = EnginePlace(int(number), self._options.cache_dir) if number.isdecimal() else None
        return load_detector(self.bundle, backend=backend, threads=threads, precision=precision, place=place)

    def _validation_objection(self) -> str | None:
        """Why the validation record isn't this bundle's; whether it holds for a specification shows in each report."""
        return self._objection(self.validation.spec) if self.validation else None

    def _objection(self, spec: FrameSpecification | None) -> str | None:
        if self.validation is None:
            return None
        from blastscope.runtime.frames.types import FrameSpecification

        return self.validation.objection(self.bundle.digest, spec or FrameSpecification())
