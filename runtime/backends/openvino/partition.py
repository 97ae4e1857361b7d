"""Partitions a fused graph into shared blocks, model A, model B and the combined head.

The cut is found in the graph's structure, from its end. One operator puts together what the three voters say. What A's logits
are made from and B's are not is A's own, and the other way round; what both are made from is shared. Two backbones of the same
convolutions, and heads without any: that is a fused graph which can be cut. Everything else is left whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

STEM = "stem_"  # with a number: the name of a part's input that takes the stem's output of that number
_HEAVY = ("Convolution", "GroupConvolution")
_FROM_INT8 = ("Convert", "Subtract", "Multiply")  # what follows a FakeQuantize, up to the operators that compute in int8


class Partition(NamedTuple):
    """The parts of an ensemble's model, each an OpenVINO model.

    `stem` takes the crop; A and B take what it gives, by the names of their inputs, or the crop itself where there is no stem.
    Each gives its voter's logits first, then whatever else the rest wants. `rest` takes what A gives and then what B gives, and
    gives probabilities (1, 3, 2); `opinion` takes one voter's logits and gives the same shape, that voter's probabilities in
    each row.

    Attributes
    ----------
    stem : openvino.Model or None
        What both voters share; None where they share nothing that costs much.
    a, b : openvino.Model
        The voters.
    rest : openvino.Model
        The combined model and the vote.
    opinion : openvino.Model
        One voter's answer alone.
    """

    stem: Any | None
    a: Any
    b: Any
    rest: Any
    opinion: Any


class NotPartitionable(Exception):
    """The graph stays whole; the message says why."""


class _Web(NamedTuple):
    """The operators that depend on the crop's pixels.

    Attributes
    ----------
    operators : list of openvino.Node
        In topological order.
    sources : list of list of int
        The numbers of the operators whose outputs each one reads.
    """

    operators: list[Any]
    sources: list[list[int]]

    def heavy(self, numbers: Iterable[int]) -> Counter[tuple[Any, ...]]:
        """The convolutions among `numbers`, by kind and shape."""
        nodes = [self.operators[number] for number in sorted(numbers)]
        return Counter((one.get_type_name(), *one.get_output_shape(0)) for one in nodes if one.get_type_name() in _HEAVY)


class _Shares(NamedTuple):
    """The numbers of the operators that A and B share, that only A has, and that only B has; the combined head has the rest."""

    shared: set[int]
    a: set[int]
    b: set[int]


def partition(library: Any, model: Any) -> Partition:
    """The parts of `model`, which must have fixed shapes and one output. Consumes it. Raises `NotPartitionable`."""
    _freeze_shapes(library, model)
    web = _weave(model)
    join = _join(web)
    shares = _shares(web, join)
    given = [_given(web, shares, own, join) for own in (shares.a, shares.b)]
    entry, answer, stem = model.get_parameters(), model.output(0).get_node().input_value(0).get_node(), None
    if web.heavy(shares.shared):
        inside = _without_int8(web, shares.shared)
        read = {source for number in {*shares.shared, *shares.a, *shares.b} - inside for source in web.sources[number]}
        seam = _sever(library, web, sorted(read & inside), inside)
        stem, entry = library.Model(seam.results, entry), seam.parameters
    seams = [_sever(library, web, numbers, own) for numbers, own in zip(given, (shares.a, shares.b), strict=True)]
    one, other = (library.Model(seam.results, _read_by(seam.results, entry)) for seam in seams)
    rest = library.Model([answer], [parameter for seam in seams for parameter in seam.parameters])
    return Partition(stem, one, other, rest, _opinion(library, rest, web.operators[join].get_friendly_name()))


def _freeze_shapes(library: Any, model: Any) -> None:
    """Puts a constant in the place of every question for a shape, so that what depends on pixels is what depends on `crops`."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ShapeOf":
            shape = np.array(list(node.input_value(0).get_shape()), np.dtype(node.get_output_element_type(0).to_dtype()))
            constant = library.opset13.constant(shape)
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(constant.output(0))


def _weave(model: Any) -> _Web:
    numbers: dict[str, int] = {}
    web = _Web([], [])
    for node in model.get_ordered_ops():
        names = [value.get_node().get_name() for value in node.input_values()]
        sources = sorted({numbers[name] for name in names if name in numbers})
        if sources or node.get_type_name() == "Parameter":
            numbers[node.get_name()] = len(web.operators)
            web.operators.append(node)
            web.sources.append(sources)
    return web


def _narrows(web: _Web) -> list[int]:
    """The operators through which every way leads: nothing before one is read by anything after it."""
    last = list(range(len(web.operators)))  # the last reader of each
    for number, sources in enumerate(web.sources):
        for source in sources:
            last[source] = number
    found, reach = [], 0
    for number, reader in enumerate(last):
        if reach <= number:
            found.append(number)
        reach = max(reach, reader)
    return found


