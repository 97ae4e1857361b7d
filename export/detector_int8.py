"""Makes an int8 graph of a bundle's detector, and admits it where it finds the cells that the fp32 graph finds.

Frames of the detector's training set the ranges, other frames judge. Both graphs look at each of these as `examine` does, at
a scale that nobody tells, in every engine that a CPU has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from blastscope.calibration.calibrate import open_writable_bundle
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.quantizer import Int8Builder, QuantConfig
from blastscope.export.detector import INT8_FILE, with_detector
from blastscope.runtime.bundle import describe_file
from blastscope.runtime.bundle.entries import DetectorGate, DetectorInt8
from blastscope.runtime.bundle.graphs import examine_graph
from blastscope.runtime.bundle.graphs.wire import UnfitGraph
from blastscope.runtime.errors import BundleError, DataError, EngineError
from blastscope.runtime.evaluation.bootstrap import bootstrap_interval, bootstrap_samples
from blastscope.runtime.evaluation.detection import match_boxes
from blastscope.runtime.frames.detection.detector import Detector
from blastscope.runtime.frames.detection.loading import golden_difference, open_network
from blastscope.runtime.frames.image_pyramid import image_pyramid
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.detector.evaluation import find_white_cells, whole_boxes
from blastscope.train.detector.sources import WHITE, Frame, bccd_frames, each_source, read_rgb

logger = logging.getLogger(__name__)

ENGINES = ("openvino", "onnxruntime")
PICTURES = 96  # that set the ranges, from all sources
PICTURE_PX = 256
MOST_FRAMES = 120  # of one source that judge
MIN_AGREEMENT, MAX_DROP_POINTS = 0.97, 1.0
MOST_TOLERANCE = 0.3  # of a probability on the golden pictures: a graph that is further off isn't the same detector
SPARE = 1.5  # other CPUs round otherwise: so many times the largest difference that was seen is tolerated
DRAWS = 1000


class DetectorCalibration(StrictModel):
    """What came of making a detector int8.

    Attributes
    ----------
    gates : tuple of DetectorGate
        How each engine's int8 answers compare with its fp32 ones.
    tolerance : float
        The largest difference of a probability from the trained network's that readers of the bundle will admit.
    pictures : int
        How many pictures set the ranges.
    admitted : bool
        Whether the int8 graph is in the bundle now.
    """

    gates: tuple[DetectorGate, ...]
    tolerance: float
    pictures: int
    admitted: bool

    def text(self) -> str:
        """The result for people, one line per engine."""
        rows = [
            f"{gate.engine:12s} {gate.frames} frames, {gate.cells} white cells: {gate.agreement.value:.1%} found by both"
            f" ({gate.agreement.low:.1%} to {gate.agreement.high:.1%}; at least {gate.min_agreement:.0%}), recall"
            f" {-gate.recall_drop_points.value:+.2f} points, precision {-gate.precision_drop_points.value:+.2f}"
            f" (at most {gate.max_drop_points:g} less)"
            for gate in self.gates
        ]
        verdict = "the int8 graph is in the bundle" if self.admitted else "refused: the bundle is as it was"
        return "\n".join([*rows, f"tolerance {self.tolerance:.3f}", verdict])


def calibrate_detector(bundle: Path | str, data: Path) -> DetectorCalibration:
    """Makes an int8 graph of the detector of the bundle in the folder `bundle`, and admits it if its gate holds.

    Parameters
    ----------
    bundle : Path or str
        Folder of the bundle; it is changed in one step, or not at all.
    data : Path
        Folder with `bccd` and `txl`, as `train-detector` takes it.

    Returns
    -------
    DetectorCalibration

    Raises
    ------
    BundleError
        The bundle has no detector, or breaks a rule of the format.
    DataError
        `data` lacks what is needed.
    EngineError, MissingLibrary
        No int8 graph can be made, or a library refuses it or isn't there.
    """
    source = open_writable_bundle(bundle)
    entry = source.manifest.detector
    if entry is None:
        raise BundleError(source.path, "has no detector: put one into it by 'blastscope add-detector'")
    ranges, judges = _split(data)
    graph, golden = source.read(entry.graph), source.read(entry.golden)
    logger.info("measuring ranges on %s pictures", len(ranges))
    pictures = np.stack([_picture(frame, entry.pixel_um) for frame in ranges])
    int8 = _int8_graph(graph, pictures)
    place = source.path / INT8_FILE
    gates, differences = [], []
    for engine in ENGINES:
        networks = [
            open_network(content, place, backend=engine, threads=0, int8=is_int8)
            for content, is_int8 in ((graph, False), (int8, True))
        ]
        try:
            differences.append(golden_difference(source, entry, networks[1]))
            gates.append(_judged(engine, judges, [Detector(one, entry.pixel_um, entry.least_score) for one in networks]))
        finally:
            for network in networks:
                network.close()
    tolerance = round(max(entry.tolerance, SPARE * max(differences)), 3)
    passed = all(gate.passed for gate in gates) and tolerance <= MOST_TOLERANCE
    if passed:
        worst = min(gates, key=lambda gate: gate.agreement.value)
        made = DetectorInt8(graph=describe_file(int8, INT8_FILE), tolerance=tolerance, pictures=len(pictures), gate=worst)
        with_detector(source, entry.model_copy(update={"int8": made}), graph, golden, int8)
    return DetectorCalibration(gates=tuple(gates), tolerance=tolerance, pictures=len(pictures), admitted=passed)


def _split(data: Path) -> tuple[list[Frame], list[Frame]]:
    """The frames that set the ranges, and those that judge: the rest, and those of BCCD that no detector learns from."""
    ranges: list[Frame] = []
    judges = bccd_frames(data / "bccd", "val")
    sources = [frames for _, frames in each_source(data)]
    for frames in sources:
        chosen = set(_spread(len(frames), PICTURES // len(sources)))
        ranges += [frame for at, frame in enumerate(frames) if at in chosen]
        rest = [frame for at, frame in enumerate(frames) if at not in chosen]
        judges += [rest[at] for at in _spread(len(rest), MOST_FRAMES)]
    if not ranges or not judges:
        raise DataError(data, f"has {len(ranges)} frames to set int8 ranges and {len(judges)} to judge them: both need some")
    return ranges, judges


def _spread(count: int, wanted: int) -> list[int]:
    """At most so many numbers below `count`, evenly apart."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist())) if count else []


