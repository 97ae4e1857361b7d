"""One int8 graph file from one fp32 graph file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.plan import plan_of
from blastscope.calibration.quantise import quantise
from blastscope.calibration.ranges import find_ranges
from blastscope.runtime.errors import MissingLibrary

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error


def make_int8(source: Path, target: Path, crops: NDArray[np.uint8], config: CalibrationConfig) -> tuple[tuple[int, str], ...]:
    """Writes to `target` the int8 graph of the fp32 graph `source`, with ranges from `crops` (N, S, S, 3).

    Returns the rows of the crops that can't calibrate, with the reason; they have no part in the ranges.
    """
    model = onnx.load(source)
    plan = plan_of(model)
    ranges = find_ranges(model, plan, crops, config)
    small = quantise(model, plan, ranges.reach, means=ranges.means, weight_bits=config.weight_bits)
    target.write_bytes(small.SerializeToString(deterministic=True))
    return ranges.refused
