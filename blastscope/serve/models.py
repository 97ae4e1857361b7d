"""The three models that each bundle is served as: `cells`, `crops` and `frames`.

A model says what it takes and gives, checks a request's tensor and splits it into items, answers items in a worker's thread,
and makes tensors of the answers. It knows nothing of HTTP or gRPC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle import Bundle
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.inference.voting import GraphOutputs, graph_outputs
from blastscope.runtime.io.image_header import Header, read_header
from blastscope.runtime.io.slides.metadata import LEAST_UM, MOST_UM
from blastscope.runtime.session import Scope
from blastscope.runtime.types import CLASSES, VOTERS, Prediction
from blastscope.serve.tensors import FREE, Code, RequestError, Tensor, TensorSpec, invalid, numbers, texts

Item = Any  # one image, crop or frame
Answer = Any  # what a model makes of it
Parameters = Mapping[str, Any]
NAN = float("nan")
NO_BOX, NO_TABLE = (-1, -1, -1, -1), ((NAN, NAN),) * len(VOTERS)
CELL_OUTPUTS: dict[str, Callable[[Prediction], Any]] = {  # an element of each output of `Cells`
    "label": lambda one: one.label or "",
    "probability": lambda one: NAN if one.probability is None else one.probability,
    "score": lambda one: NAN if one.score is None else one.score,
    "voter": lambda one: one.voter or "",
    "probabilities": lambda one: one.probabilities or NO_TABLE,
    "box": lambda one: one.box or NO_BOX,
    "novelty": lambda one: NAN if one.novelty is None else one.novelty,
    "set": lambda one: ",".join(one.set or ()),
    "refusal": lambda one: one.refusal.code if one.refusal else "",
    "detail": lambda one: one.refusal.detail if one.refusal else "",
}


class Model(Protocol):
    """One way in which a bundle is served."""

    @property
    def kind(self) -> str:
        """Its name within its bundle."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        ...

    def items(self, tensors: Mapping[str, Tensor], parameters: Parameters) -> list[Item]:
        """The request's items. Raises `RequestError`."""
        ...

    def pixels(self, item: Item) -> int:
        """How many pixels an item has, as far as its header tells."""
        ...

    def content(self, item: Item) -> bytes | memoryview:
        """The bytes that an item's digest is of."""
        ...

    def run(self, scope: Scope, items: Sequence[Item]) -> list[Answer]:
        """An answer for each item, in a thread. Raises `BlastscopeError`s."""
        ...

    def tensor(self, name: str, answers: Sequence[Answer]) -> Tensor:
        """The output of that name."""
        ...

    def record(self, answer: Answer) -> dict[str, Any]:
        """What the audit log says of an answer: plain values."""
        ...


def only_input(tensors: Mapping[str, Tensor], spec: TensorSpec, datatypes: Sequence[str]) -> Tensor:
    """The one tensor of a request. Raises `RequestError`."""
    if set(tensors) != {spec.name}:
        raise invalid(f"the input is one tensor, '{spec.name}', and not {', '.join(sorted(tensors)) or 'none'}")
    tensor = tensors[spec.name]
    if tensor.datatype not in datatypes:
        raise invalid(f"tensor '{spec.name}' is of datatype {tensor.datatype}: it must be {' or '.join(datatypes)}")
    return tensor


def encoded(tensor: Tensor) -> list[bytes]:
    """The elements of a BYTES tensor of shape (N,) or (N, 1), which is what clients of Triton send."""
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise invalid(f"tensor '{tensor.name}': BYTES must be of shape [N], one file for each image, not {list(tensor.shape)}")
    assert isinstance(tensor.values, list)
    return tensor.values


def encoded_pixels(content: bytes) -> int:
    """The pixels of an encoded image by its header; 0 where it tells none, and decoding refuses it."""
    header = read_header(content)
    return header.width * header.height if isinstance(header, Header) else 0


def spec_of(model: Model, name: str) -> TensorSpec:
    """The specification of a model's output."""
    return next(spec for spec in model.outputs if spec.name == name)


