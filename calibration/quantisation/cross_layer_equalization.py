"""Cross-layer equalisation: rescales channels between layers, so that one int8 scale fits; outputs are unchanged.

What a channel gains in the first layer the second takes back (cross-layer equalisation, Nagel et al. 2019). Between them may
stand nothing or a ReLU, which scales with its input; not a ReLU6, whose bound doesn't. The first layer's weights have a scale
for each output channel and lose nothing by it; what counts is how far the value between reaches, and the second layer's
weights: both get the geometric mean of the two, channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.quantisation.qdq_placement import consumers_of, make_plan
from blastscope.runtime.errors import MissingLibrary

try:
    import onnx
    from onnx import numpy_helper
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

MAX_CHANNEL_SCALE = 1e4  # by which a channel may be scaled: a dead one is not blown up to noise


class Pair(NamedTuple):
    """Two convolutions in a row."""

    first: onnx.NodeProto
    second: onnx.NodeProto
    value: str  # between them, as the second takes it


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