def _join(web: _Web) -> int:
    """The operator that puts the three voters' logits together: the last narrow that concatenates three tensors."""
    for number in reversed(_narrows(web)):
        if web.operators[number].get_type_name() == "Concat" and len(web.operators[number].input_values()) == 3:
            return number
    raise NotPartitionable("no operator puts the logits of three voters together")


def _shares(web: _Web, join: int) -> _Shares:
    """What is shared, A's and B's. What heads read off one backbone goes with it, and what they read off the stem with A."""
    names = {node.get_name(): number for number, node in enumerate(web.operators)}
    a, b, _ = (_behind(web, names[value.get_node().get_name()]) for value in web.operators[join].input_values())
    shares = _Shares(a & b, a - b, b - a)
    for number, sources in enumerate(web.sources[:join]):
        if number in a | b:
            continue
        owners = {owner for source in sources for owner, own in enumerate(shares) if source in own}
        if all(any(source in own for own in shares) for source in sources) and len(owners - {0}) < 2:
            shares[max(owners | {1})].add(number)
    if not web.heavy(shares.a):
        raise NotPartitionable("no convolutions lie side by side")
    taps = {*shares.a, *shares.b} - a - b
    if web.heavy(taps) or web.heavy(set(range(len(web.operators))) - shares.shared - shares.a - shares.b):
        raise NotPartitionable("it has more than two backbones")
    if web.heavy(shares.a) != web.heavy(shares.b):
        raise NotPartitionable("its two backbones are of different architectures")
    return shares


def _behind(web: _Web, last: int) -> set[int]:
    """Everything that `last` is made from, and itself."""
    found, open_ = {last}, [last]
    while open_:
        fresh = set(web.sources[open_.pop()]) - found
        found |= fresh
        open_ += fresh
    return found


def _given(web: _Web, shares: _Shares, own: set[int], join: int) -> list[int]:
    """What a side gives to the rest: its logits, which the join reads, before the others."""
    rest = [number for number in range(len(web.operators)) if not any(number in one for one in shares)]
    read = {source for number in rest for source in web.sources[number]}
    if read & shares.shared:
        raise NotPartitionable("the heads read what A and B share")
    return sorted(read & own, key=lambda number: (number not in web.sources[join], number))


def _without_int8(web: _Web, shared: set[int]) -> set[int]:
    """The shared operators less int8 activations for others to compute in: each part must make those for itself."""
    inside = set(shared)
    for number in sorted(shared, reverse=True):
        readers = [reader for reader, sources in enumerate(web.sources) if number in sources]
        if _quantised(web, number) and not inside & set(readers):
            inside.discard(number)
    return inside


def _quantised(web: _Web, number: int) -> bool:
    """Whether an operator belongs to an int8 activation."""
    while web.operators[number].get_type_name() in _FROM_INT8 and len(web.sources[number]) == 1:
        (number,) = web.sources[number]
    return bool(web.operators[number].get_type_name() == "FakeQuantize")


class _Seam(NamedTuple):
    """Both edges of a cut, all in float32.

    Attributes
    ----------
    results : list of openvino.op.Result
        Of the part before the cut.
    parameters : list of openvino.op.Parameter
        Of the part after it, in the same order.
    """

    results: list[Any]
    parameters: list[Any]


def _sever(library: Any, web: _Web, crossing: Sequence[int], before: set[int]) -> _Seam:
    """Cuts the tensors `crossing`: who reads them and is not among `before` gets a parameter instead.

    The edges are float32 also in a half precision graph: an engine that computes it in f32 would round there.
    """
    opset, single = library.opset13, library.Type.f32
    kept = {web.operators[number].get_name() for number in before}
    seam = _Seam([], [])
    for place, node in enumerate(web.operators[number] for number in crossing):
        kind = node.get_output_element_type(0)
        parameter = opset.parameter(list(node.get_output_shape(0)), single)
        parameter.output(0).get_tensor().set_names({f"{STEM}{place}"})
        source = parameter if kind == single else opset.convert(parameter, kind.get_type_name())
        for target in node.output(0).get_target_inputs():
            if target.get_node().get_name() not in kept:
                target.replace_source_output(source.output(0))
        seam.results.append(opset.result(node if kind == single else opset.convert(node, "f32")))
        seam.parameters.append(parameter)
    return seam


def _read_by(results: Sequence[Any], parameters: Sequence[Any]) -> list[Any]:
    """Those of `parameters` that `results` are made from: a model takes no others."""
    found, open_ = set(), list(results)
    while open_:
        node = open_.pop()
        if node.get_name() not in found:
            found.add(node.get_name())
            open_ += [value.get_node() for value in node.input_values()]
    return [parameter for parameter in parameters if parameter.get_name() in found]


def _opinion(library: Any, rest: Any, join: str) -> Any:
    """What follows the join, with one voter's logits in the place of all three."""
    copy = rest.clone()
    node = next(node for node in copy.get_ordered_ops() if node.get_friendly_name() == join)
    for place in (1, 2):
        node.input(place).replace_source_output(node.input_value(0))
    return library.Model([copy.output(0).get_node().input_value(0).get_node()], [copy.get_parameters()[0]])
