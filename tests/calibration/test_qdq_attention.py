"""int8 graphs of networks with attention: values of one number, and values with something before the batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.calibration.quantisation.calibrators import _by_crop
from blastscope.calibration.quantisation.qdq_placement import make_plan
from blastscope.calibration.quantisation.quantizer import Int8Builder, default_quant_config
from blastscope.export.onnx_export import FusedGraph, trace

SIDE = 16


class Attention(nn.Module):
    """Values of one number, values that put something before the batch, and maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 24, 4, 4), nn.Linear(24, 72)
        self.last, self.logits = nn.Conv2d(24, 24, 3), nn.Linear(24, 6)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        tokens = self.stem((crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5).flatten(2).transpose(1, 2)  # (N, 16, 24)
        q, k, v = self.qkv(tokens).reshape(-1, 16, 3, 2, 12).permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 16, 24) + tokens
        return self.logits(self.last(seen.transpose(1, 2).reshape(-1, 24, 4, 4)).mean(dim=(2, 3))).reshape(-1, 3, 2)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (24, 1, 1, 3)) * rng.random((24, SIDE, SIDE, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def attention() -> onnx.ModelProto:
    torch.manual_seed(1)
    return trace(FusedGraph(Attention()).eval(), SIDE, "ensemble")


def by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def test_a_network_with_attention_becomes_int8(attention: onnx.ModelProto, crops: np.ndarray) -> None:
    config = CalibrationConfig(method="minmax")
    child = Int8Builder(attention, crops[:23], config).build(default_quant_config(config))  # the last batch is smaller
    answers = [ReferenceRunner(graph.SerializeToString()).probabilities(crops) for graph in (attention, child)]
    np.testing.assert_allclose(answers[0], answers[1], atol=0.05)
    products = [node for node in child.graph.node if node.op_type == "MatMul"]
    made = by_output(child)
    assert products
    assert all(made[name].op_type == "DequantizeLinear" for node in products for name in node.input)


def test_values_that_hold_nothing_of_the_crops_stay_float(attention: onnx.ModelProto) -> None:
    made, plan = by_output(attention), make_plan(attention)
    roots = [node.output[0] for node in attention.graph.node if node.op_type == "Sqrt"]
    assert roots
    assert plan.values.keys().isdisjoint(roots)
    products = [node for node in attention.graph.node if node.op_type == "MatMul"]
    assert {name for node in products for name in node.input if name in made} <= set(plan.values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ranges_of_values_without_the_batch_in_front_are_those_of_all(attention: onnx.ModelProto, bad: float) -> None:
    scale = np.arange(1, 13, dtype=np.float32)
    np.testing.assert_array_equal(_by_crop(scale.reshape(3, 4), 4), np.full(4, 12))  # (3, N): queries, keys, values
    np.testing.assert_array_equal(_by_crop(scale.reshape(4, 3), 4), [3, 6, 9, 12])
    np.testing.assert_array_equal(_by_crop(scale.reshape(4, 3), 2), [9, 12])  # two views, one batch apart
    np.testing.assert_array_equal(_by_crop(np.array(bad, np.float32), 2), np.full(2, bad))
