"""Corrects the features that the heads of an int8 graph read, so that they repeat the fp32 graph's on the calibration cells.

Rounding moves a feature (a mean or a deviation of a map over a cell, say) in two ways: by an amount that is nearly the same for
all cells, and by one that differs from cell to cell. The first is by far the larger, and heads that were trained on the fp32
features take it for a difference between cells. One scale and one offset a feature, fitted by least squares on the fp32
features of the same cells, take it back. No label is used. Both are constants of the graph, on vectors, and cost no time.

The amount is another in the file's signed codes, which TensorRT computes with, and in the unsigned ones that CPU engines take
in their place (runtime/backends/uint8_activations.py). One file serves both, so the fit is on the features of both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.evaluation import ReferenceRunner, batches
from blastscope.calibration.quantisation.calibrators import with_outputs
from blastscope.calibration.quantisation.qdq_placement import crop_dependent_values, find_regions
from blastscope.runtime.backends.uint8_activations import use_uint8_activations
from blastscope.runtime.errors import MissingLibrary

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

VECTOR_LAYERS = ("Gemm", "MatMul")
BY_FEATURE = ("Add", "BatchNormalization", "Clip", "Div", "Mul", "Slice", "Sub")  # between the features and a layer on them
CELLS_FOR_SCALES = 64  # with fewer a fitted scale follows the cells, and the offset alone is fitted
BATCH = 16  # crops: the maps of all of them may not fit into memory

Features = dict[str, NDArray[np.float32]]


def find_features(model: onnx.ModelProto) -> tuple[str, ...]:
    """The values of the graph `model` that its heads read: what the first layers on vectors take, before any standardisation.

    Parameters
    ----------
    model
        An fp32 graph, its nodes named and in topological order.

    Returns
    -------
    tuple of str
        Names of values in the graph's order, none made from another. Empty where no layer on vectors follows the networks.
    """
    after, seen = set(find_regions(model).after), crop_dependent_values(model)
    maker = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, None] = {}
    behind: set[str] = set()  # values with a layer on vectors, or features, behind them
    for node in model.graph.node:
        if node.name not in after:
            continue
        if node.op_type in VECTOR_LAYERS and not behind.intersection(node.input):
            name = _before_standardising(node.input[0], maker, after, seen)
            found[name] = None
            behind |= _made_from(model, name)
        if behind.intersection(node.input) or node.op_type in VECTOR_LAYERS:
            behind.update(node.output)
    return tuple(name for name in found if not any(name in _made_from(model, other) for other in found))


def _before_standardising(name: str, maker: dict[str, onnx.NodeProto], after: set[str], seen: set[str]) -> str:
    """Goes up from `name` through operators that treat each feature by constants."""
    while (node := maker.get(name)) is not None and node.name in after and node.op_type in BY_FEATURE:
        sources = [source for source in node.input if source in seen]
        if len(sources) != 1 or maker.get(sources[0]) is None:
            break
        name = sources[0]
    return name


def _made_from(model: onnx.ModelProto, name: str) -> set[str]:
    """The values that depend on `name`, itself left out."""
    found = {name}
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return found - {name}


def read_features(model: onnx.ModelProto, names: tuple[str, ...], crops: NDArray[np.uint8]) -> Features:
    """The values `names` of the graph `model` for `crops`.

    Parameters
    ----------
    model
        An fp32 or int8 graph.
    names
        As `find_features` gives them; they have the same names in an int8 graph.
    crops
        (N, S, S, 3) uint8 RGB.

    Returns
    -------
    dict of str to (M, F) float32 array
        M is N, or a multiple where a graph looks at several views of a crop. What isn't a table of features is left out.
    """
    session = ReferenceRunner(with_outputs(model, list(names)))
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for batch in batches(crops, BATCH):
        for name, array in session.values(list(names), batch):
            parts[name].append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items() if all(array.ndim == 2 for array in arrays)}


def correct_features(child: onnx.ModelProto, parent: Features, crops: NDArray[np.uint8]) -> onnx.ModelProto:
    """A copy of the int8 graph `child` whose features are nearest to its parent's on `crops`.

    Parameters
    ----------
    child
        The int8 graph. It isn't changed.
    parent
        Features of the fp32 graph, as `read_features` gives them for the same crops.
    crops
        (N, S, S, 3) uint8 RGB: those that set the ranges.

    Returns
    -------
    onnx.ModelProto
        With a multiplication and an addition after each value of `parent`.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(child)
    unsigned = onnx.ModelProto()
    unsigned.CopyFrom(child)
    use_uint8_activations(unsigned)
    codings = [read_features(model, tuple(parent), crops) for model in (child, unsigned)]
    corrections = {
        name: fit_features(np.concatenate([given[name] for given in codings]), np.concatenate([wanted, wanted]))
        for name, wanted in parent.items()
        if all(name in given for given in codings)
    }
    graph = corrected.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in corrections:
                node.input[place] = f"{name}_corrected"
        nodes.append(node)
        for name in node.output:
            if name in corrections:
                nodes += _correction(graph, name, *corrections[name])
    del graph.node[:]
    graph.node.extend(nodes)
    return corrected


def fit_features(given: NDArray[np.float32], wanted: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scale and offset of each feature that bring `given` nearest to `wanted`, by least squares.

    Parameters
    ----------
    given, wanted
        (M, F) float32, one row per cell. With fewer than 64 rows every scale is 1.

    Returns
    -------
    (F,) float32 array, (F,) float32 array
        Scales and offsets. A feature that doesn't change from cell to cell keeps the scale 1.
    """
    mean, aim = given.mean(axis=0, dtype=np.float64), wanted.mean(axis=0, dtype=np.float64)
    scale = np.ones_like(mean)
    if len(given) >= CELLS_FOR_SCALES:
        spread = np.square(given - mean).mean(axis=0)
        common = ((given - mean) * (wanted - aim)).mean(axis=0)
        # also not where the int8 feature has lost what the cells differ by: a scale of 0 would make a constant of it
        fits = (spread > 1e-12) & (common > 0.25 * spread)
        scale = np.where(fits, common / np.where(fits, spread, 1.0), 1.0)
    return scale.astype(np.float32), (aim - scale * mean).astype(np.float32)


def _correction(
    graph: onnx.GraphProto, name: str, scale: NDArray[np.float32], offset: NDArray[np.float32]
) -> Iterator[onnx.NodeProto]:
    for suffix, array in (("feature_scale", scale), ("feature_offset", offset)):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
    scaled = f"{name}_scaled"
    yield helper.make_node("Mul", [name, f"{name}_feature_scale"], [scaled], name=f"Scale_{name}")
    yield helper.make_node("Add", [scaled, f"{name}_feature_offset"], [f"{name}_corrected"], name=f"Shift_{name}")
