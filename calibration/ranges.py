"""How far the values of a graph reach on the calibration cells, by one of three methods.

    minmax       the largest absolute value
    percentile   the value below which a share of the absolute values lies: a few outliers don't coarsen all the rest
    entropy      the cut that changes the histogram least (Kullback-Leibler), as TensorRT's calibrator does it

Values are streamed: a batch of activations is held at a time, and one histogram of 2,048 bins for each value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.answers import GraphAnswers, batches
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.plan import Plan
from blastscope.runtime.errors import EngineError, MissingLibrary

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

BATCH = 4
BINS = 2048
LEVELS = 128  # of int8 on one side of zero


@dataclass(frozen=True, slots=True)
class Ranges:
    """The absolute value that int8's 127 stands for, by group of the plan, and the crops that can't calibrate."""

    reach: dict[str, float]
    means: dict[str, NDArray[np.float32]]  # of each value with channels, (C,)
    refused: tuple[tuple[int, str], ...]  # row of the crops, with the reason; they don't count in `reach`


def find_ranges(model: onnx.ModelProto, plan: Plan, crops: NDArray[np.uint8], config: CalibrationConfig) -> Ranges:
    """The ranges of the fp32 graph `model` on `crops` (N, S, S, 3).

    A crop is refused on which a value is infinite, not a number, or zero where other crops fill it. Raises `EngineError` where
    none is left. A value that is zero on every crop, as after a branch of zero weights, is zero at any scale.
    """
    values = sorted({value for members in plan.measured.values() for value in members})
    session = GraphAnswers(with_outputs(model, values))
    largest, means = _largest(session, values, crops)
    dead = ~(largest != 0).any(axis=0)
    refused = tuple(_refused(np.where(dead, np.float32(1), largest), values))
    kept = np.setdiff1d(np.arange(len(crops)), [row for row, _ in refused])
    if not len(kept):
        raise EngineError(f"no cell can calibrate: on the first, {refused[0][1] if refused else 'there is none'}")
    at = {value: float(reach) for value, reach in zip(values, largest[kept].max(axis=0), strict=True)}
    reach = {group: max(at[value] for value in members) or 1.0 for group, members in plan.measured.items()}
    if config.method != "minmax":
        histograms = _histograms(session, plan, crops[kept], reach)
        reach = {group: _cut(histograms[group], most, config) for group, most in reach.items()}
    return Ranges(reach, means, refused)


def _largest(
    session: GraphAnswers, values: list[str], crops: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """The largest absolute value of each crop and value (N, values), and each value's mean by channel."""
    rows: list[NDArray[np.float32]] = []
    sums: dict[str, NDArray[np.float64]] = {}
    for batch in batches(crops, BATCH):
        row = []
        for value, array in session.values(values, batch):
            # the views of a crop stand one batch apart
            row.append(np.abs(array.reshape(-1, len(batch), array[0].size)).max(axis=(0, 2)))
            if array.ndim in (2, 4) and np.isfinite(row[-1]).all():
                mean = array.mean(axis=(0, 2, 3) if array.ndim == 4 else 0, dtype=np.float64)
                sums[value] = sums.get(value, np.zeros_like(mean)) + mean * len(batch)
        rows.append(np.stack(row, axis=1))
    return np.concatenate(rows), {value: (total / len(crops)).astype(np.float32) for value, total in sums.items()}


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
