"""Layers on vectors as 1 x 1 convolutions, for GPUs of the Turing kind (sm75).

TensorRT-RTX has no fp32 matrix product there ("FP32 GEMM is not supported", 1.7), but it has fp32 convolutions, and one of
1 x 1 on a map of one pixel is the same sum of products. The graph file stays as it is: only the network in memory is changed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

TURING = "sm75"


def matmul_as_convolution(trt: Any, network: Any) -> list[Any]:
    """Puts a convolution in the place of every product of vectors with constant weights in the parsed `network`.

    Gives the weights, which must live until the engine is built. The products stay behind unused, and the builder drops them.
    """
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    makers = {layer.get_output(place).name: layer for layer in layers for place in range(layer.num_outputs)}
    users: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for layer in layers:
        for place in range(layer.num_inputs):
            if (value := layer.get_input(place)) is not None:
                users[value.name].append((layer, place))
    kept = []
    for layer in layers:
        weights = _weights(trt, layer, makers)
        if weights is None:
            continue
        kept.append(weights)
        answer = _convolved(trt, network, layer.get_input(0), weights)
        for user, place in users[layer.get_output(0).name]:
            user.set_input(place, answer)
    return kept


def _weights(trt: Any, layer: Any, makers: dict[str, Any]) -> Any:
    """What `layer` multiplies vectors with, (out, in); None where it does something else."""
    if layer.type != trt.LayerType.MATRIX_MULTIPLY:
        return None
    layer.__class__ = trt.IMatrixMultiplyLayer  # the bindings give the parent class
    vectors, factor = layer.get_input(0), layer.get_input(1)
    maker = makers.get(factor.name)
    plain = layer.op0 == trt.MatrixOperation.NONE and len(vectors.shape) == len(factor.shape) == 2
    if not plain or maker is None or maker.type != trt.LayerType.CONSTANT:
        return None
    maker.__class__ = trt.IConstantLayer
    weights = np.asarray(maker.weights).reshape(tuple(factor.shape))
    return np.ascontiguousarray(weights if layer.op1 == trt.MatrixOperation.TRANSPOSE else weights.T)


def _convolved(trt: Any, network: Any, vectors: Any, weights: Any) -> Any:
    """`vectors` (N, in) times `weights`, (N, out)."""
    pixel = network.add_shuffle(vectors)
    pixel.reshape_dims = (0, 0, 1, 1)  # 0: as it was
    convolution = network.add_convolution_nd(pixel.get_output(0), len(weights), (1, 1), weights, trt.Weights())
    flat = network.add_shuffle(convolution.get_output(0))
    flat.reshape_dims = (0, 0)
    return flat.get_output(0)
