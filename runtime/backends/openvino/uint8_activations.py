"""Rewrites int8 activations to uint8 with zero point 128, which OpenVINO computes correctly.

OpenVINO computes activations unsigned. Where a signed int8 value goes through a concatenation, OpenVINO 2026.4 loses its scale
on the way there: values are rounded to whole numbers, and a trained ensemble's probabilities moved by 0.6. Given as uint8 the
same graph answers within 0.02 of what its operators say. The file stays signed: TensorRT takes nothing else.

    never negative, as after ReLU   0 to 127 stay 0 to 127. A zero point costs OpenVINO a sum over all weights at each opening
    any other                       q + 128, with the zero point 128
    read by attention               stays int8: OpenVINO 2026.4 fails to compile products of two uint8 activations with zero
                                    points, and may crash, also where transposes, slices and the like come between
    before a ReLU or a clamp        left out where the value after it has the same range: rounding before or after the cut
                                    gives the same number, and operators that aren't there needn't be compiled

Of the int8 Inception-ResNet-v2 ensemble this halves the time to compile it, and takes a third off opening it from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

LEAST, ZERO, TOP = -128, 128, 127  # of int8; and where its 0 lies in uint8
_CUTTING = ("Relu", "Clamp")
_KEEPING = ("MaxPool", "AvgPool", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze")  # stay between what they take
# What convolutional networks do with an activation. Anything else, as products of two activations, keeps int8.
_READERS = {
    *("Convolution", "GroupConvolution", "Identity", "Relu", "Clamp", "Concat", "MaxPool", "AvgPool", "ReduceMean"),
    *("Add", "FakeQuantize", "Multiply", "Sigmoid", "HardSigmoid", "HSigmoid", "HSwish", "Swish", "ShapeOf", "Result"),
}

Reach = dict[str, float]  # values that are never negative, by operator: the largest that each may be


def use_uint8_activations(library: Any, model: Any) -> int:
    """Turns every int8 activation of the OpenVINO model `model` into uint8 or leaves it out, in place; says how many.

    ONNX's QuantizeLinear is read as FakeQuantize and Convert to i8, DequantizeLinear as Convert, Subtract and Multiply. What
    has another form, weights among it, stays as it is.
    """
    operators, changed, reach = library.opset13, 0, Reach()
    _make_clamps(operators, model)
    for node in model.get_ordered_ops():
        changed += node.get_type_name() in _CUTTING and _leave_out(node)
    number = cache(partial(operators.constant, dtype=library.Type.f32))
    for node in model.get_ordered_ops():
        _follow(node, reach)
        if _is_int8_activation(node):
            subtracts = [_subtract_after(user) for user in _users(node)]
            if all(subtracts) and _readers(subtracts) <= _READERS:
                _turn(operators, number, (node, subtracts), reach)
                changed += 1
    return changed


def _is_int8_activation(node: Any) -> bool:
    if node.get_type_name() != "Convert" or node.get_output_element_type(0).get_type_name() != "i8":
        return False
    quantise = node.input_value(0).get_node()
    return (
        quantise.get_type_name() == "FakeQuantize" and _constant(quantise, 3) == LEAST and _constant(quantise, 4) == LEAST + 255
    )


def _constant(node: Any, place: int) -> float | None:
    source = node.input_value(place).get_node()
    return float(source.data.item()) if source.get_type_name() == "Constant" and source.data.size == 1 else None


def _users(node: Any) -> list[Any]:
    return [target.get_node() for target in node.output(0).get_target_inputs()]


def _subtract_after(back: Any) -> Any:
    """The operator that takes the zero point from what `back` converts to float32; None where there is none."""
    if back.get_type_name() != "Convert":
        return None
    users = _users(back)
    return users[0] if len(users) == 1 and users[0].get_type_name() == "Subtract" else None


def _readers(subtracts: list[Any]) -> set[str]:
    """Kinds of the operators that read an activation once its zero point is taken off and its scale is put on."""
    backs = [back for subtract in subtracts for back in _users(subtract)]
    return {user.get_type_name() for back in backs if back.get_type_name() == "Multiply" for user in _users(back)}


def _make_clamps(operators: Any, model: Any) -> None:
    """Puts one operator in the place of each two that ONNX's Clip is read as. Those are gone when this returns."""
    for minimum in [node for node in model.get_ordered_ops() if node.get_type_name() == "Minimum"]:
        maximum, most = _bounded(minimum)
        if maximum is None or maximum.get_node().get_type_name() != "Maximum":
            continue
        value, least = _bounded(maximum.get_node())
        if value is not None and least <= most:
            clamp = operators.clamp(value, least, most)
            for target in minimum.output(0).get_target_inputs():
                target.replace_source_output(clamp.output(0))


