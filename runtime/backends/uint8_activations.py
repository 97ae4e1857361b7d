"""Gives an int8 graph's activations as uint8, which is what CPU engines compute in.

A bundle's int8 graph has signed activations with the zero point 0, since TensorRT takes nothing else. On x86-64 that costs
much. ONNX Runtime computes unsigned activations only: every layer whose input has more than one reader stays in float32.
OpenVINO 2026.4 loses the scale of a signed value that goes through a concatenation: a trained ensemble's probabilities moved by
0.6. Both take the graph as this module changes it, in memory; the file stays as it is.

    never negative, as after ReLU    0 to 127 become 0 to 255, with the zero point 0 and the same range: half a step is as
                                     much as a value moves. The quantisation cuts off what lies below 0 and above the range, so
                                     the ReLU or Clip is left out, and a pair before it too
    any other                        code + 128, with the zero point 128: no value changes
    joined or moved, as by Concat    coded alike wherever they share a scale, so that engines copy codes
    multiplied by each other         signed as before: OpenVINO 2026.4 fails to compile products of two uint8 activations with
                                     zero points, as in attention, and may crash
    averaged with a border of zeros  padded by an operator of its own: OpenVINO fills the border with the code 0, whatever
                                     number that stands for
    cut by a Clip that stays         cut by Relu and Min: OpenVINO makes a Clip of codes of it, and drops what its bounds have
                                     beyond whole codes, up to a step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blastscope.runtime.backends.onnx_file import FLOAT, INT8, INT64, UINT8, OnnxGraph, attribute_of, parse_model, whole_numbers
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.io.cpu_info import int8_sums_overflow

TOP, WIDE_TOP, MIDDLE = 127, 255, 128  # the largest codes of int8 and uint8; where int8's 0 lies in uint8
_MOVING = (
    *("Concat", "MaxPool", "Flatten", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Pad", "Identity"),
    *("Split", "Gather", "Expand"),
)
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs")
_POSITIVE_OF_POSITIVES = (*_MOVING, "Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean", "QuantizeLinear")
_JOINING = ("Concat", "Add", "Mul")  # every input is data; of other operators the first is
SAFE_WEIGHT = 64  # of 7 bits
_LAYERS = ("Conv", "MatMul")


def with_uint8_activations(content: bytes, graph: Path, *, device: str = "CPU") -> bytes:
    """The bytes `content` of the int8 ONNX file `graph` with uint8 activations, for `device` as inference libraries call it.

    Raises `EngineError` where it is no ONNX file, `DeviceError` where its sums would overflow on this CPU.
    """
    model = parse_model(content, graph)
    if device == "CPU":
        check_sums(graph, OnnxGraph(model))
    use_uint8_activations(model)
    changed: bytes = model.SerializeToString()
    return changed


def use_uint8_activations(model: Any) -> int:
    """Turns the int8 activations of the ONNX `model` into uint8, in place; gives how many were turned or left out.

    What has another form than `Activation`, weights among it, stays as it is.
    """
    graph = OnnxGraph(model)
    if not graph.self_contained:
        return 0
    found = list(_activations(graph))
    sets = _sets(graph, found)
    signed = {sets(name) for name in _multiplied(graph)}
    activations = [one for one in found if sets(one.quantise.input[0]) not in signed]
    coded = _coded_from_zero(graph, activations, sets)
    gone = _leave_out_cuts(graph, activations, coded)
    for one in activations:
        if one.quantise.output[0] not in gone:
            _recode(graph, one, from_zero=one.quantise.output[0] in coded)
    for node in graph.nodes:
        if node.op_type == "Clip" and node.output[0] not in gone:
            _cut_in_float(graph, node)
    graph.drop(gone)
    if activations:
        del graph.proto.value_info[:]  # notes on the types of values, which have changed
    return len(activations)


class Activation(NamedTuple):
    """A value that is quantised to int8 with one scale and the zero point 0, and everything that takes it back to float32.

    Attributes
    ----------
    quantise : onnx.NodeProto
        Its QuantizeLinear.
    dequantises : list of onnx.NodeProto
        Every DequantizeLinear that takes it.
    scale : float
        What one step of the int8 code stands for.
    """

    quantise: Any
    dequantises: list[Any]
    scale: float


def _activations(graph: OnnxGraph) -> Iterator[Activation]:
    for node in graph.nodes:
        scale = _int8_scale(graph, node, "QuantizeLinear")
        back = graph.readers[node.output[0]] if scale else []
        alike = all(_int8_scale(graph, one, "DequantizeLinear") == scale for one in back)
        if scale and back and alike and node.output[0] not in graph.results:
            yield Activation(node, back, scale)


def _int8_scale(graph: OnnxGraph, node: Any, kind: str) -> float | None:
    if node.op_type != kind or node.domain or len(node.input) != 3 or graph.scalar(node.input[2], INT8) != 0:
        return None
    scale = graph.scalar(node.input[1], FLOAT)
    return scale if scale is not None and scale > 0 else None


def _data(node: Any) -> list[str]:
    """The inputs of `node` that hold data."""
    return [name for name in node.input if name] if node.op_type in _JOINING else list(node.input[:1])


def _bounds(graph: OnnxGraph, clip: Any) -> tuple[float, float] | None:
    """What a Clip cuts at; None where it isn't constant."""
    found = []
    for place, missing in ((1, -np.inf), (2, np.inf)):
        name = clip.input[place] if len(clip.input) > place else ""
        value = graph.scalar(name, FLOAT) if name else missing
        if value is None:
            return None
        found.append(value)
    return found[0], found[1]


