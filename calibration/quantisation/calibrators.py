"""Activation ranges from calibration cells, by maximum, percentile or entropy.

    minmax       the largest absolute value
    percentile   the value below which a share of the absolute values lies: a few outliers don't coarsen all the rest
    entropy      the cut that changes the histogram least (Kullback-Leibler), as TensorRT's calibrator does it

Values are streamed: a batch of activations is held at a time, and one histogram of 2,048 bins for each value. One measurement
serves all three methods, and every plan that quantises the same values or fewer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.config import Method
from blastscope.calibration.evaluation import ProgressLog, ReferenceRunner, batches
from blastscope.calibration.quantisation.qdq_placement import QdqPlan
from blastscope.runtime.errors import EngineError, MissingLibrary

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

BATCH = 4
BINS = 2048
HISTOGRAM_SAMPLES = 1 << 18  # values of one batch that go into a histogram
LEVELS = 128  # of int8 on one side of zero


@dataclass(frozen=True, slots=True)
class ActivationStats:
    """Statistics of a graph's activations on the calibration cells, by the value's name.

    Attributes
    ----------
    largest : dict of str to float
        The largest absolute value.
    channels : dict of str to (C,) float32 array
        The same by channel, of the maps that convolutions take.
    means : dict of str to (C,) float32 array
        Means by channel of the same maps.
    histograms : dict of str to int64 array
        Of the absolute values, from 0 to the largest; empty where none was asked for.
    refused : tuple of (int, str)
        Rows of the crops that don't count in how far values reach, each with the reason.
    """

    largest: dict[str, float]
    channels: dict[str, NDArray[np.float32]]
    means: dict[str, NDArray[np.float32]]
    histograms: dict[str, NDArray[np.int64]]
    refused: tuple[tuple[int, str], ...]
    _cuts: dict[tuple[object, ...], float] = field(default_factory=dict)

    def ranges(self, plan: QdqPlan, method: Method, percentile: float) -> dict[str, float]:
        """The range of each group of `plan`, which is what 127 stands for, by one `method`."""
        found = {}
        for group, members in plan.members.items():
            key = (members, method, percentile)
            if key not in self._cuts:
                self._cuts[key] = self._cut(members, method, percentile)
            found[group] = self._cuts[key]
        return found

    def _cut(self, members: tuple[str, ...], method: Method, percentile: float) -> float:
        most = max(self.largest[value] for value in members) or 1.0
        if method == "minmax":
            return most
        histogram = sum(rescale_histogram(self.histograms[value], self.largest[value] / most) for value in members)
        assert not isinstance(histogram, int)
        bins = percentile_bins(histogram, percentile) if method == "percentile" else entropy_bins(histogram)
        return most * bins / BINS


def collect_stats(
    model: onnx.ModelProto, plan: QdqPlan, crops: NDArray[np.uint8], *, histograms: bool = True
) -> ActivationStats:
    """The activation statistics of an fp32 graph.

    A crop is refused on which a value is infinite, not a number, or zero where other crops fill it. A value that is zero on
    every crop, as after a branch of zero weights, is zero at any scale.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph.
    plan : QdqPlan
        Which values are measured.
    crops : (N, S, S, 3) uint8 array
        The calibration cells, RGB.
    histograms : bool
        Whether histograms are taken; minmax needs none.

    Returns
    -------
    ActivationStats

    Raises
    ------
    EngineError
        Every crop is refused.
    """
    values = sorted({value for members in plan.members.values() for value in members})
    session = ReferenceRunner(with_outputs(model, values))
    maps = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    collector, progress = _StatsCollector(values, maps), ProgressLog("looks at cells", len(crops) * (2 if histograms else 1))
    for batch in batches(crops, BATCH):
        collector.update(session, batch)
        progress.step(len(batch))
    largest = np.concatenate(collector.largest)
    dead = ~(largest != 0).any(axis=0)
    refused = tuple(_refused(np.where(dead, np.float32(1), largest), values))
    kept = np.setdiff1d(np.arange(len(crops)), [row for row, _ in refused])
    if not len(kept):
        raise EngineError(f"no cell can calibrate: on the first, {refused[0][1] if refused else 'there is none'}")
    at = {value: float(reach) for value, reach in zip(values, largest[kept].max(axis=0), strict=True)}
    means = {value: (total / collector.counts[value]).astype(np.float32) for value, total in collector.sums.items()}
    counts = _histograms(session, crops[kept], at, progress) if histograms else {}
    return ActivationStats(at, collector.channels, means, counts, refused)


class _StatsCollector:
    """Collects statistics in a first pass over the crops."""

    def __init__(self, values: list[str], maps: set[str]) -> None:
        self._values, self._maps = values, maps  # maps: those that a convolution takes, whose channels are the second axis
        self.largest: list[NDArray[np.float32]] = []  # of each crop and value, (n, values) a batch
        self.sums: dict[str, NDArray[np.float64]] = {}  # of each value's channels, over
        self.counts: dict[str, int] = defaultdict(int)  # so many crops: a batch with an infinite value has no part
        self.channels: dict[str, NDArray[np.float32]] = {}

    def update(self, session: ReferenceRunner, batch: NDArray[np.uint8]) -> None:
        """Adds one batch of crops to the statistics."""
        row = []
        for value, array in session.values(self._values, batch):
            size = np.abs(array)
            row.append(_by_crop(size, len(batch)))
            if value in self._maps and array.ndim == 4 and np.isfinite(row[-1]).all():
                mean = array.mean(axis=(0, 2, 3), dtype=np.float64)
                self.sums[value] = self.sums.get(value, np.zeros_like(mean)) + mean * len(batch)
                self.counts[value] += len(batch)
                most = size.max(axis=(0, 2, 3))
                self.channels[value] = np.maximum(self.channels.get(value, most), most)
        self.largest.append(np.stack(row, axis=1))


def _by_crop(size: NDArray[np.float32], crops: int) -> NDArray[np.float32]:
    """The largest of `size` for each crop; the same for all where the crops don't stand along the first axis.

    The views of a crop stand one batch apart. What attention folds or puts before the batch is not told apart.
    """
    if size.ndim == 0 or len(size) % crops:
        return np.full(crops, size.max())
    largest: NDArray[np.float32] = size.reshape(-1, crops, size[0].size).max(axis=(0, 2))
    return largest


def _refused(largest: NDArray[np.float32], values: list[str]) -> Iterator[tuple[int, str]]:
    for row in range(len(largest)):
        for value, reach in zip(values, largest[row], strict=True):
            if not 0 < reach < np.inf:  # NaN too
                yield row, f"the range of {value} is {'zero' if reach == 0 else 'infinite or no number'}"
                break


def with_outputs(model: onnx.ModelProto, values: list[str]) -> bytes:
    """`model` with `values` as further outputs."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    wide.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in values)
    content: bytes = wide.SerializeToString()
    return content


