"""fp16 graphs: the networks in half precision, all around them in fp32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.calibration.quantisation.qdq_placement import find_regions
from blastscope.export.onnx_export import FusedGraph, trace
from blastscope.export.onnx_writer import cast_fp16, convert_fp16
from blastscope.runtime.errors import EngineError

SIDE = 16
HALF = onnx.TensorProto.FLOAT16


class Networks(nn.Module):
    """Three voters on one convolution: enough to have all parts of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 24, 5, 2), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU6())
        self.logits = nn.Linear(24, 6)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        pixels = (crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5
        return self.logits(self.conv(pixels).mean(dim=(2, 3))).float().reshape(-1, 3, 2)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return trace(FusedGraph(Networks()).eval(), SIDE, "ensemble")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8)


def test_an_fp16_graph_is_half_as_large_and_answers_nearly_the_same(model: onnx.ModelProto, crops: np.ndarray) -> None:
    half = convert_fp16(model, "ensemble")
    weights = [sum(len(weight.raw_data) for weight in graph.graph.initializer) for graph in (half, model)]
    assert weights[0] < 0.55 * weights[1]
    answers = [ReferenceRunner(graph.SerializeToString()).all(crops) for graph in (model, half)]
    assert answers[1]["probabilities"].dtype == np.float32
    np.testing.assert_allclose(answers[0]["probabilities"], answers[1]["probabilities"], atol=2e-3)
    assert {entry.key: entry.value for entry in half.metadata_props}["blastscope.precision"] == "fp16"


def test_normalisation_layers_on_vectors_softmax_and_vote_stay_fp32(model: onnx.ModelProto) -> None:
    half = convert_fp16(model, "ensemble")
    kinds = {value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(half).graph.value_info}
    regions = find_regions(half)
    around = {*regions.before, *regions.after}
    for node in half.graph.node:
        halves = [name for name in node.output if kinds.get(name) == HALF]
        assert not (node.name in around and halves and node.op_type != "Cast"), node.name
        assert bool(halves) or node.op_type != "Conv", node.name
    assert next(node for node in half.graph.node if node.op_type == "Softmax").output[0] == "probabilities"


def test_the_original_is_left_as_it_was(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    first, second = (convert_fp16(model, "ensemble").SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert model.SerializeToString(deterministic=True) == before


def test_a_weight_beyond_fp16_is_named(model: onnx.ModelProto) -> None:
    large = onnx.ModelProto()
    large.CopyFrom(model)
    conv = next(node for node in large.graph.node if node.op_type == "Conv")
    weight = next(weight for weight in large.graph.initializer if weight.name == conv.input[1])
    array = numpy_helper.to_array(weight).copy()
    array[0, 0, 0, 0] = 70_000
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    with pytest.raises(EngineError, match=rf"'{conv.input[1]}' reaches 70000, fp16 ends at 65504"):
        convert_fp16(large, "ensemble")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -66_000.0])
def test_no_value_becomes_infinite_by_rounding(bad: float) -> None:
    with pytest.raises(EngineError):
        cast_fp16(np.array([1, bad], np.float32), "w")
    assert cast_fp16(np.array([65_504, 1e-9, -3], np.float32), "w").tolist() == [65_504, 0, -3]


def test_regions_cover_every_node_once(model: onnx.ModelProto) -> None:
    regions = find_regions(model)
    parts = [*regions.before, *regions.networks, *regions.after]
    assert sorted(parts) == sorted(node.name for node in model.graph.node)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert "Conv" in {kinds[name] for name in regions.networks}
    assert {"Cast", "Div"} <= {kinds[name] for name in regions.before}
    assert {"Gemm", "Softmax", "ArgMax", "Where"} <= {kinds[name] for name in regions.after}


class Attention(nn.Module):
    """What backbones with attention add: scaled products of activations, layer normalisation, maps that are resized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.qkv = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24), nn.Linear(24, 72)
        self.last, self.logits = nn.Sequential(nn.Conv2d(24, 24, 3), nn.GELU()), nn.Linear(24, 6)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        maps = self.stem((crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
        tokens = maps.flatten(2).transpose(1, 2)  # (N, 16, 24)
        q, k, v = self.qkv(self.norm(tokens)).reshape(-1, 16, 3, 2, 12).permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 16, 24) + tokens
        maps = nn.functional.interpolate(seen.transpose(1, 2).reshape(-1, 24, 4, 4), scale_factor=2.0, mode="bilinear")
        return self.logits(self.last(maps).mean(dim=(2, 3))).reshape(-1, 3, 2)


@pytest.fixture(scope="module")
def attention() -> onnx.ModelProto:
    torch.manual_seed(0)
    return trace(FusedGraph(Attention()).eval(), SIDE, "ensemble")


def test_attention_and_resizing_become_fp16(attention: onnx.ModelProto, crops: np.ndarray) -> None:
    assert {"Shape", "Resize", "Sqrt", "LayerNormalization"} <= {node.op_type for node in attention.graph.node}
    half = convert_fp16(attention, "ensemble")
    answers = [ReferenceRunner(graph.SerializeToString()).probabilities(crops) for graph in (attention, half)]
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-3)
    weights = [sum(len(weight.raw_data) for weight in graph.graph.initializer) for graph in (half, attention)]
    assert weights[0] < 0.6 * weights[1]


def test_scales_of_resize_and_what_comes_of_shapes_stay_fp32(attention: onnx.ModelProto) -> None:
    half = convert_fp16(attention, "ensemble")
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    kinds |= {weight.name: weight.data_type for weight in half.graph.initializer}
    by_kind = {node.op_type: node for node in half.graph.node}
    assert kinds[by_kind["Resize"].input[2]] == onnx.TensorProto.FLOAT
    assert kinds[by_kind["Sqrt"].output[0]] == onnx.TensorProto.FLOAT
    for kind in ("Conv", "MatMul", "LayerNormalization", "Softmax", "Resize"):
        assert any(kinds.get(node.output[0]) == HALF for node in half.graph.node if node.op_type == kind), kind


def test_an_operator_with_a_graph_of_its_own_is_refused(model: onnx.ModelProto) -> None:
    branching = onnx.ModelProto()
    branching.CopyFrom(model)
    value = next(node for node in branching.graph.node if node.op_type == "Conv").output[0]
    branches = [
        onnx.helper.make_graph([onnx.helper.make_node("Identity", [value], [name])], name, [], [output])
        for name in ("then", "else")
        for output in [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)]
    ]
    branch = onnx.helper.make_node("If", ["true"], ["chosen"], name="If", then_branch=branches[0], else_branch=branches[1])
    branching.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    branching.graph.node.append(branch)
    with pytest.raises(EngineError, match=r"'If' holds a graph of its own.*export without fp16"):
        convert_fp16(branching, "ensemble")


def test_a_network_that_the_exporter_does_not_know_is_told_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Linear(1, 6)

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            return self.logits(torch.special.bessel_j0(crops.float()).mean(dim=(1, 2, 3))[:, None]).reshape(-1, 3, 2)

    with pytest.raises(EngineError, match=r"exporter has no ONNX for this network: .*bessel_j0.*train another backbone"):
        trace(FusedGraph(Strange()).eval(), SIDE, "ensemble")
    assert "IR graph" not in "".join(capfd.readouterr())
