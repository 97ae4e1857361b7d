"""From images to predictions: preprocessing, inference and the vote, on the CPU (`CpuPredictor`) or the GPU (`GpuPredictor`).

They know nothing of the handle, so that a forgotten handle can be collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import ImageInput, require_finite
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.errors import ImageError
from blastscope.runtime.inference.options import UnlikeTraining
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import load_pixels
from blastscope.runtime.types import CLASSES, VOTERS, Audit, Box, Prediction, Refusal

PORTION = 8  # cells that a thread crops one after the other, before it lets the network see them
Taken = Any  # a crop, or an image as the engine's `ImageInput` takes it


class Predictor(Protocol):
    """Everything but `refused` is to be called inside `InferencePool.call`."""

    @property
    def io_workers(self) -> int:
        """Threads that are worth having for files."""
        ...

    def classify(self, image: object) -> Prediction:
        """The call on one image, in any form that `load_pixels` knows. Raises `ImageError`."""
        ...

    def classify_many(self, images: Sequence[object], *, in_one_thread: bool = False) -> list[Prediction]:
        """The calls on many, by as many threads as there are lanes or by the caller's alone; what is no image is refused."""
        ...

    def classify_decoded(self, image: NDArray[np.uint8], wait: Callable[[Taken], Prediction]) -> Prediction:
        """The call on an image from a file; `wait` queues what was preprocessed, and waits for its prediction."""
        ...

    def preprocess(self, image: object) -> Taken | Refusal:
        """What waits for a lane while the caller's buffer is used again. Raises `ImageError`."""
        ...

    def predict_batch(self, taken: Sequence[Taken]) -> list[Prediction]:
        """The calls on a batch of crops, from one lane."""
        ...

    def refused(self, refusal: Refusal) -> Prediction:
        """A refusal as a prediction."""
        ...


class VotePostprocessor:
    """Probabilities become predictions in one way, whatever engine they come from."""

    def __init__(
        self,
        bundle: Bundle,
        audit: Audit,
        answered: Callable[[], None],
        *,
        partial: bool = False,
        unlike_training: UnlikeTraining = "refuse",
    ) -> None:
        point, uncertainty = bundle.manifest.operating_point, bundle.manifest.uncertainty
        self._threshold = point.threshold if point else None
        self._sets = uncertainty.sets if uncertainty else None
        novelty = uncertainty.novelty if uncertainty and unlike_training == "refuse" else None
        self._limit = novelty.limit if novelty else None
        self._audit, self._answered = audit, answered
        self._partial = partial  # voters may be left out

    def predictions(self, boxes: Sequence[Box], answers: NDArray[np.float32]) -> list[Prediction]:
        """The prediction for each row of `answers` (n, R, 2), as lanes give them. Raises `EngineError`."""
        probabilities = answers[:, : len(VOTERS)]
        votes = vote(probabilities, self._threshold, partial=self._partial)
        early = np.asarray(np.isnan(probabilities).any(axis=(1, 2)))
        novelty = [None] * len(answers) if answers.shape[1] == len(VOTERS) else _finite(answers[:, -1, 0])
        self._answered()
        tables = probabilities.tolist()
        decided = (votes.label.tolist(), votes.voter.tolist(), votes.score.tolist(), early.tolist(), novelty)
        return [
            self._unlike(box, distance)
            if distance is not None and self._limit is not None and distance > self._limit
            else Prediction(
                label=CLASSES[label],
                probability=table[voter][label],
                score=score,
                voter=VOTERS[voter],
                probabilities=tuple((hem, all_) for hem, all_ in table),
                box=box,
                refusal=None,
                audit=self._audit,
                decided_early=alone,
                novelty=distance,
                set=self._sets.of(score) if self._sets else None,
            )
            for box, table, label, voter, score, alone, distance in zip(boxes, tables, *decided, strict=True)
        ]

    def _unlike(self, box: Box, distance: float) -> Prediction:
        """A cell that the networks know nothing of: their call on it would mean nothing."""
        detail = f"its features lie {distance:.2f} from those of the training's cells, and {self._limit:.2f} is the limit"
        refusal = Refusal("unlike-training", detail)
        return Prediction(None, None, None, None, None, box, refusal, self._audit, novelty=distance)

    def refused(self, refusal: Refusal) -> Prediction:
        """A refusal as a prediction."""
        return Prediction(None, None, None, None, None, None, refusal, self._audit)


def _finite(novelty: NDArray[np.float32]) -> list[float]:
    require_finite(novelty)
    found: list[float] = novelty.tolist()
    return found


