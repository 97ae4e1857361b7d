"""Small fused graphs with two real backbones, for tests of what takes such graphs apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 16
CHANNELS = 8


class Towers:
    """An ONNX graph in the making: two convolutional backbones on one normalised crop, a head on both, three voters."""

    def __init__(self, *, seed: int = 0, int8: bool = False, half: bool = False, top: int = 64) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._int8, self._half = int8, half
        self._top = top  # of the int8 weights; 64 is 7 bits, which every CPU computes rightly

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator, and gives the name of its output."""
        from onnx import helper

        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Adds a constant, and gives its name."""
        name, value = f"constant_{len(self._constants)}", np.asarray(value)
        self._constants[name] = value.astype(np.float16) if self._half and value.dtype == np.float32 else value
        return name

    def pixels(self, *, mirrored: bool = False) -> str:
        """The crop, normalised; with `mirrored` beside its mirror image."""
        from onnx import TensorProto

        floats = self.node("Cast", "crops", to=TensorProto.FLOAT)
        planes = self.node("Transpose", floats, perm=[0, 3, 1, 2])
        scaled = self.node("Mul", planes, self._single(1 / 128))
        pixels = self.node("Sub", scaled, self._single(1.0))
        if mirrored:
            reach = (self.constant(np.array([value])) for value in (-1, -(2**31), 3, -1))
            pixels = self.node("Concat", pixels, self.node("Slice", pixels, *reach), axis=0)
        return self.node("Cast", pixels, to=TensorProto.FLOAT16) if self._half else pixels

    def _single(self, value: float) -> str:
        name = self.constant(np.float64(value))
        self._constants[name] = np.array(value, np.float32)
        return name

    def convolve(self, source: str, channels: int = CHANNELS, *, given: int = CHANNELS) -> str:
        """A strided 3 x 3 convolution and ReLU."""
        weight = self._random.normal(0, (2 / (9 * given)) ** 0.5, (channels, given, 3, 3)).astype(np.float32)
        entry, kernel = source, self.constant(weight)
        if self._int8:
            entry, kernel = self._through_int8(source, 0.03), self._weight_int8(weight)
        return self.node("Relu", self.node("Conv", entry, kernel, strides=[2, 2], pads=[1, 1, 1, 1]))

    def _through_int8(self, source: str, step: float) -> str:
        scale, zero = self.constant(np.float32(step)), self.constant(np.int8(0))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", source, scale, zero), scale, zero)

    def _weight_int8(self, weight: NDArray[np.float32]) -> str:
        step = np.abs(weight).max(axis=(1, 2, 3)) / self._top
        whole = np.rint(weight / step[:, None, None, None]).astype(np.int8)
        zeros = self.constant(np.zeros(len(step), np.int8))
        return self.node("DequantizeLinear", self.constant(whole), self.constant(step), zeros, axis=0)

    def pool(self, source: str) -> str:
        """The mean of each map."""
        return self.node("ReduceMean", source, self.constant(np.array([2, 3])), keepdims=0)

    def linear(self, source: str, given: int, wanted: int) -> str:
        """A fully connected layer."""
        weight = self._random.normal(0, 3 / given**0.5, (given, wanted)).astype(np.float32)
        return self.node("MatMul", source, self.constant(weight))

    def head(self, *sources: str) -> str:
        """The combined model's logits on what the backbones offer."""
        joined = self.node("Concat", *sources, axis=1)
        return self.linear(self.node("Relu", self.linear(joined, CHANNELS * len(sources), 8)), 8, 2)

    def answer(self, *logits: str, mirrored: bool = False) -> bytes:
        """The file: what three voters say, put together, the mean over the views, softmax."""
        from onnx import TensorProto, helper, numpy_helper

        if self._half:
            logits = tuple(self.node("Cast", one, to=TensorProto.FLOAT) for one in logits)
        rows = [self.node("Unsqueeze", one, self.constant(np.array([1]))) for one in logits]
        joined = self.node("Concat", *rows, axis=1)
        if mirrored:
            views = self.node("Reshape", joined, self.constant(np.array([2, -1, 3, 2])))
            joined = self.node("ReduceMean", views, self.constant(np.array([0])), keepdims=0)
        self._nodes.append(helper.make_node("Softmax", [joined], ["probabilities"], axis=2))
        whole, axis = (self.constant(np.array(value)) for value in ([0, -1], [1]))
        flat = self.node("Reshape", "probabilities", whole)
        largest = self.node("ArgMax", flat, axis=1, keepdims=0)
        for name in ("label", "voter"):  # not the vote, which is made on the host
            self._nodes.append(helper.make_node("Cast", [largest], [name], to=TensorProto.INT32))
        self._nodes.append(helper.make_node("ReduceMax", [flat, axis], ["probability"], keepdims=0))
        graph = helper.make_graph(
            self._nodes,
            "towers",
            [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3, 2]),
                helper.make_tensor_value_info("label", TensorProto.INT32, ["N"]),
                helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"]),
                helper.make_tensor_value_info("voter", TensorProto.INT32, ["N"]),
            ],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return bytes(model.SerializeToString())


def two_towers(*, mirrored: bool = False, trunk: bool = False, b_first: bool = False, **kind: Any) -> bytes:
    """A fused graph of two backbones; with `trunk` on convolutions that they share, whose maps the head reads too."""
    towers = Towers(**kind)
    entry, extra = towers.pixels(mirrored=mirrored), []
    given = 3
    if trunk:
        entry, given = towers.convolve(entry, given=3), CHANNELS
        extra = [towers.pool(entry)]
    firsts = [towers.convolve(entry, given=given) for _ in range(2)]
    pooled = [towers.pool(towers.convolve(first)) for first in firsts]
    if b_first:
        pooled.reverse()
    a, b = (towers.linear(features, CHANNELS, 2) for features in pooled)
    combined = towers.head(*pooled, *extra, *(towers.pool(first) for first in firsts))
    return towers.answer(a, b, combined, mirrored=mirrored)


def crops(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Crops that the voters of `two_towers` don't agree on."""
    random = np.random.default_rng(seed)
    levels = random.integers(20, 230, (count, 1, 1, 3))
    return np.clip(levels + random.normal(0, 60, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def reference(graph: bytes | Path, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ONNX Runtime computes, (N, 3, 2)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"crops": crops})[0], np.float32)
