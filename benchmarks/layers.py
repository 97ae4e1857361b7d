"""What OpenVINO made of a graph: which layers compute in which type, read from the compiled network itself."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

HEAVY = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")  # where the multiply-adds are
BETWEEN = ("Pooling", "Concatenation", "Subgraph", "Eltwise", "Interpolate", "Reduce")  # what maps go through between them


class Layer(NamedTuple):
    """One layer of the compiled network."""

    kind: str  # as the CPU plugin calls it: 'Convolution', 'FullyConnected', ...
    kernel: str  # such as 'jit_avx2_1x1_I8'
    computes_in: str  # 'u8', 'i8', 'f32', 'bf16'
    name: str

    @property
    def in_8_bits(self) -> bool:
        """Whether it works on bytes."""
        return self.computes_in in ("u8", "i8", "U8", "I8")


def compiled_layers(compiled: Any) -> list[Layer]:
    """The layers of a compiled model, as it will run them."""
    return [_layer(op) for op in compiled.get_runtime_model().get_ops()]


def count_layers(layers: list[Layer], kinds: tuple[str, ...] = HEAVY) -> Counter[tuple[str, bool]]:
    """How many layers of these kinds there are, by kind and by whether they compute in 8 bits."""
    return Counter((layer.kind, layer.in_8_bits) for layer in layers if layer.kind in kinds)


def unquantised(layers: list[Layer], kinds: tuple[str, ...] = HEAVY) -> list[Layer]:
    """Those of these kinds that don't compute in 8 bits."""
    return [layer for layer in layers if layer.kind in kinds and not layer.in_8_bits]


def _layer(op: Any) -> Layer:
    facts = op.get_rt_info()
    kind, kernel, computes_in = (facts[key].astype(str) for key in ("layerType", "primitiveType", "runtimePrecision"))
    return Layer(kind, kernel, computes_in, op.get_friendly_name())