class CpuPredictor:
    """See `Predictor`: the crop on the host, in as many threads as there are lanes."""

    def __init__(self, bundle: Bundle, lanes: InferencePool, postprocessor: VotePostprocessor) -> None:
        self._spec = bundle.manifest.crop
        self._lanes, self._postprocessor = lanes, postprocessor
        self.refused = postprocessor.refused
        # Each lane has a core. A thread more than lanes would only take turns with them: measured on two cores, 9 % fewer.
        # A single lane works on all cores, and less well than two threads that take turns.
        self.io_workers = max(2, len(lanes.engine.lanes))

    def classify(self, image: object) -> Prediction:
        """See `Predictor`."""
        crop = self.preprocess(image)
        return self.predict_batch([crop])[0] if isinstance(crop, Crop) else self.refused(crop)

    def classify_many(self, images: Sequence[object], *, in_one_thread: bool = False) -> list[Prediction]:
        """See `Predictor`."""
        lanes = 1 if in_one_thread else len(self._lanes.engine.lanes)
        rounds = -(-len(images) // (PORTION * lanes))
        size = -(-len(images) // max(rounds * lanes, 1))  # the same for all threads, so that none is left with more
        portions = [images[start : start + size] for start in range(0, len(images), max(size, 1))]
        spread = map if in_one_thread else self._lanes.parallel_map
        return [call for calls in spread(self._classify_portion, portions) for call in calls]

    def _classify_portion(self, images: Sequence[object]) -> list[Prediction]:
        """Crops all, then lets the network see all, in turn with other threads, and last votes on all.

        Each of the three finds its code and its tables in the processor's caches: measured with the shipped bundle on two cores
        that were busy with other work, 11 % less of processor time a cell than one cell after the other.
        """
        taken = [self._preprocess_or_refuse(image) for image in images]
        crops = [one for one in taken if isinstance(one, Crop)]
        answers = [self._lanes.infer_on_lane(crop.pixels[None]) for crop in crops]
        boxes = [crop.box for crop in crops]
        calls = iter(self._postprocessor.predictions(boxes, np.concatenate(answers)) if crops else [])
        return [next(calls) if isinstance(one, Crop) else self.refused(one) for one in taken]

    def _preprocess_or_refuse(self, image: object) -> Crop | Refusal:
        try:
            return self.preprocess(image)
        except ImageError as error:
            return Refusal("not-8-bit-rgb", str(error))

    def classify_decoded(self, image: NDArray[np.uint8], wait: Callable[[Taken], Prediction]) -> Prediction:
        """See `Predictor`: each thread does everything for its file."""
        return self._classify_portion([image])[0]

    def preprocess(self, image: object) -> Crop | Refusal:
        """See `Predictor`."""
        pixels = load_pixels(image)
        return pixels if isinstance(pixels, Refusal) else crop_cell(pixels, self._spec)

    def predict_batch(self, taken: Sequence[Crop]) -> list[Prediction]:
        """See `Predictor`."""
        pixels = taken[0].pixels[None] if len(taken) == 1 else np.stack([crop.pixels for crop in taken])
        return self._postprocessor.predictions([crop.box for crop in taken], self._lanes.infer_on_lane(pixels))


class GpuPredictor:
    """See `Predictor`: an engine that crops by itself gets the images, many at once where there are many."""

    def __init__(self, image_input: ImageInput, lanes: InferencePool, postprocessor: VotePostprocessor) -> None:
        self._input, self._lanes, self._postprocessor = image_input, lanes, postprocessor
        self.refused = postprocessor.refused
        # Those that wait for an answer fill the batch of the next one.
        self.io_workers = max(usable_threads() + 1, 8)

    def classify(self, image: object) -> Prediction:
        """See `Predictor`."""
        taken = self._take(image)
        return self.refused(taken) if isinstance(taken, Refusal) else self.predict_batch([taken])[0]

    def classify_many(self, images: Sequence[object], *, in_one_thread: bool = False) -> list[Prediction]:
        """See `Predictor`."""
        taken = [self._take_or_refuse(image) for image in images]
        good = [one for one in taken if not isinstance(one, Refusal)]
        size = self._lanes.engine.batch
        portions = [good[start : start + size] for start in range(0, len(good), size)]
        spread = map if in_one_thread else self._lanes.parallel_map
        answers = iter([answer for portion in spread(self.predict_batch, portions) for answer in portion])
        return [self.refused(one) if isinstance(one, Refusal) else next(answers) for one in taken]

    def classify_decoded(self, image: NDArray[np.uint8], wait: Callable[[Taken], Prediction]) -> Prediction:
        """See `Predictor`: the image is nobody else's, so it waits as it is."""
        return wait(image)

    def preprocess(self, image: object) -> Taken:
        """See `Predictor`."""
        taken = self._take(image)
        return taken if isinstance(taken, Refusal) else self._input.retain(taken)

    def predict_batch(self, taken: Sequence[Taken]) -> list[Prediction]:
        """See `Predictor`."""
        found, answers = self._lanes.infer_images(taken)
        boxes = {number: box for number, box in enumerate(found) if not isinstance(box, Refusal)}
        calls = iter(self._postprocessor.predictions(list(boxes.values()), answers[list(boxes)]) if boxes else [])
        return [self.refused(one) if isinstance(one, Refusal) else next(calls) for one in found]

    def _take(self, image: object) -> Taken | Refusal:
        pixels = load_pixels(image)
        return pixels if isinstance(pixels, Refusal) else self._input.check(pixels)

    def _take_or_refuse(self, image: object) -> Taken | Refusal:
        try:
            return self._take(image)
        except ImageError as error:
            return Refusal("not-8-bit-rgb", str(error))


def make_predictor(
    bundle: Bundle,
    lanes: InferencePool,
    audit: Audit,
    answered: Callable[[], None],
    unlike_training: UnlikeTraining = "refuse",
) -> Predictor:
    """The predictor that goes with the engine."""
    partial, image_input = lanes.cascade is not None, lanes.engine.image_input
    postprocessor = VotePostprocessor(bundle, audit, answered, partial=partial, unlike_training=unlike_training)
    if image_input is None:
        return CpuPredictor(bundle, lanes, postprocessor)
    return GpuPredictor(image_input, lanes, postprocessor)
