"""How well a detector finds the white cells of frames that it never saw, at a scale that nobody tells it; and its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from blastscope.runtime.evaluation.detection import DetectionMetrics, Outcome, detection_metrics, match_boxes
from blastscope.runtime.frames.detection.cells import detect_at_scale, red_cells_found
from blastscope.runtime.frames.detection.detector import Detections, Detector
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.estimation.pixel_size import RedCells
from blastscope.runtime.frames.image_pyramid import ImagePyramid, image_pyramid
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Box
from blastscope.train.detector.fit import FitHistory
from blastscope.train.detector.network import Detector as DetectorModule
from blastscope.train.detector.network import compiled_module
from blastscope.train.detector.sources import WHITE, Frame, bccd_frames, read_rgb, txl_frames
from blastscope.train.detector.stress import NAMES, stressed
from blastscope.train.progress import TrainingProgress

LIMITS = (0.2, 0.25, 0.3, 0.325, 0.35, 0.375, 0.4, 0.425, 0.45, 0.5, 0.55, 0.6)  # of the score, at which a detector is judged
STRESS_EACH = 10  # every so many frames of a left-out source are looked at under each change, too


class LimitScores(StrictModel):
    """What a detector shows at one limit of the score.

    Attributes
    ----------
    limit : float
        A box with at least this probability counts as found.
    metrics : DetectionMetrics or None
        None where nothing is labelled.
    """

    limit: float
    metrics: DetectionMetrics | None


class StressScores(StrictModel):
    """What was found in frames that were changed in one way.

    Attributes
    ----------
    name : str
        The change, one of `stress.NAMES`.
    frames : int
        How many.
    by_limit : tuple of LimitScores
        The detector, at each limit of its score.
    wrong_scale : float
        Share of frames whose scale is off by more than 1.3.
    """

    name: str
    frames: int
    by_limit: tuple[LimitScores, ...]
    wrong_scale: float

    def at(self, limit: float) -> DetectionMetrics | None:
        """The scores at one of `LIMITS`."""
        return _at(self.by_limit, limit)


class SourceScores(StrictModel):
    """What was found in the frames of one source.

    Attributes
    ----------
    source : str
        The source, or the part of it that no detector trains on.
    frames : int
        How many.
    left_out : bool
        Whether the detector was trained without all of the source's pictures, and not only without these.
    by_limit : tuple of LimitScores
        The detector, at each limit of its score.
    by_stain : DetectionMetrics or None
        The cells that are found by their stain alone, as without a detector.
    wrong_scale : float
        Share of frames whose scale is off by more than 1.3 after the detector has checked it.
    wrong_scale_before : float
        The same before.
    stress : tuple of StressScores
        What was found in some of the frames once they were changed, for each change.
    """

    source: str
    frames: int
    left_out: bool
    by_limit: tuple[LimitScores, ...]
    by_stain: DetectionMetrics | None
    wrong_scale: float
    wrong_scale_before: float
    stress: tuple[StressScores, ...] = ()

    def at(self, limit: float) -> DetectionMetrics | None:
        """The scores at one of `LIMITS`."""
        return _at(self.by_limit, limit)


def _at(by_limit: Sequence[LimitScores], limit: float) -> DetectionMetrics | None:
    return next(one.metrics for one in by_limit if one.limit == limit)


class TorchNetwork:
    """A detector as PyTorch has it, run by OpenVINO, on pictures of any size."""

    def __init__(self, module: DetectorModule) -> None:
        self._compiled = compiled_module(module, (1, -1, -1, 3))

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB."""
        return np.array(self._compiled(picture[None])[0][0], np.float32)

    def close(self) -> None:
        """Frees nothing: it goes with its owner."""


