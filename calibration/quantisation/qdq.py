"""Inserts quantise-dequantise pairs into a graph, by rules that all engines share.

symmetric        every zero point is 0: TensorRT knows no other
weights          one scale for each output channel, -127 to 127 or, where CPUs without VNNI overflow, -64 to 64
activations      one scale for each value
biases           float32: TensorRT refuses an int32 DequantizeLinear
before, after    normalisation, softmax and vote stay float32 (calibration/quantisation/qdq_placement.py)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.quantisation.qdq_placement import (
    META,
    QdqPlan,
    check_graph,
    consumers_of,
    drop_unused_weights,
    find_regions,
    make_plan,
)
from blastscope.runtime.backends.uint8_activations import SAFE_WEIGHT
from blastscope.runtime.errors import EngineError, MissingLibrary

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

INT8_MAX = 127
CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)

Means = dict[str, NDArray[np.float32]]
MAX_CHANNEL_SCALE = 1e4  # by which a channel may be scaled: a dead one is not blown up to noise


def insert_qdq(
    model: onnx.ModelProto, plan: QdqPlan, reach: dict[str, float], *, means: Means | None = None, weight_bits: int = 7
) -> onnx.ModelProto:
    """An int8 copy of an fp32 graph.

    Parameters
    ----------
    model : onnx.ModelProto
        The fp32 graph.
    plan : QdqPlan
        Which values and weights are quantised.
    reach : dict of str to float
        For each group of the plan what 127 stands for.
    means : mapping, optional
        Means of the layers' inputs, by value and channel: biases then make good what rounding takes from outputs on average.
    weight_bits : int
        Bits of a weight.

    Returns
    -------
    onnx.ModelProto
    """
    child = onnx.ModelProto()
    child.CopyFrom(model)
    graph = child.graph
    initialisers = _Initialisers(graph)
    weights = _weight_pairs(graph, plan, initialisers, means or {}, weight_bits)
    replaced = {name: f"{name}_dequantised" for name in weights}
    nodes: list[onnx.NodeProto] = list(weights.values())
    inside = set(find_regions(model).networks) - plan.fp32_layers
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in replaced and node.name in inside:
                node.input[place] = replaced[name]
        nodes.append(node)
        for name in node.output:
            if name in plan.values:
                nodes += initialisers.pair(name, reach[plan.values[name]])
                replaced[name] = f"{name}_dequantised"
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_weights(graph)
    props = {entry.key: entry.value for entry in child.metadata_props}
    del child.metadata_props[:]
    helper.set_model_props(child, {**props, f"{META}precision": "int8"})
    check_graph(child, "int8")
    check_int8(child)
    return child


class _Initialisers:
    """Scales and zero points, one initialiser each."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def pair(self, name: str, reach: float) -> list[onnx.NodeProto]:
        """Quantise and dequantise of the value `name`."""
        scale = self.constant(f"{name}_scale", np.array(reach / INT8_MAX, np.float32))
        quantised, dequantised = f"{name}_int8", f"{name}_dequantised"
        return [
            helper.make_node("QuantizeLinear", [name, scale, "zero"], [quantised], name=f"Quantize_{name}"),
            helper.make_node("DequantizeLinear", [quantised, scale, "zero"], [dequantised], name=f"Dequantize_{name}"),
        ]


