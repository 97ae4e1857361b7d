"""Builds int8 graphs by any quantisation configuration from one pass that collects activation statistics.

`choose_method` compares configurations by measurement and takes the one that moves the vote least on the search cells. One
thing is changed at a time: first the method, then whether biases are corrected, then whether channels are equalised.

`make_int8` writes one int8 graph file from one fp32 graph file.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.config import CalibrationConfig, Method
from blastscope.calibration.evaluation import DriftMetric, QuantisationDrift
from blastscope.calibration.quantisation.calibrators import ActivationStats, collect_stats
from blastscope.calibration.quantisation.feature_correction import Features, correct_features, find_features, read_features
from blastscope.calibration.quantisation.qdq import equalize_layers, insert_qdq
from blastscope.calibration.quantisation.qdq_placement import check_graph, make_plan
from blastscope.runtime.errors import ConfigError, MissingLibrary
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.strict_model import StrictModel

logger = logging.getLogger(__name__)

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error


class QuantConfig(StrictModel):
    """How an int8 graph is made: calibration method, corrections, and the layers that stay fp32.

    Attributes
    ----------
    method : Method
        How ranges are chosen.
    corrected : bool
        Biases, and what the heads read.
    equalised : bool
        Channels.
    floats : tuple of str
        Names of layers that stay fp32.
    """

    method: Method = "percentile"
    corrected: bool = True
    equalised: bool = False
    floats: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As in reports: 'percentile, corrected'."""
        extras = [word for word, is_so in (("corrected", self.corrected), ("equalised", self.equalised)) if is_so]
        return ", ".join([self.method, *extras])


@dataclass(frozen=True)
class Int8Builder:
    """Builds int8 graphs of one fp32 graph.

    Attributes
    ----------
    model : onnx.ModelProto
        The fp32 graph.
    crops : (N, S, S, 3) uint8 array
        The cells that set the ranges, RGB.
    config : CalibrationConfig
        Method and limits.
    histograms : bool
        Whether histograms are taken; False: enough for minmax alone.
    """

    model: onnx.ModelProto
    crops: NDArray[np.uint8]
    config: CalibrationConfig
    histograms: bool = True

    @cached_property
    def stats(self) -> ActivationStats:
        """The graph's values as they are. Raises `EngineError` where no crop can calibrate."""
        return collect_stats(self.model, make_plan(self.model), self.crops, histograms=self.histograms)

    @property
    def refused(self) -> tuple[tuple[int, str], ...]:
        """Rows of the crops that have no part in the ranges, with the reason."""
        return self.stats.refused

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be int8, in the graph's order."""
        weights = make_plan(self.model).weights
        return tuple(node.name for node in self.model.graph.node if len(node.input) > 1 and node.input[1] in weights)

    def build(self, recipe: QuantConfig, *, features: bool = True) -> onnx.ModelProto:
        """The int8 graph by the configuration `recipe`.

        Parameters
        ----------
        recipe
            Method, corrections and layers that stay fp32.
        features
            False: what the heads read isn't corrected, even where `recipe` corrects. That saves two runs on all crops where
            graphs are only compared with each other.

        Returns
        -------
        onnx.ModelProto
        """
        if unknown := [name for name in recipe.floats if name not in self.layers]:
            known = ", ".join(self.layers)
            raise ConfigError("calibrate", [f"float_layers: the graph has no layer {', '.join(unknown)}; it has {known}"])
        model, stats = self._equalized if recipe.equalised else (self.model, self.stats)
        plan = make_plan(model, recipe.floats)
        means = stats.means if recipe.corrected else None
        reach = stats.ranges(plan, recipe.method, self.config.percentile)
        child = insert_qdq(model, plan, reach, means=means, weight_bits=self.config.weight_bits)
        if not (recipe.corrected and features and self._features):
            return child
        child = correct_features(child, self._features, self._kept_crops)
        check_graph(child, "int8")
        return child

    @cached_property
    def _features(self) -> Features:
        """What the heads of the fp32 graph read, for the crops that calibrate."""
        names = find_features(self.model)
        return read_features(self.model, names, self._kept_crops) if names else {}

    @property
    def _kept_crops(self) -> NDArray[np.uint8]:
        kept: NDArray[np.uint8] = self.crops[np.setdiff1d(np.arange(len(self.crops)), [row for row, _ in self.refused])]
        return kept

    def can_equalise(self) -> bool:
        """Whether equalising changes anything."""
        return equalize_layers(self.model, self.stats.channels) is not None

    @cached_property
    def _equalized(self) -> tuple[onnx.ModelProto, ActivationStats]:
        """The graph with equalised channels, and its values."""
        model = equalize_layers(self.model, self.stats.channels) or self.model
        return model, collect_stats(model, make_plan(model), self._kept_crops, histograms=self.histograms)


