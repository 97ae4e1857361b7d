"""Infer requests of OpenVINO: lanes of an ensemble, whole or in parts that run side by side or in turn, and a detector."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.openvino.partition import STEM
from blastscope.runtime.backends.protocol import Cascade, first_voter_decides
from blastscope.runtime.errors import BlastscopeError, Closed, EngineError, MissingLibrary

FOREIGN = (RuntimeError, ValueError, TypeError, KeyError)  # what the library raises; ov::Exception comes as RuntimeError
NAME = "openvino"
Crops = NDArray[np.uint8]


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turns what the library raises into `EngineError`."""
    try:
        yield
    except BlastscopeError:
        raise
    except FOREIGN as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
        raise EngineError(f"openvino, {what}: {lines[0] if lines else error}") from error


@cache
def import_openvino() -> Any:
    """The library without its model converter, which brings an HTTP client along: unused, and half of the import's 190 ms."""
    converter, fresh = "openvino.tools.ovc", "openvino" not in sys.modules
    if fresh:
        sys.modules.setdefault(converter, None)  # type: ignore[arg-type] # None: this import fails, as if not installed
    try:
        import openvino
    except ImportError as error:
        raise MissingLibrary("openvino", "") from error
    finally:
        if fresh and sys.modules.get(converter, converter) is None:
            del sys.modules[converter]
    if fresh and not hasattr(openvino, "convert_model"):
        openvino.convert_model = _convert_model
    return openvino


def _convert_model(*args: Any, **options: Any) -> Any:
    """Stands where a host that shares our process expects the converter."""
    from openvino.tools.ovc import convert_model

    import_openvino().convert_model = convert_model
    return convert_model(*args, **options)


def convert_model(*args: Any, **options: Any) -> Any:
    """What `openvino.convert_model` gives, without its reports to Intel, which it makes of each import and conversion.

    A program that imported the converter before has chosen.
    """
    reports = "openvino_telemetry"
    fresh = "openvino.tools.ovc" not in sys.modules and reports not in sys.modules
    if fresh:
        sys.modules[reports] = None  # type: ignore[assignment] # this import fails, as if not installed
    try:
        from openvino.tools.ovc import convert_model as convert
    finally:
        if fresh:
            del sys.modules[reports]
    return convert(*args, **options)


@cache
def core() -> Any:
    """One core a process: it is thread-safe, and finding the plugins takes time."""
    return import_openvino().Core()


class RequestLane:
    """One infer request, on a network that lies in `memory`. Not thread-safe."""

    name = NAME

    def __init__(self, compiled: Any, memory: object) -> None:
        self._memory = memory
        self._request = compiled.create_infer_request()
        self._input: Crops | None = self._request.get_input_tensor(0).data  # (1, S, S, 3)
        self._shape = tuple(self._request.get_output_tensor(0).shape)[1:]

    def infer(self, crops: Crops) -> NDArray[np.float32]:
        """Answers (N, R, 2) on `crops` (N, S, S, 3), in an array of their own."""
        entry = _checked(self._input, crops)
        answers = np.empty((len(crops), *self._shape), np.float32)
        with translate_errors("inference"), _settled([self._request]):
            for crop, answer in zip(crops, answers, strict=True):
                entry[0] = crop
                _run(self._request)
                answer[:] = self._request.get_output_tensor(0).data[0]
        return answers

    def close(self) -> None:
        """Frees the request."""
        _settle([self._request])
        self._input = self._request = None
        self._memory = None