def _bounded(node: Any) -> tuple[Any | None, float]:
    """What `node` compares with a number, and the number; None where there is none."""
    for place in (0, 1):
        bound = _constant(node, place)
        if bound is not None:
            return node.input_value(1 - place), bound
    return None, 0.0


def _leave_out(cut: Any) -> bool:
    """Lets `cut` read what was to be int8 before it, where only `cut` reads that and quantises its own result alike."""
    node = cut
    for kind in ("Multiply", "Subtract", "Convert", "Convert", "FakeQuantize"):
        node = node.input_value(0).get_node()
        if node.get_type_name() != kind or len(node.output(0).get_target_inputs()) != 1:
            return False
    range_ = _constant(node, 1), _constant(node, 2)
    after = _users(cut)
    if None in range_ or not after:
        return False
    if any(user.get_type_name() != "FakeQuantize" or (_constant(user, 1), _constant(user, 2)) != range_ for user in after):
        return False
    cut.input(0).replace_source_output(node.input_value(0))
    return True


def _follow(node: Any, reach: Reach) -> None:
    """Notes in `reach` whether what `node` gives is never negative."""
    kind = node.get_type_name()
    given = [reach.get(value.get_node().get_name()) for value in node.input_values()] if kind in (*_KEEPING, *_CUTTING) else []
    if kind == "Relu":
        reach[node.get_name()] = math.inf if given[0] is None else given[0]
    elif kind == "Clamp" and node.get_attributes()["min"] >= 0:
        reach[node.get_name()] = min(node.get_attributes()["max"], math.inf if given[0] is None else given[0])
    elif kind in _KEEPING:
        known = [top for top in (given if kind == "Concat" else given[:1]) if top is not None]
        if len(known) == (len(given) if kind == "Concat" else 1):
            reach[node.get_name()] = max(known)


def _turn(operators: Any, number: Callable[[float], Any], activation: tuple[Any, list[Any]], reach: Reach) -> None:
    """Makes one activation uint8, and tells those that read it."""
    convert, subtracts = activation
    quantise = convert.input_value(0).get_node()
    step = (_constant(quantise, 1) or 0.0) / LEAST
    top = reach.get(quantise.input_value(0).get_node().get_name())
    if top is not None and step > 0:
        if top > TOP * step:
            _cut_at(operators, quantise, TOP * step)
        bounds = {1: 0.0, 2: 255 * step, 3: 0.0, 4: 255.0}
        for back in (user for subtract in subtracts for user in _users(subtract) if user.get_type_name() == "Multiply"):
            reach[back.get_name()] = min(top, TOP * step)
    else:
        bounds = {3: 0.0, 4: 255.0}
        for subtract in subtracts:
            zero = operators.add(subtract.input_value(1), number(float(ZERO)))
            subtract.input(1).replace_source_output(zero.output(0))
    for place, bound in bounds.items():
        quantise.input(place).replace_source_output(number(bound).output(0))
    small = operators.convert(quantise.output(0), "u8")
    for target in convert.output(0).get_target_inputs():
        target.replace_source_output(small.output(0))


def _cut_at(operators: Any, quantise: Any, top: float) -> None:
    """Cuts what `quantise` takes at int8's end: uint8 goes on to 255."""
    value = quantise.input_value(0)
    if value.get_node().get_type_name() == "Relu":  # one cut does for both
        value = value.get_node().input_value(0)
    quantise.input(0).replace_source_output(operators.clamp(value, 0.0, top).output(0))
