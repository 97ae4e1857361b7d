"""`open_bundle` and the handle that it gives: images in, predictions out, from as many threads as the caller likes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import Workload
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.classes import CLASSES, VOTERS, Execution, Precision
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.errors import ImageError, UsageError
from blastscope.runtime.files import in_order
from blastscope.runtime.image import read_image
from blastscope.runtime.opening import Opened, Wish, open_wished, user_cache
from blastscope.runtime.prediction import Audit, Prediction, Refusal
from blastscope.runtime.vote import vote
from blastscope.runtime.waiting import WaitingRoom


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
    cache_dir: Path | None = None,
) -> Scope:
    """A handle on the networks of the bundle (folder or zip) at `path`; without one, of the shipped bundle.

    `precision` names a graph of the bundle, `execution` what the engine computes in; `auto` takes those measured to be fastest
    on this machine, of those that the gate admitted. `workload` is 'latency' (one answer as soon as possible) or
    'throughput' (as many as possible). `queue` images may wait in `submit`. Compiled engines and what was measured are kept in
    `cache_dir`, by default the user's cache.

    Raises `UsageError` for an argument that can't be, `BundleError` for a bundle that can't be trusted (`UngatedBundle`,
    `GoldenMismatch` among them), `UnavailableError` where library or device are missing.
    """
    if path is None:
        from blastscope import SHIPPED_BUNDLE

        path = SHIPPED_BUNDLE
    if queue < 1:
        raise UsageError(f"queue is {queue}: at least 1 image must find room")
    cache = cache_dir or user_cache()
    wish = Wish.checked(
        device=device,
        precision=precision,
        execution=execution,
        backend=backend,
        workload=workload,
        threads=threads,
        allow_ungated=allow_ungated,
        cache_dir=cache,
    )
    bundle = read_bundle(path, cache_dir=cache_dir)
    return Scope(bundle, open_wished(bundle, wish), queue=queue)


class Scope:
    """An open bundle for many threads at once. `close` it, or use it as a context manager. It doesn't survive a fork."""

    def __init__(self, bundle: Bundle, opened: Opened, *, queue: int) -> None:
        self.bundle = bundle
        self.audit: Audit = opened.audit(bundle)
        self._opened = opened
        self._decider = _Decider(bundle, opened, self.audit)
        self._room = WaitingRoom(opened.lanes, self._decider.decide, queue)
        # closes a handle that was forgotten, when it is collected or when the process ends
        self._close = weakref.finalize(self, opened.close)

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening the bundle took and passed over, and why."""
        return tuple(self._opened.notes)

    def classify(self, image: NDArray[np.uint8]) -> Prediction:
        """The call on one cell on black, (H, W, 3) uint8 RGB; with a refusal if it shows no such cell.

        The array may be any strided view; it is neither written to nor kept. Raises `ImageError` for what is no such array.
        """
        with self._opened.lanes.call():
            return self._decider.classify(image)

    def classify_many(self, images: Iterable[NDArray[np.uint8]]) -> list[Prediction]:
        """The calls on many images, in their order. What is no image array is refused there as 'not-8-bit-rgb'."""
        with self._opened.lanes.call():
            return self._opened.lanes.spread(self._decider.classify_or_refuse, list(images))

    def submit(self, image: NDArray[np.uint8]) -> Future[Prediction]:
        """The future of `classify(image)`. The image is cropped before this returns, so its buffer may be used again.

        Waits while `queue` images wait. Raises `ImageError`, and `Closed` also when the handle is closed meanwhile.
        """
        with self._opened.lanes.call():
            crop = crop_cell(image, self.bundle.manifest.crop)
        if isinstance(crop, Crop):
            return self._room.put(crop)
        future: Future[Prediction] = Future()
        future.set_result(self._decider.refused(crop))
        return future

    def classify_files(self, paths: Iterable[Path | str]) -> Iterator[tuple[Path, Prediction]]:
        """Each image file with its call, in the order given; a file that can't be decoded gets a refusal.

        Decoding, cropping and inference of several files overlap: each thread does all three for one file after the other.
        `paths` is read as it goes. `workload='throughput'` is meant for this.
        """
        # One thread more than lanes: it decodes while the others infer, and hides the disk's waiting.
        with self._opened.lanes.call():  # a closed handle says so now, not at the first file
            pass
        workers = len(self._opened.lanes.engine.lanes) + 1
        return in_order(self._classify_file, map(Path, paths), workers=workers)

    def _classify_file(self, path: Path) -> Prediction:
        with self._opened.lanes.call():
            image = read_image(path)
            return self._decider.refused(image) if isinstance(image, Refusal) else self._decider.classify_or_refuse(image)

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3) made as the bundle's specification says, for benchmarks."""
        return self._opened.lanes.infer(crops)

    def close(self) -> None:
        """Finishes what was submitted and frees the networks; later calls raise `Closed`. Safe to call twice.

        The first time that `auto` meets a machine it also finishes the measurement that it is in, which takes seconds.
        """
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Decider:
    """From images to predictions. Knows nothing of the handle, so that a forgotten handle can be collected."""

    def __init__(self, bundle: Bundle, opened: Opened, audit: Audit) -> None:
        self._spec = bundle.manifest.crop
        point = bundle.manifest.operating_point
        self._threshold = point.threshold if point else None
        self._opened = opened
        self._audit = audit

    def classify(self, image: NDArray[np.uint8]) -> Prediction:
        crop = crop_cell(image, self._spec)
        return self.decide([crop])[0] if isinstance(crop, Crop) else self.refused(crop)

    def classify_or_refuse(self, image: NDArray[np.uint8]) -> Prediction:
        try:
            return self.classify(image)
        except ImageError as error:
            return self.refused(Refusal("not-8-bit-rgb", str(error)))

    def decide(self, crops: Sequence[Crop]) -> list[Prediction]:
        """The calls on a few crops, from one lane."""
        pixels = crops[0].pixels[None] if len(crops) == 1 else np.stack([crop.pixels for crop in crops])
        probabilities = self._opened.lanes.answer(pixels)
        votes = vote(probabilities, self._threshold)
        self._opened.answered()
        tables = probabilities.tolist()
        calls = zip(crops, tables, votes.label.tolist(), votes.voter.tolist(), votes.score.tolist(), strict=True)
        return [
            Prediction(
                label=CLASSES[label],
                probability=table[voter][label],
                score=score,
                voter=VOTERS[voter],
                probabilities=tuple((hem, all_) for hem, all_ in table),
                box=crop.box,
                refusal=None,
                audit=self._audit,
            )
            for crop, table, label, voter, score in calls
        ]

    def refused(self, refusal: Refusal) -> Prediction:
        return Prediction(None, None, None, None, None, None, refusal, self._audit)
