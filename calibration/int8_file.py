"""One int8 graph file from one fp32 graph file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.recipe import Recipe, Workshop
from blastscope.runtime.errors import MissingLibrary

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error


def make_int8(
    source: Path, target: Path, crops: NDArray[np.uint8], config: CalibrationConfig, *, recipe: Recipe | None = None
) -> tuple[tuple[int, str], ...]:
    """Writes to `target` the int8 graph of the fp32 graph `source`, with ranges from `crops` (N, S, S, 3).

    By `recipe`, or by what `config` says without a search. Returns the rows of the crops that can't calibrate, with the reason;
    they have no part in the ranges.
    """
    recipe = recipe or plain(config)
    workshop = Workshop(onnx.load(source), crops, config, histograms=recipe.method != "minmax")
    write(workshop.build(recipe), target)
    return workshop.refused


def plain(config: CalibrationConfig) -> Recipe:
    """The recipe that `config` names; percentile where it leaves the method open."""
    return Recipe(method="percentile" if config.method == "auto" else config.method, corrected=config.correct)


def write(model: onnx.ModelProto, target: Path) -> None:
    """The same bytes for the same graph."""
    target.write_bytes(model.SerializeToString(deterministic=True))
