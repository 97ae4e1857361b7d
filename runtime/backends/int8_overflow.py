"""Refuses int8 graphs whose sums overflow on a CPU without VNNI.

There x86 multiplies uint8 activations by int8 weights and adds two products in 16 bits (vpmaddubsw), cutting off what doesn't
fit: 2 x 255 x 64 does, 2 x 255 x 127 doesn't. With weights of 8 bits a trained ensemble's probabilities moved by 0.8 in
OpenVINO and in ONNX Runtime alike. Depthwise layers add their few products in 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blastscope.runtime.backends.onnx_file import INT8, OnnxGraph
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.io.cpu_info import int8_sums_overflow

SAFE_WEIGHT = 64  # of 7 bits
_LAYERS = ("Conv", "MatMul")


def check_sums(path: Path, graph: OnnxGraph) -> None:
    """Raises `DeviceError` where this CPU would compute the int8 `graph` of the file `path` wrongly."""
    if int8_sums_overflow() and (layer := next(wide_layers(graph), None)) is not None:
        raise DeviceError(
            f"'{path}' has int8 weights of 8 bits, in '{layer}' among others, and this CPU has no VNNI, so that their sums "
            "overflow: take another precision, or calibrate with weight_bits = 7"
        )


def wide_layers(graph: OnnxGraph) -> Iterator[str]:
    """Names of the layers whose weights want VNNI."""
    for node in graph.nodes:
        maker = graph.maker.get(node.input[1]) if node.op_type in _LAYERS else None
        weight = graph.array(maker.input[0], INT8) if maker is not None and maker.op_type == "DequantizeLinear" else None
        if weight is None or (node.op_type == "Conv" and weight.shape[1] == 1):
            continue
        if np.abs(weight.astype(np.int16)).max(initial=0) > SAFE_WEIGHT:
            yield node.name or node.output[0]