def tensor_of(spec: TensorSpec, values: Sequence[Any]) -> Tensor:
    """An output from its elements, one for each item."""
    if spec.datatype == "BYTES":
        return texts(spec.name, values)
    return numbers(spec.name, spec.datatype, values, (len(values), *spec.shape[1:]))


def raw(pixels: NDArray[np.uint8]) -> memoryview:
    """The bytes of an array, row by row."""
    return np.ascontiguousarray(pixels).data.cast("B")


@dataclass(frozen=True)
class Cells:
    """Images of single cells on black in, calls out: `Scope.classify` on each.

    Attributes
    ----------
    watch : callable
        Sees each image beside the work, in its thread, and gives what is to be classified.
    kind : str
        Always 'cells'.
    inputs, outputs : tuple of TensorSpec
        What the model takes and gives.
    """

    watch: Callable[[Item], Item] = lambda item: item
    kind: str = "cells"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("image", "BYTES", (FREE,)),)
    outputs: tuple[TensorSpec, ...] = (
        TensorSpec("label", "BYTES", (FREE,)),
        TensorSpec("probability", "FP32", (FREE,)),
        TensorSpec("score", "FP32", (FREE,)),
        TensorSpec("voter", "BYTES", (FREE,)),
        TensorSpec("probabilities", "FP32", (FREE, len(VOTERS), len(CLASSES))),
        TensorSpec("box", "INT32", (FREE, 4)),
        TensorSpec("novelty", "FP32", (FREE,)),
        TensorSpec("set", "BYTES", (FREE,)),
        TensorSpec("refusal", "BYTES", (FREE,)),
        TensorSpec("detail", "BYTES", (FREE,)),
    )

    def items(self, tensors: Mapping[str, Tensor], parameters: Parameters) -> list[Item]:
        """See `Model`."""
        tensor = only_input(tensors, self.inputs[0], ("BYTES", "UINT8"))
        if tensor.datatype == "BYTES":
            return list(encoded(tensor))
        if len(tensor.shape) != 4 or tensor.shape[3] != 3:
            raise invalid(f"tensor 'image': UINT8 must be of shape [N, H, W, 3], RGB, not {list(tensor.shape)}")
        return list(tensor.values)

    def pixels(self, item: Item) -> int:
        """See `Model`."""
        return encoded_pixels(item) if isinstance(item, bytes) else item.shape[0] * item.shape[1]

    def content(self, item: Item) -> bytes | memoryview:
        """See `Model`."""
        return item if isinstance(item, bytes) else raw(item)

    def run(self, scope: Scope, items: Sequence[Item]) -> list[Answer]:
        """See `Model`."""
        images = [self.watch(item) for item in items]
        if len(images) == 1:
            return [scope.classify(images[0])]
        # where batches don't count, several are waiting for each of the server's threads
        return scope.classify_many(images, in_one_thread=scope.lanes.engine.batch == 1)

    def tensor(self, name: str, answers: Sequence[Prediction]) -> Tensor:
        """See `Model`."""
        return tensor_of(spec_of(self, name), list(map(CELL_OUTPUTS[name], answers)))

    def record(self, answer: Prediction) -> dict[str, Any]:
        """See `Model`."""
        refusal = answer.refusal.code if answer.refusal else None
        return {"label": answer.label, "score": answer.score, "voter": answer.voter, "refusal": refusal}