def matching_layers(model: onnx.ModelProto, names: Collection[str], other: onnx.ModelProto) -> tuple[str, ...]:
    """The layers of `other` that have the weights of the layers `names` of `model`: a single graph numbers its own."""
    wanted = {digest for name, digest in _weights(model).items() if name in names}
    return tuple(name for name, digest in _weights(other).items() if digest in wanted)


def _weights(model: onnx.ModelProto) -> dict[str, str]:
    constants = {weight.name: weight for weight in model.graph.initializer}
    arrays = {
        node.name: onnx.numpy_helper.to_array(constants[node.input[1]])
        for node in model.graph.node
        if len(node.input) > 1 and node.input[1] in constants
    }
    return {name: bytes_sha256(repr(array.shape).encode() + array.tobytes()) for name, array in arrays.items()}


class MethodRow(StrictModel):
    """One quantisation configuration, and how far its graph drifts from the parent on the search cells.

    Attributes
    ----------
    recipe : QuantConfig
        The configuration.
    distance : QuantisationDrift
        How far the graph drifts from its parent.
    chosen : bool
        Whether it was taken.
    """

    recipe: QuantConfig
    distance: QuantisationDrift
    chosen: bool


def choose_method(
    builder: Int8Builder, metric: DriftMetric, config: CalibrationConfig
) -> tuple[QuantConfig, tuple[MethodRow, ...]]:
    """The configuration that moves the vote least on the search cells, and all that were tried.

    Parameters
    ----------
    builder : Int8Builder
        Makes the graphs.
    metric : DriftMetric
        Judges them.
    config : CalibrationConfig
        Where it names the method, that one is taken untried.

    Returns
    -------
    QuantConfig, tuple of MethodRow
    """
    first = default_quant_config(config)
    if config.method != "auto":
        return first, ()
    tried: dict[str, tuple[QuantConfig, QuantisationDrift]] = {}

    def best_of(*recipes: QuantConfig) -> QuantConfig:
        for recipe in recipes:
            if recipe.name not in tried:
                tried[recipe.name] = recipe, metric.measure(builder.build(recipe))
                logger.info("%s: the vote drifts by %.4f", recipe.name, tried[recipe.name][1].drift)
        return min(recipes, key=lambda recipe: tried[recipe.name][1].drift)

    best = best_of(*(first.model_copy(update={"method": method}) for method in get_args(Method)))
    if config.correct:
        best = best_of(best, best.model_copy(update={"corrected": False}))
    if config.equalise and builder.can_equalise():
        best = best_of(best, best.model_copy(update={"equalised": True}))
        if best.equalised:  # other values, so another method may serve them best
            best = best_of(best, *(best.model_copy(update={"method": method}) for method in get_args(Method)))
    rows = tuple(MethodRow(recipe=recipe, distance=found, chosen=recipe == best) for recipe, found in tried.values())
    return best, rows


def make_int8(
    source: Path, target: Path, crops: NDArray[np.uint8], config: CalibrationConfig, *, recipe: QuantConfig | None = None
) -> tuple[tuple[int, str], ...]:
    """Writes the int8 graph of an fp32 graph.

    Parameters
    ----------
    source, target : Path
        The fp32 graph, and where the int8 graph goes.
    crops : (N, S, S, 3) uint8 array
        The calibration cells, RGB.
    config : CalibrationConfig
        How int8 is made.
    recipe : QuantConfig, optional
        What to do in place of what `config` says without a search.

    Returns
    -------
    tuple of (int, str)
        Rows of the crops that can't calibrate, with the reason; they have no part in the ranges.
    """
    recipe = recipe or default_quant_config(config)
    builder = Int8Builder(onnx.load(source), crops, config, histograms=recipe.method != "minmax")
    write_model(builder.build(recipe), target)
    return builder.refused


def default_quant_config(config: CalibrationConfig) -> QuantConfig:
    """The quantisation configuration that `config` names; percentile where it leaves the method open."""
    method = "percentile" if config.method == "auto" else config.method
    return QuantConfig(method=method, corrected=config.correct, floats=config.float_layers)


def write_model(model: onnx.ModelProto, target: Path) -> None:
    """Writes a graph to a file; the same graph gives the same bytes."""
    target.write_bytes(model.SerializeToString(deterministic=True))