def _weight_pairs(
    graph: onnx.GraphProto, plan: QdqPlan, initialisers: _Initialisers, means: Means, weight_bits: int
) -> dict[str, onnx.NodeProto]:
    """For each weight of the plan its DequantizeLinear; the int8 weight takes the float one's place."""
    arrays = {weight.name: weight for weight in graph.initializer}
    found = {}
    for name, axis in plan.weights.items():
        weight = numpy_helper.to_array(arrays[name])
        user = next(node for node in graph.node if name in node.input[1:2] and node.name not in plan.fp32_layers)
        top = INT8_MAX if weight_bits == 8 or is_depthwise(weight) else SAFE_WEIGHT
        whole, scale = quantise_weight(weight, axis, top)
        if len(user.input) > 2 and user.input[0] in means:
            lost = bias_correction(weight, whole * broadcast_along(scale, axis, weight.ndim), axis, means[user.input[0]])
            user.input[2] = initialisers.constant(f"{name}_bias", numpy_helper.to_array(arrays[user.input[2]]) + lost)
        inputs = [
            initialisers.constant(f"{name}_int8", whole),
            initialisers.constant(f"{name}_scale", scale),
            initialisers.constant(f"{name}_zero", np.zeros(len(scale), np.int8)),
        ]
        outputs = [f"{name}_dequantised"]
        found[name] = helper.make_node("DequantizeLinear", inputs, outputs, name=f"Dequantize_{name}", axis=axis)
    return found


def is_depthwise(weight: NDArray[np.float32]) -> bool:
    """One input channel for each filter: at most 25 products, which CPUs without VNNI add in 32 bits too."""
    return weight.ndim == 4 and weight.shape[1] == 1