class PartitionedLane:
    """Infer requests of a network's parts, which lie in `memory` and hand their tensors on without a copy. Not thread-safe.

    `together` runs A and B at the same time, each on its own cores; else one comes after the other, and a cascade may leave
    the second out.
    """

    name = NAME

    def __init__(self, parts: Sequence[Any], memory: object, *, together: bool) -> None:
        stem, a, b, rest, opinion = (part and part.create_infer_request() for part in parts)
        self._together, self._memory = together, memory
        self._stem: Any | None = stem
        self._sides: tuple[Any, ...] = (a, b)
        self._rest: Any = rest
        self._opinion: Any = opinion
        self._entry: Crops | None = (stem or a).get_input_tensor(0).data  # (1, S, S, 3)
        if stem:
            for side in self._sides:
                for entry in side.model_inputs:
                    place = next(int(name.removeprefix(STEM)) for name in entry.names if name.startswith(STEM))
                    side.set_tensor(entry, stem.get_output_tensor(place))
        else:
            b.set_input_tensor(0, a.get_input_tensor(0))
        said = [side.get_output_tensor(place) for side in self._sides for place in range(_outputs(side))]
        for place, tensor in enumerate(said):
            rest.set_input_tensor(place, tensor)

    def infer(self, crops: Crops) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3), in an array of their own."""
        answers = np.empty((len(crops), 3, 2), np.float32)
        with translate_errors("inference"), _settled(self._requests):
            for answer in self._begun(crops, answers):
                self._run_sides()
                _run(self._rest)
                answer[:] = self._rest.get_output_tensor(0).data[0]
        return answers

    def infer_in_turn(self, crops: Crops, cascade: Cascade) -> NDArray[np.float32]:
        """The same, with NaN for the voters that were not run where the first one of `cascade` was sure enough."""
        answers = np.full((len(crops), 3, 2), np.nan, np.float32)
        first, second = self._sides[cascade.first], self._sides[1 - cascade.first]
        with translate_errors("inference"), _settled(self._requests):
            for answer in self._begun(crops, answers):
                _run(first)
                self._opinion.set_input_tensor(0, first.get_output_tensor(0))
                _run(self._opinion)
                pair = self._opinion.get_output_tensor(0).data[0, :1]  # (1, 2)
                if first_voter_decides(pair, cascade.threshold)[0]:
                    answer[cascade.first] = pair[0]
                    continue
                _run(second)
                _run(self._rest)
                answer[:] = self._rest.get_output_tensor(0).data[0]
        return answers

    def close(self) -> None:
        """Frees the requests."""
        _settle(self._requests)
        self._entry = self._stem = self._rest = self._opinion = None
        self._sides = ()
        self._memory = None

    @property
    def _requests(self) -> tuple[Any, ...]:
        return self._stem, *self._sides, self._rest, self._opinion

    def _begun(self, crops: Crops, answers: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """The place of each crop's answer, once the crop stands where the sides read it."""
        entry = _checked(self._entry, crops)
        for crop, answer in zip(crops, answers, strict=True):
            entry[0] = crop
            if self._stem:
                _run(self._stem)
            yield answer

    def _run_sides(self) -> None:
        if self._together:
            for side in self._sides:
                side.start_async()
            for side in self._sides:
                side.wait()
        else:
            for side in self._sides:
                _run(side)


def _run(request: Any) -> None:
    request.start_async()  # cheaper than `infer`, which builds a dictionary of results
    request.wait()


@contextmanager
def _settled(requests: Sequence[Any]) -> Iterator[None]:
    """Nothing runs on `requests` when this begins, nor when it ends by an exception."""
    _settle(requests)
    try:
        yield
    except BaseException:
        _settle(requests)
        raise


def _settle(requests: Iterable[Any]) -> None:
    for request in filter(None, requests):
        try:
            request.wait()  # returns at once where nothing was started
        except FOREIGN:  # what a run that was given up came to
            continue


def _outputs(request: Any) -> int:
    return len(request.model_outputs)


def _checked(entry: Crops | None, crops: Crops) -> Crops:
    if entry is None:
        raise EngineError("openvino: the engine is closed")
    if crops.shape[1:] != entry.shape[1:] or crops.dtype != np.uint8:
        raise EngineError(f"openvino: crops are {crops.dtype} {crops.shape}, the graph takes uint8 {entry.shape}")
    return entry


class OpenVinoDetector:
    """A compiled detector. Many threads may use it; each call takes an infer request of its own."""

    name = NAME

    def __init__(self, compiled: Any) -> None:
        self._compiled: Any | None = compiled
        self._idle: deque[Any] = deque()

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB, H and W multiples of 32. Raises `EngineError`, `Closed`."""
        compiled = self._compiled
        if compiled is None:
            raise Closed
        with translate_errors("detection"):
            try:
                request = self._idle.pop()
            except IndexError:
                request = compiled.create_infer_request()
            given = import_openvino().Tensor(np.ascontiguousarray(picture)[None], shared_memory=True)
            request.infer({0: given})
            maps = np.array(request.get_output_tensor(0).data[0], np.float32)
        self._idle.append(request)  # one whose run broke off is not used again
        return maps

    def close(self) -> None:
        """Frees the network. Safe to call twice."""
        self._compiled = None
        self._idle.clear()


def open_detector(content: bytes, graph: Path, *, threads: int) -> OpenVinoDetector:
    """The detector in `content`, the verified bytes of the file `graph`. Raises `EngineError`, `MissingLibrary`."""
    with translate_errors(f"'{graph}'"):
        model = core().read_model(content)
        model.reshape({"pictures": [1, -1, -1, 3]})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        return OpenVinoDetector(core().compile_model(model, "CPU", settings))
