"""What ONNX's operators make of their inputs' shapes: the operators that exported networks have, and no others.

Each rule gives the shape of an operator's output for a batch of fixed size. Numbers that shapes depend on are followed through
the graph (`fold` of limits.py), so that no shape is left open. A library could tell the same, but loads the graph first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from blastscope.runtime.bundle.graphs.call import OperatorCall, Shape, axis_of, constant_value, sliced, told_shape
from blastscope.runtime.bundle.graphs.wire import RANK_LIMIT, UnfitGraph

Rule = Callable[[OperatorCall], Sequence[Shape]]


def _same(call: OperatorCall) -> Sequence[Shape]:
    return [call.shape()]


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise operator's output."""
    rank = max(map(len, shapes))
    found = []
    for dims in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        sizes = set(dims) - {1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} don't go together")
        found.append(sizes.pop() if sizes else 1)
    return tuple(found)


def _elementwise(call: OperatorCall) -> Sequence[Shape]:
    return [broadcast(*(call.shape(number) for number in range(len(call.inputs))))]


def _prelu(call: OperatorCall) -> Sequence[Shape]:
    data, slope = call.shape(), call.shape(1)
    if (
        len(data) > 2 and len(slope) == 1 and slope != (1,)
    ):  # ONNX means columns, OpenVINO 2026.4 channels where both are as many
        raise ValueError("engines differ in the axis of a slope of one dimension: give it as many as the data has")
    return [broadcast(data, slope)]


def _group_normalization(call: OperatorCall) -> Sequence[Shape]:
    # ONNX Runtime 1.32 takes the variance as the mean of squares less the square of the mean, which may be negative
    raise ValueError(
        "its variance may be all rounding: export it as InstanceNormalization between two Reshapes, as 'export' does"
    )


def _local_response_normalization(call: OperatorCall) -> Sequence[Shape]:
    # OpenVINO 2026.4 cuts the bias down to a whole number, and the reference of onnx 1.23 takes pictures for channels
    raise ValueError("engines differ in its bias: write it out by AveragePool, Pow and Div, as PyTorch's exporter does")