def _never_negative(graph: OnnxGraph) -> set[str]:
    """The values of which that is known."""
    found: set[str] = set()
    for name in graph.constants:
        array = graph.array(name, FLOAT)
        if array is not None and array.size and array.min() >= 0:
            found.add(name)
    for node in graph.nodes:
        if _gives_no_negative(graph, node, found):
            found.update(node.output)
    return found


def _gives_no_negative(graph: OnnxGraph, node: Any, known: set[str]) -> bool:
    if node.op_type == "Clip":
        bounds = _bounds(graph, node)
        return bounds is not None and bounds[0] >= 0
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] and node.input[2] not in known:
        return False
    if node.op_type == "DequantizeLinear":
        return node.input[0] in known and _int8_scale(graph, node, "DequantizeLinear") is not None
    keeps = node.op_type in _POSITIVE_OF_POSITIVES and all(name in known for name in _data(node))
    return keeps or node.op_type in _POSITIVE


def _sets(graph: OnnxGraph, activations: list[Activation]) -> Callable[[str], str]:
    """Gives for a value one name that stands for all values which are the same numbers, moved or joined."""
    heads: dict[str, str] = {}

    def head(name: str) -> str:
        while name in heads:
            name = heads[name]
        return name

    def join(one: str, other: str) -> None:
        first, second = head(one), head(other)
        if first != second:
            heads[first] = second

    for one in activations:
        for back in one.dequantises:
            join(one.quantise.input[0], back.output[0])
    for node in graph.nodes:
        if node.op_type in _MOVING:
            for name in _data(node):
                if name not in graph.constants:
                    for output in node.output:
                        join(name, output)
    return head


def _multiplied(graph: OnnxGraph) -> Iterator[str]:
    """Values that are multiplied as matrices by other values, as in attention."""
    for node in graph.nodes:
        if node.op_type in _PRODUCTS:
            factors = [name for name in node.input[:2] if not _is_weight(graph, name)]
            if len(factors) > 1:
                yield from factors


def _is_weight(graph: OnnxGraph, name: str) -> bool:
    maker = graph.maker.get(name)
    is_int8 = maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in graph.constants
    return is_int8 or name in graph.constants


def _coded_from_zero(graph: OnnxGraph, activations: list[Activation], sets: Callable[[str], str]) -> set[str]:
    """The int8 values that get the zero point 0: they and all that they share codes with are never negative."""
    positive = _never_negative(graph)
    mixed = {sets(one.quantise.input[0]) for one in activations if one.quantise.input[0] not in positive}
    return {one.quantise.output[0] for one in activations if sets(one.quantise.input[0]) not in mixed}


def _leave_out_cuts(graph: OnnxGraph, activations: list[Activation], coded: set[str]) -> set[str]:
    """Lets quantisations from 0 read what a ReLU or Clip before them was to cut; gives the outputs that nobody reads then."""
    by_output = {one.quantise.output[0]: one for one in activations}
    gone: set[str] = set()
    for cut in graph.nodes:
        if cut.op_type not in ("Relu", "Clip") or cut.output[0] in graph.results:
            continue
        after = [by_output.get(reader.output[0]) for reader in graph.readers[cut.output[0]]]
        kept = [one for one in after if one is not None and one.quantise.output[0] in coded]
        if not kept or len(kept) != len(after) or not all(_cuts_alike(graph, cut, one.scale) for one in kept):
            continue
        source = _before(graph, cut, by_output, {one.scale for one in kept}, gone)
        for one in kept:
            one.quantise.input[0] = source
        gone.add(cut.output[0])
    return gone