def _picture(frame: Frame, pixel_um: float) -> NDArray[np.uint8]:
    """The middle of a frame (S, S, 3) at the detector's scale, by its red cells; what it lacks is filled with its edge."""
    picture = read_rgb(frame.path)
    ratio = FrameSpecification().red_cell_um / frame.red_cell_px / pixel_um
    size = max(round(picture.shape[1] * ratio), 1), max(round(picture.shape[0] * ratio), 1)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    top, left = (max(side - PICTURE_PX, 0) // 2 for side in small.shape[:2])
    part = small[top : top + PICTURE_PX, left : left + PICTURE_PX]
    down, across = (PICTURE_PX - side for side in part.shape[:2])
    return np.asarray(cv2.copyMakeBorder(part, 0, down, 0, across, cv2.BORDER_REPLICATE), np.uint8)


def _int8_graph(graph: bytes, pictures: NDArray[np.uint8]) -> bytes:
    """The int8 graph of an fp32 one, with ranges from `pictures` (N, S, S, 3). Raises `EngineError`."""
    builder = Int8Builder(onnx.load_model_from_string(graph), pictures, CalibrationConfig(method="minmax"), histograms=False)
    content = bytes(builder.build(QuantConfig(method="minmax")).SerializeToString(deterministic=True))
    try:
        examine_graph(content, models="detector")
    except UnfitGraph as error:
        raise EngineError(f"the int8 graph of the detector {error}") from error
    return content


def _judged(engine: str, frames: Sequence[Frame], detectors: Sequence[Detector]) -> DetectorGate:
    """How the cells that the second detector finds compare with those of the first."""
    counts = np.asarray([list(_counts(frame, detectors)) for frame in frames], np.float64)
    weights = bootstrap_samples(np.zeros(len(frames), np.int64), draws=DRAWS, seed=0)
    whole, drawn = _figures(counts.sum(axis=0)[None]), _figures(weights @ counts)
    agreement, recall, precision = (
        bootstrap_interval(float(value[0]), draws) for value, draws in zip(whole, drawn, strict=True)
    )
    either = counts[:, 1] + counts[:, 2] - counts[:, 5]
    gate = DetectorGate(
        engine=engine,
        frames=len(frames),
        cells=int(either.sum()),
        agreement=agreement,
        min_agreement=MIN_AGREEMENT,
        recall_drop_points=recall,
        precision_drop_points=precision,
        max_drop_points=MAX_DROP_POINTS,
    )
    logger.info("%s: %.1f %% of %s white cells found by both", engine, 100 * agreement.value, gate.cells)
    return gate


def _counts(frame: Frame, detectors: Sequence[Detector]) -> Iterator[int]:
    """White cells of a frame: labelled, found by each detector, of these the labelled ones, and found by both."""
    picture, spec = read_rgb(frame.path), FrameSpecification()
    labelled = whole_boxes(frame.boxes[frame.labels == WHITE])
    looks = [find_white_cells(detector, image_pyramid(picture, 1), spec) for detector in detectors]
    found = [whole_boxes(white.boxes) for _, white in looks]
    yield len(labelled)
    yield from (len(boxes) for boxes in found)
    yield from (len(match_boxes(labelled, boxes)) for boxes in found)
    yield len(match_boxes(*found))


def _figures(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Agreement, and points of recall and precision that the second detector loses, of rows of `_counts` (D, 6)."""
    labelled, first, second, first_hits, second_hits, both = np.maximum(counts, 1e-9).T
    recall, precision = (first_hits - second_hits) / labelled, first_hits / first - second_hits / second
    return both / (first + second - both), 100 * recall, 100 * precision