def _histograms(
    session: ReferenceRunner, crops: NDArray[np.uint8], largest: dict[str, float], progress: ProgressLog
) -> dict[str, NDArray[np.int64]]:
    counts = {value: np.zeros(BINS, np.int64) for value in largest}
    for batch in batches(crops, BATCH):
        for value, array in session.values(list(largest), batch):
            place = (np.abs(subsample(array)) * np.float32(BINS / (largest[value] or 1.0))).astype(np.int32)
            counts[value] += np.bincount(np.minimum(place, BINS - 1), minlength=BINS)
        progress.step(len(batch))
    return counts


def subsample(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most about `HISTOGRAM_SAMPLES` values of `array`, evenly from all of it: a percentile needs no more."""
    step = max(array.size // HISTOGRAM_SAMPLES, 1)
    while gcd(step, array.shape[-1]) > 1:  # not one column of a map alone
        step += 1
    return array.ravel()[::step]


def rescale_histogram(histogram: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """`histogram` of values that reach to `share` of a wider range, on bins of that range."""
    if share == 1:
        return histogram
    place = ((np.arange(BINS) + 0.5) * share).astype(np.int64)
    return np.bincount(place, weights=histogram, minlength=BINS).astype(np.int64)


def percentile_bins(histogram: NDArray[np.int64], percentile: float) -> int:
    """How many bins hold `percentile` % of the values that aren't in the first bin: zeros after ReLU say nothing of reach."""
    counts = histogram.copy()
    counts[0] = 0
    total = counts.cumsum()
    if total[-1] == 0:
        return len(histogram)
    return int(np.searchsorted(total, total[-1] * percentile / 100)) + 1


def entropy_bins(histogram: NDArray[np.int64]) -> int:
    """How many bins to keep so that the histogram, cut there and put on 128 levels, is least changed."""
    counts = histogram.astype(np.float64)
    counts[0] = 0  # zeros are kept exactly, whatever the scale
    if not counts.any():
        return len(histogram)
    best, least = len(histogram), np.inf
    for bins in range(LEVELS, len(histogram) + 1, 16):
        kept = counts[:bins].copy()
        wanted = kept.copy()
        wanted[-1] += counts[bins:].sum()
        level = np.arange(bins) * LEVELS // bins
        filled = kept > 0
        sums = np.bincount(level, kept, LEVELS)
        occupied = np.bincount(level, filled.astype(np.float64), LEVELS)
        spread = np.where(filled, (sums / np.maximum(occupied, 1))[level], 0)
        change = _divergence(wanted, spread)
        if change < least:
            best, least = bins, change
    return best


def _divergence(wanted: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    p, q = wanted / wanted.sum(), given / max(given.sum(), 1e-12)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-9))).sum())
