"""An int8 graph as OpenVINO answers it right: each activation as uint8 about 128, which holds the same numbers.

OpenVINO computes activations unsigned. Where a signed int8 value goes through a concatenation, OpenVINO 2026.4 loses its scale
on the way there: values are rounded to whole numbers, and a trained ensemble's probabilities moved by 0.6. Given as uint8 with
the zero point 128, as q + 128, the same graph answers within 0.02 of what its operators say. The file stays signed: TensorRT
takes nothing else.
"""

from __future__ import annotations

from typing import Any

LEAST, ZERO = -128, 128  # of int8; and where its 0 lies in uint8


def make_unsigned(library: Any, model: Any) -> int:
    """Turns every int8 activation of the OpenVINO model `model` into uint8, in place; says how many.

    ONNX's QuantizeLinear is read as FakeQuantize and Convert to i8, DequantizeLinear as Convert, Subtract and Multiply. What
    has another form, weights among it, stays as it is.
    """
    changed = 0
    for node in model.get_ordered_ops():
        if _is_int8_activation(node):
            subtracts = [_subtract_after(target.get_node()) for target in node.output(0).get_target_inputs()]
            if all(subtracts):
                _shift(library, node, subtracts)
                changed += 1
    model.validate_nodes_and_infer_types()
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


def _subtract_after(back: Any) -> Any:
    """The operator that takes the zero point from what `back` converts to float32; None where there is none."""
    if back.get_type_name() != "Convert":
        return None
    users = [target.get_node() for target in back.output(0).get_target_inputs()]
    return users[0] if len(users) == 1 and users[0].get_type_name() == "Subtract" else None


def _shift(library: Any, convert: Any, subtracts: list[Any]) -> None:
    """Moves one activation and its zero point by 128."""
    operators, types = library.opset13, library.Type
    quantise = convert.input_value(0).get_node()
    for place, bound in ((3, LEAST + ZERO), (4, LEAST + ZERO + 255)):
        quantise.input(place).replace_source_output(operators.constant(bound, types.f32).output(0))
    moved = operators.convert(quantise.output(0), "u8")
    for target in convert.output(0).get_target_inputs():
        target.replace_source_output(moved.output(0))
    for subtract in subtracts:
        zero = operators.add(subtract.input_value(1), operators.constant(ZERO, types.f32))
        subtract.input(1).replace_source_output(zero.output(0))