class Crops:
    """Crops by the bundle's specification in, the fused graph's outputs out."""

    kind = "crops"

    def __init__(self, bundle: Bundle) -> None:
        side = bundle.manifest.crop.side_px
        self.inputs = (TensorSpec("crops", "UINT8", (FREE, side, side, 3)),)
        novelty = (TensorSpec("novelty", "FP32", (FREE,)),) if bundle.manifest.measures_novelty else ()
        self.outputs = (
            TensorSpec("probabilities", "FP32", (FREE, len(VOTERS), len(CLASSES))),
            TensorSpec("label", "INT32", (FREE,)),
            TensorSpec("probability", "FP32", (FREE,)),
            TensorSpec("voter", "INT32", (FREE,)),
            *novelty,
        )

    def items(self, tensors: Mapping[str, Tensor], parameters: Parameters) -> list[Item]:
        """See `Model`."""
        spec = self.inputs[0]
        tensor = only_input(tensors, spec, ("UINT8",))
        if tensor.shape[1:] != spec.shape[1:]:
            raise invalid(f"tensor 'crops': its shape must be {[*'N', *spec.shape[1:]]}, not {list(tensor.shape)}")
        return list(tensor.values)

    def pixels(self, item: Item) -> int:
        """See `Model`."""
        return int(item.shape[0] * item.shape[1])

    def content(self, item: Item) -> bytes | memoryview:
        """See `Model`."""
        return raw(item)

    def run(self, scope: Scope, items: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        """See `Model`."""
        outputs = graph_outputs(scope.lanes.infer(np.stack(items)), partial=scope.lanes.cascade is not None)
        return [
            GraphOutputs(*(None if rows is None else rows[number] for rows in outputs))  # type: ignore[arg-type]
            for number in range(len(items))
        ]

    def tensor(self, name: str, answers: Sequence[GraphOutputs]) -> Tensor:
        """See `Model`."""
        return tensor_of(spec_of(self, name), [getattr(one, name) for one in answers])

    def record(self, answer: GraphOutputs) -> dict[str, Any]:
        """See `Model`."""
        score = answer.probabilities[int(answer.voter), 1]
        return {"label": CLASSES[int(answer.label)], "score": float(score), "voter": VOTERS[int(answer.voter)], "refusal": None}


@dataclass(frozen=True)
class Frames:
    """Stained frames in, reports in JSON out: `Scope.examine` on each.

    Attributes
    ----------
    watch : callable
        Sees each report, in the work's thread.
    kind : str
        Always 'frames'.
    inputs, outputs : tuple of TensorSpec
        What the model takes and gives.
    """

    watch: Callable[[FrameReport], object] = lambda _: None
    kind: str = "frames"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("frame", "BYTES", (FREE,)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("report", "BYTES", (FREE,)),)

    def items(self, tensors: Mapping[str, Tensor], parameters: Parameters) -> list[Item]:
        """See `Model`."""
        tensor = only_input(tensors, self.inputs[0], ("BYTES",))
        pixel_um = parameters.get("pixel_um")
        if pixel_um is not None and not (type(pixel_um) in (int, float) and LEAST_UM < pixel_um < MOST_UM):
            raise invalid(f"parameter 'pixel_um' must be micrometres per pixel, a number between {LEAST_UM} and {MOST_UM}")
        return [(content, pixel_um) for content in encoded(tensor)]

    def pixels(self, item: Item) -> int:
        """See `Model`."""
        return encoded_pixels(item[0])

    def content(self, item: Item) -> bytes | memoryview:
        """See `Model`."""
        content: bytes = item[0]
        return content

    def run(self, scope: Scope, items: Sequence[Item]) -> list[Answer]:
        """See `Model`."""
        reports = [scope.examine(content, pixel_um=pixel_um) for content, pixel_um in items]
        for report in reports:
            self.watch(report)
        return reports

    def tensor(self, name: str, answers: Sequence[FrameReport]) -> Tensor:
        """See `Model`."""
        return texts(name, [json.dumps(report.row(), allow_nan=False) for report in answers])

    def record(self, answer: FrameReport) -> dict[str, Any]:
        """See `Model`."""
        return {"counts": answer.counts, "refusal": answer.refusal.code if answer.refusal else None}


def check_pixels(model: Model, items: Sequence[Item], limit: int) -> None:
    """Raises `RequestError` for a request with more pixels than `limit`."""
    found = sum(model.pixels(item) for item in items)
    if found > limit:
        raise RequestError(Code.TOO_LARGE, f"the request's images have {found} pixels, at most {limit} are taken: send fewer")