def _window(call: OperatorCall, kernel: Sequence[int], *, round_up: bool = False) -> Shape:
    """The spatial sides that a window leaves."""
    border_counts = call.integer("count_include_pad", 0) != 0
    sides, count = call.shape()[2:], len(kernel)
    strides, dilations = call.integers("strides", [1] * count), call.integers("dilations", [1] * count)
    pads = call.integers("pads", [0] * 2 * count)
    if (
        {len(sides), len(strides), len(dilations)} != {count}
        or len(pads) != 2 * count
        or min([*strides, *dilations, *kernel]) < 1
    ):
        raise ValueError("its window doesn't fit")
    if min(pads) < 0 or any(pad > 4096 for pad in pads):
        raise ValueError("its padding can't be")
    auto = call.word("auto_pad", "NOTSET")
    found = []
    for place, side in enumerate(sides):
        reach = dilations[place] * (kernel[place] - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            found.append(-(-side // strides[place]))
            continue
        before, behind = (0, 0) if auto == "VALID" else (pads[place], pads[place + count])
        room = side - reach + before + behind
        windows = (-(-room // strides[place]) if round_up else room // strides[place]) + 1
        begins_behind = round_up and (windows - 1) * strides[place] >= side + before
        if begins_behind:  # ONNX leaves it out, OpenVINO 2026.4 makes a maximum of nothing, and padding by Pad would add it
            raise ValueError(
                "engines differ in whether a window counts that begins behind the picture: give it another padding"
            )
        if border_counts and any(pads) and (windows - 1) * strides[place] > room:
            raise ValueError(  # ONNX by what lies in picture and padding, OpenVINO 2026.4 by the whole kernel
                "engines differ in what a window is divided by that ends behind its padding: pad by an operator Pad instead"
            )
        found.append(windows)
    if min(found, default=1) < 1:
        raise ValueError("its window is larger than what it slides over")
    return tuple(found)


def _conv(call: OperatorCall) -> Sequence[Shape]:
    data, weight = call.shape(), call.shape(1)
    groups = call.integer("group", 1)
    if len(data) < 3 or len(weight) != len(data) or groups < 1 or weight[1] * groups != data[1] or weight[0] % groups:
        raise ValueError(f"weights {weight} don't fit {data}")
    return [(data[0], weight[0], *_window(call, weight[2:]))]


def _pool(call: OperatorCall) -> Sequence[Shape]:
    data = call.shape()
    if call.integer("count_include_pad", 0) and call.word("auto_pad", "NOTSET").startswith("SAME"):
        raise ValueError("a border that counts must be given in numbers, not by auto_pad")  # int8 pads it by an operator
    return [(*data[:2], *_window(call, call.integers("kernel_shape"), round_up=bool(call.integer("ceil_mode", 0))))]


def _global_pool(call: OperatorCall) -> Sequence[Shape]:
    data = call.shape()
    return [(*data[:2], *(1 for _ in data[2:]))]


def _gemm(call: OperatorCall) -> Sequence[Shape]:
    (rows, inner), (again, columns) = call.shape(), call.shape(1)
    if call.integer("transA", 0):
        rows, inner = inner, rows
    if call.integer("transB", 0):
        again, columns = columns, again
    if inner != again:
        raise ValueError(f"matrices {call.shape()} and {call.shape(1)} don't go together")
    return [(rows, columns)]


def _matmul(call: OperatorCall) -> Sequence[Shape]:
    left, right = call.shape(), call.shape(1)
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise ValueError(f"matrices {left} and {right} don't go together")
    return [(*broadcast(left[:-2], right[:-2]), left[-2], right[-1])]


def _flatten(call: OperatorCall) -> Sequence[Shape]:
    data = call.shape()
    axis = call.integer("axis", 1)
    axis = axis + len(data) if axis < 0 else axis
    if not 0 <= axis <= len(data):
        raise ValueError(f"it has no axis {axis}")
    return [(math.prod(data[:axis]), math.prod(data[axis:]))]


def _reshape(call: OperatorCall) -> Sequence[Shape]:
    data, wanted = call.shape(), call.numbers(1)
    if not call.integer("allowzero", 0):
        wanted = [data[place] if side == 0 else side for place, side in enumerate(wanted)]
    known = math.prod(side for side in wanted if side != -1)
    if -1 in wanted and known:
        wanted[wanted.index(-1)] = math.prod(data) // known
    if min(wanted, default=0) < 0 or math.prod(wanted) != math.prod(data):
        raise ValueError(f"{data} has no shape {wanted}")
    return [tuple(wanted)]


def _transpose(call: OperatorCall) -> Sequence[Shape]:
    data = call.shape()
    order = call.integers("perm", list(range(len(data)))[::-1])
    if sorted(order) != list(range(len(data))):
        raise ValueError("its axes can't be put so")
    return [tuple(data[axis] for axis in order)]


def _concat(call: OperatorCall) -> Sequence[Shape]:
    parts = [list(call.shape(number)) for number in range(len(call.inputs))]
    axis = axis_of(call.integer("axis", 0), len(parts[0]))
    total = sum(part[axis] for part in parts)
    for part in parts:
        part[axis] = total
    if any(part != parts[0] for part in parts):
        raise ValueError("its parts don't fit each other")
    return [tuple(parts[0])]


def _split(call: OperatorCall) -> Sequence[Shape]:
    data, count = call.shape(), len(call.node.outputs)
    axis = axis_of(call.integer("axis", 0), len(data))
    whole = -(-data[axis] // count)
    sizes = call.numbers(1) if call.has(1) else [min(whole, data[axis] - whole * place) for place in range(count)]
    if sum(sizes) != data[axis] or min(sizes) < 0 or len(sizes) != count:
        raise ValueError("its parts don't make the whole")
    return [(*data[:axis], size, *data[axis + 1 :]) for size in sizes]


def _slice(call: OperatorCall) -> Sequence[Shape]:
    return [tuple(len(range(*part.indices(side))) for part, side in zip(sliced(call), call.shape(), strict=True))]


def _gather(call: OperatorCall) -> Sequence[Shape]:
    data = call.shape()
    axis = axis_of(call.integer("axis", 0), len(data))
    return [(*data[:axis], *call.shape(1), *data[axis + 1 :])]


def _squeeze(call: OperatorCall) -> Sequence[Shape]:
    data, axes = call.shape(), call.axes(1)
    gone = (
        {axis_of(axis, len(data)) for axis in axes} if axes is not None else {at for at, side in enumerate(data) if side == 1}
    )
    if any(data[axis] != 1 for axis in gone):
        raise ValueError("it would lose elements")
    return [tuple(side for at, side in enumerate(data) if at not in gone)]


def _unsqueeze(call: OperatorCall) -> Sequence[Shape]:
    found = list(call.shape())
    axes = call.axes(1) or []
    for axis in sorted(axis_of(axis, len(found) + len(axes)) for axis in axes):
        found.insert(axis, 1)
    return [tuple(found)]


def _shape(call: OperatorCall) -> Sequence[Shape]:
    return [(len(told_shape(call)),)]


def _constant(call: OperatorCall) -> Sequence[Shape]:
    return [constant_value(call.node)[0]]


def _of_shape(call: OperatorCall) -> Sequence[Shape]:
    return [_sides(call.numbers(0))]


def _sides(sides: Sequence[int]) -> Shape:
    if min(sides, default=0) < 0:
        raise ValueError("a side is negative")
    return tuple(sides)


def _expand(call: OperatorCall) -> Sequence[Shape]:
    return [broadcast(call.shape(), _sides(call.numbers(1)))]


def _tile(call: OperatorCall) -> Sequence[Shape]:
    return [tuple(side * count for side, count in zip(call.shape(), _sides(call.numbers(1)), strict=True))]


def _pad(call: OperatorCall) -> Sequence[Shape]:
    found, pads = list(call.shape()), call.numbers(1)
    axes = call.numbers(3) if call.has(3) else list(range(len(found)))
    if len(pads) != 2 * len(axes):
        raise ValueError("its padding doesn't fit")
    for place, axis in enumerate(axes):
        found[axis_of(axis, len(found))] += pads[place] + pads[place + len(axes)]
    return [_sides(found)]


def _reduce(call: OperatorCall) -> Sequence[Shape]:
    data, axes = call.shape(), call.axes(1)
    if not axes:
        over_none = call.integer("noop_with_empty_axes", 0) != 0
        if over_none and call.node.operator in ("ReduceL1", "ReduceL2"):  # ONNX takes absolute values, OpenVINO 2026.4 none
            raise ValueError("engines differ in what a norm over no axes is: put an operator Abs in its place")
        axes = [] if over_none else list(range(len(data)))
    return [_without(data, axes, keep=bool(call.integer("keepdims", 1)))]


def _arg(call: OperatorCall) -> Sequence[Shape]:
    return [_without(call.shape(), [call.integer("axis", 0)], keep=bool(call.integer("keepdims", 1)))]


def _without(data: Shape, axes: Sequence[int], *, keep: bool) -> Shape:
    gone = {axis_of(axis, len(data)) for axis in axes}
    return tuple(1 if at in gone else side for at, side in enumerate(data) if keep or at not in gone)


def _resize(call: OperatorCall) -> Sequence[Shape]:
    data = list(call.shape())
    axes = call.integers("axes", range(len(data)))
    policy = call.word("keep_aspect_ratio_policy", "stretch")
    if call.has(3) and policy != "stretch":  # ONNX Runtime keeps the ratio, OpenVINO 2026.4 stretches
        raise ValueError(f"engines differ in what '{policy[:40]}' is: give it the sizes to stretch to")
    for name in ("antialias", "exclude_outside"):  # the weights that ONNX Runtime 1.32 takes and OpenVINO 2026.4 doesn't
        if call.integer(name, 0):
            raise ValueError(f"engines differ in what {name} is: leave it at 0")
    if call.has(3):
        wanted = call.numbers(3)
    else:
        wanted = [math.floor(data[axis] * scale) for axis, scale in zip(axes, call.reals(2), strict=True)]
    for axis, side in zip(axes, wanted, strict=True):
        data[axis_of(axis, len(data))] = side
    return [_sides(data)]


def _range(call: OperatorCall) -> Sequence[Shape]:
    (start,), (limit,), (step,) = (call.reals(number) for number in range(3))
    return [(max(0, math.ceil((limit - start) / step)),)]


def _gather_elements(call: OperatorCall) -> Sequence[Shape]:
    return [call.shape(1)]


def _einsum(call: OperatorCall) -> Sequence[Shape]:
    sides = einsum_sides(call)
    output = call.word("equation").replace(" ", "").split("->")[1]
    return [tuple(sides[letter] for letter in output)]


def einsum_sides(call: OperatorCall) -> dict[str, int]:
    """The side of each letter in an Einsum's equation."""
    left, arrow, _ = call.word("equation").replace(" ", "").partition("->")
    sides: dict[str, int] = {}
    for number, letters in enumerate(left.split(",")):
        for letter, side in zip(letters, call.shape(number), strict=True):
            if not letter.isalpha() or sides.setdefault(letter, side) != side:
                raise ValueError("its equation doesn't fit")
    if not arrow:
        raise ValueError("its equation names no output")
    return sides


def _blocks(call: OperatorCall) -> Sequence[Shape]:
    count, channels, rows, columns = call.shape()
    size = call.integer("blocksize", 1)
    if call.node.operator == "DepthToSpace":
        return [(count, channels // size**2, rows * size, columns * size)]
    return [(count, channels * size**2, rows // size, columns // size)]


_LIKE_INPUT = [
    "Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softmax", "LogSoftmax", "Sqrt", "Abs", "Neg", "Exp",
    "Log", "Erf", "Floor", "Ceil", "Round", "Reciprocal", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Softsign",
    "Mish", "Gelu", "Not", "Sign", "Sin", "Cos", "ThresholdedRelu", "Identity", "Dropout", "Cast", "QuantizeLinear",
    "DequantizeLinear", "BatchNormalization", "InstanceNormalization", "LayerNormalization", "LRN", "CumSum",
    "IsNaN", "IsInf", "Trilu", "LpNormalization",
]  # fmt: skip
_BROADCASTING = [
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "And", "Or", "Xor", "Equal", "Greater", "Less",
    "GreaterOrEqual", "LessOrEqual", "Where",
]  # fmt: skip
_REDUCING = [
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSumExp",
]  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(_LIKE_INPUT, _same),
    **dict.fromkeys(_BROADCASTING, _elementwise),
    **dict.fromkeys(_REDUCING, _reduce),
    "Conv": _conv, "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _global_pool, "GlobalMaxPool": _global_pool,
    "Gemm": _gemm, "MatMul": _matmul, "Einsum": _einsum, "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Shape": _shape, "Constant": _constant, "ConstantOfShape": _of_shape,
    "Expand": _expand, "Tile": _tile, "Pad": _pad, "ArgMax": _arg, "ArgMin": _arg, "Resize": _resize, "Range": _range,
    "DepthToSpace": _blocks, "SpaceToDepth": _blocks, "PRelu": _prelu, "GroupNormalization": _group_normalization,
    "LRN": _local_response_normalization,
}  # fmt: skip


def shapes_of(call: OperatorCall) -> Sequence[Shape]:
    """The shapes of the operator's outputs. Raises `UnfitGraph`."""
    rule = RULES.get(call.node.operator)
    where = f"'{call.node.name[:80]}' ({call.node.operator[:40]})"
    if rule is None:
        raise UnfitGraph(f"has the operator {where}, which no exported network has")
    try:
        found = rule(call)
    except (ValueError, IndexError, TypeError, KeyError, ArithmeticError, UnicodeDecodeError) as error:
        raise UnfitGraph(f"can't be computed at {where}: {error}") from error
    if len(found) != len([name for name in call.node.outputs if name]):
        raise UnfitGraph(f"takes {len(call.node.outputs)} outputs of {where}")
    if any(len(shape) > RANK_LIMIT or max(shape, default=0) >= 2**31 for shape in found):
        raise UnfitGraph(f"gives {where} more dimensions, or larger ones, than a network has")
    return found