def _cuts_alike(graph: OnnxGraph, cut: Any, scale: float) -> bool:
    """Whether quantising from 0 gives the codes that it gives after `cut`."""
    if cut.op_type == "Relu":
        return True
    bounds = _bounds(graph, cut)
    return bounds is not None and bounds[0] == 0 and bounds[1] >= (WIDE_TOP - 0.5) * scale * TOP / WIDE_TOP


def _before(graph: OnnxGraph, cut: Any, by_output: dict[str, Activation], scales: set[float], gone: set[str]) -> str:
    """What `cut` takes, before it was int8 where only `cut` reads that and it has the scale of what follows."""
    name: str = cut.input[0]
    back = graph.maker.get(name)
    pair = by_output.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
    if (
        pair is None
        or len(pair.dequantises) > 1
        or len(graph.readers[name]) > 1
        or name in graph.results
        or {pair.scale} != scales
    ):
        return name
    gone.update((name, pair.quantise.output[0]))
    source: str = pair.quantise.input[0]
    return source


def _recode(graph: OnnxGraph, one: Activation, *, from_zero: bool) -> None:
    """Makes one activation uint8."""
    scale = graph.constant(one.scale * TOP / WIDE_TOP, FLOAT) if from_zero else one.quantise.input[1]
    zero = graph.constant(0 if from_zero else MIDDLE, UINT8)
    for node in (one.quantise, *one.dequantises):
        node.input[1], node.input[2] = scale, zero
    for back in one.dequantises:
        for pool in graph.readers[back.output[0]]:
            if pool.op_type == "AveragePool":
                _count_border(graph, pool, (scale, zero), from_zero=from_zero)


def _count_border(graph: OnnxGraph, pool: Any, code: tuple[str, str], *, from_zero: bool) -> None:
    """Gives an average pool whose border counts a value with the border around it, where an engine would go wrong.

    That value is quantised once more, which changes nothing: else OpenVINO makes a pool's padding of it again. Where windows
    end outside, ONNX Runtime's int8 pool counts what is there as well. That none begins outside, `check_limits` has seen to.
    """
    pads, half = whole_numbers(pool, "pads"), len(whole_numbers(pool, "kernel_shape"))
    rounds_up = any(whole_numbers(pool, "ceil_mode"))
    if not any(whole_numbers(pool, "count_include_pad")) or (from_zero and not rounds_up):
        return
    if any(pads):
        around = graph.add_constant([0, 0, *pads[:half], 0, 0, *pads[half:]], INT64)
        wide = graph.insert_before(pool, "Pad", [pool.input[0], around])
        small = graph.insert_before(pool, "QuantizeLinear", [wide, *code])
        pool.input[0] = graph.insert_before(pool, "DequantizeLinear", [small, *code])
    for name in ("count_include_pad", "pads"):
        if (attribute := attribute_of(pool, name)) is not None:
            pool.attribute.remove(attribute)


def _cut_in_float(graph: OnnxGraph, clip: Any) -> None:
    """Makes of a Clip that follows a DequantizeLinear, and has constant bounds, what an engine can't make of codes."""
    maker, bounds = graph.maker.get(clip.input[0]), _bounds(graph, clip)
    if maker is None or maker.op_type != "DequantizeLinear" or bounds is None:
        return
    value, (low, high) = clip.input[0], bounds
    if np.isfinite(low):
        least = graph.constant(low, FLOAT)
        above = graph.insert_before(clip, "Sub", [value, least]) if low else value
        value = graph.insert_before(clip, "Relu", [above])
        value = graph.insert_before(clip, "Add", [value, least]) if low else value
    clip.op_type = "Min" if np.isfinite(high) else "Identity"
    clip.input[:] = [value, graph.constant(high, FLOAT)] if np.isfinite(high) else [value]


def check_sums(path: Path, graph: OnnxGraph) -> None:
    """Raises `DeviceError` where this CPU would compute the int8 `graph` of the file `path` wrongly."""
    if int8_sums_overflow() and (layer := next(wide_layers(graph), None)) is not None:
        raise DeviceError(
            f"'{path}' has int8 weights of 8 bits, in '{layer}' among others, and this CPU has no VNNI, so that their sums "
            "overflow: take another precision, or calibrate with weight_bits = 7"
        )


def wide_layers(graph: OnnxGraph) -> Iterator[str]:
    """Names of the layers whose weights need VNNI: without it, sums may overflow."""
    for node in graph.nodes:
        maker = graph.maker.get(node.input[1]) if node.op_type in _LAYERS else None
        weight = graph.array(maker.input[0], INT8) if maker is not None and maker.op_type == "DequantizeLinear" else None
        if weight is None or (node.op_type == "Conv" and weight.shape[1] == 1):
            continue
        if np.abs(weight.astype(np.int16)).max(initial=0) > SAFE_WEIGHT:
            yield node.name or node.output[0]