def score_source(
    source: str, frames: Sequence[Frame], module: DetectorModule, pixel_um: float, *, left_out: bool, progress: TrainingProgress
) -> SourceScores:
    """How well the white cells of frames are found, by the detector and by their stain.

    The scale is measured as the runtime does; the boxes of red cells only tell how often it was wrong.

    Parameters
    ----------
    source : str
        Where the frames come from.
    frames : sequence of Frame
        With their labels.
    module : Detector
        The trained network.
    pixel_um : float
        Micrometres per pixel of the pictures that it takes.
    left_out : bool
        Whether it was trained without this source.
    progress : TrainingProgress
        Is told of each frame.

    Returns
    -------
    SourceScores
    """
    detector = Detector(TorchNetwork(module), pixel_um, LIMITS[0])
    spec = FrameSpecification()
    whole = _Tally(spec)
    changed = {name: _Tally(spec) for name in NAMES} if left_out else {}
    by_stain: list[Outcome] = []
    wrong_before = []
    for at, frame in enumerate(frames):
        file = read_rgb(frame.path)
        pictures = image_pyramid(file, 1)
        before = estimate_frame_parameters(pictures, spec)
        labelled = frame.boxes[frame.labels == WHITE]
        whole.add(frame, labelled, find_white_cells(detector, pictures, spec))
        stained = [cell.box for cell in segment_cells(pictures, before, spec)]
        by_stain += _outcomes(frame.path.name, labelled, np.asarray(stained, np.float32).reshape(-1, 4))
        wrong_before.append(whole.is_wrong(frame, before))
        for name, tally in changed.items() if at % STRESS_EACH == 0 else ():
            picture, labelled = stressed(name, file, frame, at)
            tally.add(frame, labelled, find_white_cells(detector, image_pyramid(picture, 1), spec))
        progress.advance(f"scoring {source}", at + 1, len(frames))
    return SourceScores(
        source=source,
        frames=len(frames),
        left_out=left_out,
        by_limit=whole.by_limit(),
        by_stain=detection_metrics(by_stain),
        wrong_scale=whole.wrong_scale,
        wrong_scale_before=float(np.mean(wrong_before)) if wrong_before else 0.0,
        stress=tuple(
            StressScores(name=name, frames=len(tally.wrong), by_limit=tally.by_limit(), wrong_scale=tally.wrong_scale)
            for name, tally in changed.items()
        ),
    )


class _Tally:
    """What was found in some frames, at each limit of the score."""

    def __init__(self, spec: FrameSpecification) -> None:
        self._spec = spec
        self._outcomes: dict[float, list[Outcome]] = {limit: [] for limit in LIMITS}
        self.wrong: list[bool] = []

    def add(self, frame: Frame, labelled: NDArray[np.float32], found: tuple[FrameParameters, Detections]) -> None:
        """Counts one frame."""
        facts, white = found
        for limit, outcomes in self._outcomes.items():
            outcomes += _outcomes(frame.path.name, labelled, white.boxes[white.scores >= limit])
        self.wrong.append(self.is_wrong(frame, facts))

    def is_wrong(self, frame: Frame, facts: FrameParameters) -> bool:
        """Whether a scale is off by more than 1.3."""
        true_um = self._spec.red_cell_um / frame.red_cell_px
        return bool(abs(np.log(facts.pixel_um / true_um)) > np.log(1.3))

    def by_limit(self) -> tuple[LimitScores, ...]:
        return tuple(LimitScores(limit=limit, metrics=detection_metrics(found)) for limit, found in self._outcomes.items())

    @property
    def wrong_scale(self) -> float:
        """Share of the frames."""
        return float(np.mean(self.wrong)) if self.wrong else 0.0


def find_white_cells(
    detector: Detector, pictures: ImagePyramid, spec: FrameSpecification
) -> tuple[FrameParameters, Detections]:
    """The white cells that `examine` finds in a frame whose scale nobody tells.

    Parameters
    ----------
    detector : Detector
        What finds them.
    pictures : ImagePyramid
        Of the frame.
    spec : FrameSpecification
        What is assumed of it.

    Returns
    -------
    FrameParameters
        Scale and stain, as they were measured.
    Detections
        In pixels of the frame.

    Raises
    ------
    EngineError
        The inference library broke off.
    """

    def measure(pictures: ImagePyramid, content: Box) -> RedCells | None:
        return red_cells_found(detector, pictures, content, guess_um=None, red_cell_um=spec.red_cell_um)

    facts = estimate_frame_parameters(pictures, spec, measure=measure)
    detection = detect_at_scale(detector, pictures, facts.content, facts.pixel_um)
    corner = np.asarray((detection.grid.x0, detection.grid.y0) * 2, np.float32)
    white = detection.found.white.scaled(detection.grid.factor)
    return facts, white._replace(boxes=white.boxes + corner)


