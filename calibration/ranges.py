"""How far the values of a graph reach on the calibration cells, by one of three methods.

    minmax       the largest absolute value
    percentile   the value below which a share of the absolute values lies: a few outliers don't coarsen all the rest
    entropy      the cut that changes the histogram least (Kullback-Leibler), as TensorRT's calibrator does it

Values are streamed: a batch of activations is held at a time, and one histogram of 2,048 bins for each value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.answers import GraphAnswers, batches
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.plan import Plan
from blastscope.runtime.errors import MissingLibrary

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

BATCH = 4
BINS = 2048
LEVELS = 128  # of int8 on one side of zero


class RangeProblem(Exception):
    """A cell that can't calibrate: `row` of the crops, `value` of the graph, and why."""

    def __init__(self, row: int, value: str, problem: str) -> None:
        self.row, self.value, self.problem = row, value, problem
        super().__init__(f"crop {row}: {value} {problem}")


def find_ranges(model: onnx.ModelProto, plan: Plan, crops: NDArray[np.uint8], config: CalibrationConfig) -> dict[str, float]:
    """The absolute value that int8's 127 stands for, by group of `plan`. Raises `RangeProblem`."""
    values = sorted({value for members in plan.measured.values() for value in members})
    session = GraphAnswers(with_outputs(model, values))
    largest = dict.fromkeys(values, 0.0)
    for start, batch in enumerate(batches(crops, BATCH)):
        for value, array in session.values(values, batch):
            each = np.abs(array.reshape(len(batch), -1) if len(array) == len(batch) else array.reshape(1, -1)).max(axis=1)
            _check(each, start * BATCH, value)
            largest[value] = max(largest[value], float(each.max()))
    groups = {group: max((largest[value] for value in members), default=0.0) for group, members in plan.measured.items()}
    for group, reach in groups.items():
        if reach <= 0:
            raise RangeProblem(-1, group, "is zero on every cell")
    if config.method == "minmax":
        return groups
    histograms = _histograms(session, plan, crops, groups)
    return {group: _cut(histograms[group], reach, config) for group, reach in groups.items()}


def with_outputs(model: onnx.ModelProto, values: list[str]) -> bytes:
    """`model` with `values` as further outputs."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    wide.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in values)
    content: bytes = wide.SerializeToString()
    return content


def _check(each: NDArray[np.float32], first: int, value: str) -> None:
    bad = np.flatnonzero(~np.isfinite(each))
    if len(bad):
        raise RangeProblem(first + int(bad[0]), value, "is infinite or not a number")


def _histograms(
    session: GraphAnswers, plan: Plan, crops: NDArray[np.uint8], groups: dict[str, float]
) -> dict[str, NDArray[np.int64]]:
    group_of = {value: group for group, members in plan.measured.items() for value in members}
    counts = {group: np.zeros(BINS, np.int64) for group in groups}
    for batch in batches(crops, BATCH):
        for value, array in session.values(sorted(group_of), batch):
            group = group_of[value]
            place = (np.abs(array).ravel() * np.float32(BINS / groups[group])).astype(np.int32)
            counts[group] += np.bincount(np.minimum(place, BINS - 1), minlength=BINS)
    return counts


def _cut(histogram: NDArray[np.int64], reach: float, config: CalibrationConfig) -> float:
    bins = percentile_bins(histogram, config.percentile) if config.method == "percentile" else entropy_bins(histogram)
    return reach * bins / BINS


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