def quantise_weight(weight: NDArray[np.float32], axis: int, top: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight in whole numbers, with a scale for each channel.

    Of several scales, each channel takes the one with the smallest squared error: cutting one large weight can pay. A channel
    of zeros keeps the scale 1.

    Parameters
    ----------
    weight : float32 array
        The weight.
    axis : int
        That of the channels.
    top : int
        The largest whole number; the smallest is -top.

    Returns
    -------
    int8 array of the same shape, (C,) float32 array
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    reach = np.abs(weight).max(axis=others)
    reach = np.where(reach > 0, reach, np.float32(top))
    best = (reach / top).astype(np.float32)
    least = np.full(len(best), np.inf)
    for share in CLIP_RATIOS:
        scale = (share * reach / top).astype(np.float32)
        wide = broadcast_along(scale, axis, weight.ndim)
        error = np.square(weight - wide * np.clip(np.rint(weight / wide), -top, top)).sum(axis=others, dtype=np.float64)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    whole = np.clip(np.rint(weight / broadcast_along(best, axis, weight.ndim)), -top, top).astype(np.int8)
    return whole, best


def broadcast_along(scale: NDArray[np.float32], axis: int, ndim: int) -> NDArray[np.float32]:
    """`scale` shaped to multiply the channels of `axis`."""
    shaped: NDArray[np.float32] = scale.reshape([-1 if dimension == axis else 1 for dimension in range(ndim)])
    return shaped


def bias_correction(
    weight: NDArray[np.float32], rounded: NDArray[np.float32], axis: int, mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What rounding takes from each output channel on average: goes back into the bias (Nagel et al. 2019).

    Few products don't average their rounding out, so depthwise layers need it most.

    Parameters
    ----------
    weight, rounded : float32 array
        The weight before and after rounding.
    axis : int
        That of the output channels.
    mean : (C,) float32 array
        Mean of each input channel.

    Returns
    -------
    (O,) float32 array
    """
    change = np.moveaxis(weight - rounded, axis, 0)  # (outputs, inputs of a group, ...)
    change = change.reshape(change.shape[0], change.shape[1], -1).sum(axis=2)
    groups = len(mean) // change.shape[1]
    by_group = change.reshape(groups, -1, change.shape[1])  # (groups, outputs of a group, inputs of a group)
    lost: NDArray[np.float32] = np.einsum("goi,gi->go", by_group, mean.reshape(groups, -1)).reshape(-1).astype(np.float32)
    return lost


def check_int8(model: onnx.ModelProto) -> None:
    """Raises `EngineError` where `model` breaks a rule that TensorRT's parsers hold graphs to."""
    constants = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or numpy_helper.to_array(zero).any():
            raise EngineError(f"{node.name}: the zero point is not an int8 0")
        scale = numpy_helper.to_array(constants[node.input[1]])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise EngineError(f"{node.name}: the scale is not above 0")
        source = constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and source is not None and source.data_type != onnx.TensorProto.INT8:
            raise EngineError(f"{node.name}: dequantises {source.data_type}, not int8")


class Pair(NamedTuple):
    """Two consecutive convolutions, between which channels can be scaled.

    Attributes
    ----------
    first, second : onnx.NodeProto
        The convolutions.
    value : str
        What lies between them, as the second takes it.
    """

    first: onnx.NodeProto
    second: onnx.NodeProto
    value: str


def equalize_layers(model: onnx.ModelProto, channels: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto | None:
    """A copy of the fp32 graph `model` with equalised channels, where `channels` says how far each value's channels reach.

    None where the graph has no two layers in a row to equalise.
    """
    pairs = list(_pairs(model))
    if not pairs:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    arrays = {weight.name: weight for weight in copy.graph.initializer}
    weights = {
        name: numpy_helper.to_array(arrays[name]).copy() for one, two, _ in pairs for name in (*one.input[1:], two.input[1])
    }
    nodes = {node.name: node for node in copy.graph.node}
    for pair in pairs:
        # layers share a bias where theirs are equal
        bias = nodes[pair.first.name].input[2] = f"{pair.first.name}_bias"
        weights[bias] = weights[pair.first.input[2]]
        _equalize_pair(pair, bias, weights, channels[pair.value])
    kept = [weight for weight in copy.graph.initializer if weight.name not in weights]
    used = {name for node in copy.graph.node for name in node.input}
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    copy.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in weights if name in used)
    return copy


def _equalize_pair(pair: Pair, bias: str, weights: dict[str, NDArray[Any]], reach: NDArray[np.float32]) -> None:
    first, second = pair.first.input[1], pair.second.input[1]
    groups = _groups(pair.second)
    taken = _by_input(weights[second], groups)  # (inputs, ...)
    need = np.abs(taken.reshape(len(taken), -1)).max(axis=1)
    alive = (reach > 0) & (need > 0)
    scale = np.sqrt(np.where(alive, reach, 1) / np.where(alive, need, 1))
    scale /= np.exp(np.log(scale[alive]).mean()) if alive.any() else 1.0  # the value keeps its size
    scale = np.where(alive, np.clip(scale, 1 / MAX_CHANNEL_SCALE, MAX_CHANNEL_SCALE), 1).astype(np.float32)
    weights[first] = weights[first] / scale.reshape(-1, 1, 1, 1)
    weights[bias] = weights[bias] / scale
    grown = _by_input(weights[second], groups) * scale.reshape(-1, *[1] * (taken.ndim - 1))
    weights[second] = _by_output(grown, weights[second].shape, groups)


def _by_input(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """(outputs, inputs of a group, h, w) as (inputs, outputs of a group, h, w)."""
    outputs, inputs, *kernel = weight.shape
    grouped = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return np.swapaxes(grouped, 1, 2).reshape(groups * inputs, outputs // groups, *kernel)


def _by_output(weight: NDArray[np.float32], shape: tuple[int, ...], groups: int) -> NDArray[np.float32]:
    """Back again."""
    outputs, inputs, *kernel = shape
    grouped = weight.reshape(groups, inputs, outputs // groups, *kernel)
    return np.ascontiguousarray(np.swapaxes(grouped, 1, 2).reshape(shape))


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _pairs(model: onnx.ModelProto) -> Iterator[Pair]:
    consumers = consumers_of(model.graph.node)
    uses = {name: len(nodes) for name, nodes in consumers.items()}
    constants = {weight.name for weight in model.graph.initializer}
    seen = make_plan(model).values
    for first in model.graph.node:
        if first.op_type != "Conv" or len(first.input) < 3 or not {*first.input[1:]} <= constants:
            continue
        value = first.output[0]
        if uses.get(value) == 1 and consumers[value][0].op_type == "Relu":
            value = consumers[value][0].output[0]
        if uses.get(value) != 1 or value not in seen:
            continue
        second = consumers[value][0]
        alone = all(uses[name] == 1 for name in (first.input[1], *second.input[1:2]))
        if second.op_type == "Conv" and second.input[0] == value and second.input[1] in constants and alone:
            yield Pair(first, second, value)