def _outcomes(unit: str, labelled: NDArray[np.float32], found: NDArray[np.float32]) -> list[Outcome]:
    """Every labelled and every found cell of one frame; the unit of intervals is the frame."""
    pairs = match_boxes(whole_boxes(labelled), whole_boxes(found))
    rows = [Outcome(unit, 0, at in pairs, None, None, None) for at in range(len(labelled))]
    hit = set(pairs.values())
    return rows + [Outcome(unit, None, True, None, None, None) for at in range(len(found)) if at not in hit]


def whole_boxes(boxes: NDArray[np.float32]) -> list[Box]:
    """`boxes` (K, 4) in whole pixels, none of them empty."""
    corners = ([round(side) for side in box] for box in boxes.tolist())
    return [(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)) for x0, y0, x1, y1 in corners]


def frames_of(data: Path, source: str) -> list[Frame]:
    """The frames that a detector trained without `source` is judged on: all of it."""
    if source == "bccd":
        return [*bccd_frames(data / "bccd", "train"), *bccd_frames(data / "bccd", "val")]
    return txl_frames(data / "txl", source)


AIMED = (0.95, 0.90)  # recall and precision of each left-out source


class DetectorReport(StrictModel):
    """What a run's detectors showed.

    Attributes
    ----------
    run : mapping of str to JsonValue
        Configuration, digests, versions.
    limit : float
        Limit of the score.
    others_limits : mapping of str to float
        For each left-out source, the limit that the other left-out sources would choose, without any label of this one.
    sources : tuple of SourceScores
        How well the cells of each source were found.
    history : FitHistory
        Losses of the heads that were trained on all sources, their mean.
    """

    run: dict[str, JsonValue]
    limit: float
    sources: tuple[SourceScores, ...]
    history: FitHistory
    others_limits: dict[str, float] = {}


def best_limit(scores: Sequence[SourceScores]) -> float:
    """The limit of the score at which no left-out source falls further short of `AIMED` than at others."""

    def short(limit: float) -> float:
        return max(_short_of_aim(source.at(limit)) for source in scores if source.left_out)

    return min(LIMITS, key=short)


def limits_by_others(scores: Sequence[SourceScores]) -> dict[str, float]:
    """For each left-out source, the limit that the other left-out sources choose: no label of the source decides it."""
    left_out = [source for source in scores if source.left_out]
    return {source.source: best_limit([other for other in left_out if other is not source]) for source in left_out}


def write_report(folder: Path, report: DetectorReport) -> None:
    """Writes report.json and index.html."""
    folder.mkdir(parents=True, exist_ok=True)
    write_content(folder / "report.json", json.dumps(report.model_dump(mode="json"), indent=1) + "\n")
    write_content(folder / "index.html", render(report))


def render(report: DetectorReport) -> str:
    """The page, which loads nothing from anywhere."""
    return render_template(
        "detector.html",
        title="Detector of white cells",
        report=report,
        limit=f"{report.limit:.3g}",
        limits=LIMITS,
        aimed=AIMED,
        source_columns=[("limit", ""), *((source.source, "n") for source in report.sources)],
        stress_columns=[("change", ""), *((source.source, "n") for source in report.sources if source.stress)],
    )


def _short_of_aim(found: DetectionMetrics | None) -> float:
    recall, precision = (found.recall.value, found.precision.value) if found else (0.0, 0.0)
    return max(AIMED[0] - recall, AIMED[1] - precision)
