"""int8 graphs: which values, which scales, and what engines make of them."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from blastscope.calibration.config import CalibrationConfig, Method
from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.calibration.quantisation.calibrators import (
    HISTOGRAM_SAMPLES,
    _refused,
    collect_stats,
    entropy_bins,
    percentile_bins,
    rescale_histogram,
    subsample,
)
from blastscope.calibration.quantisation.qdq import bias_correction, check_int8, insert_qdq, quantise_weight
from blastscope.calibration.quantisation.qdq_placement import make_plan
from blastscope.calibration.quantisation.quantizer import Int8Builder, default_quant_config
from blastscope.export.onnx_export import FusedGraph, trace
from blastscope.runtime.backends.onnx_file import OnnxGraph
from blastscope.runtime.backends.uint8_activations import wide_layers
from blastscope.runtime.errors import EngineError
from blastscope.train.config import TrainConfig
from blastscope.train.ensemble_checkpoint import random_ensemble

SIDE = 16
MINMAX = CalibrationConfig(method="minmax")


class Networks(nn.Module):
    """Convolutions, a depthwise one, a residual, a concatenation, pools and a head: what backbones are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(), nn.Conv2d(16, 16, 1))
        self.pool = nn.MaxPool2d(2)
        self.left, self.right = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU())
        self.hidden = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.logits = nn.Linear(32, 6)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        seen = self.stem((crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
        seen = self.pool(seen + self.depthwise(seen))
        seen = self.last(torch.cat([self.left(seen), self.right(seen)], dim=1)).mean(dim=(2, 3))
        return self.logits(self.hidden(seen)).reshape(-1, 3, 2)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (24, 1, 1, 3)) * rng.random((24, SIDE, SIDE, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(1)
    return trace(FusedGraph(Networks()).eval(), SIDE, "ensemble")


def quantised(model: onnx.ModelProto, crops: np.ndarray, config: CalibrationConfig = MINMAX) -> onnx.ModelProto:
    return Int8Builder(model, crops, config).build(default_quant_config(config))


def by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def scale_of(model: onnx.ModelProto, value: str) -> float:
    """The scale that `value`, the output of a DequantizeLinear, was kept with."""
    constants = {weight.name: weight for weight in model.graph.initializer}
    return float(numpy_helper.to_array(constants[by_output(model)[value].input[1]]))


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_an_int8_graph_answers_nearly_as_its_parent(model: onnx.ModelProto, crops: np.ndarray, method: Method) -> None:
    child = quantised(model, crops, CalibrationConfig(method=method))
    parent = ReferenceRunner(model.SerializeToString()).probabilities(crops)
    answers = ReferenceRunner(child.SerializeToString()).all(crops)
    assert np.abs(answers["probabilities"] - parent).max() < 0.05
    assert {entry.key: entry.value for entry in child.metadata_props}["blastscope.precision"] == "int8"


def test_every_layer_on_maps_computes_in_int8(model: onnx.ModelProto, crops: np.ndarray) -> None:
    child = quantised(model, crops)
    made = by_output(child)
    layers = [node for node in child.graph.node if node.op_type in ("Conv", "Gemm")]
    int8 = [
        node for node in layers if all(made.get(name) and made[name].op_type == "DequantizeLinear" for name in node.input[:2])
    ]
    assert {node.op_type for node in int8} == {"Conv"}
    assert {node.op_type for node in layers if node not in int8} == {"Gemm"}
    for node in child.graph.node:  # nothing between convolutions computes in float32
        if node.op_type in ("Add", "Concat", "MaxPool", "Relu") and "dequantised" in node.input[0]:
            assert all(made[name].op_type == "DequantizeLinear" for name in node.input if name in made), node.name
    kinds = Counter(node.op_type for node in child.graph.node)
    assert kinds["Softmax"] == 1
    softmax = next(node for node in child.graph.node if node.op_type == "Softmax")
    assert made[softmax.input[0]].op_type != "DequantizeLinear"


def test_no_vector_is_quantised_even_with_features_of_stages() -> None:
    settings = {"crop": {"side_px": 32}, "network": {"backbone": "test_efficientnet"}, "stage2": {"hidden": 16, "stages": 3}}
    seen = np.random.default_rng(5).integers(0, 256, (8, 32, 32, 3), np.uint8)
    trained = random_ensemble(TrainConfig.model_validate(settings), seen)
    plan = make_plan(graph := trace(FusedGraph(trained.ensemble).eval(), 32, "ensemble"))
    shapes = {value.name: value.type.tensor_type.shape for value in onnx.shape_inference.infer_shapes(graph).graph.value_info}
    assert plan.values
    assert {len(shapes[value].dim) for value in plan.values} == {4}
    assert "Sqrt" in {node.op_type for node in graph.graph.node}


def test_the_rules_that_tensorrt_holds_graphs_to_are_kept(model: onnx.ModelProto, crops: np.ndarray) -> None:
    child = quantised(model, crops)
    check_int8(child)
    constants = {weight.name: weight for weight in child.graph.initializer}
    for node in child.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            assert constants[node.input[0]].data_type == onnx.TensorProto.INT8
        if node.op_type in ("Conv", "Gemm"):
            assert constants[node.input[2]].data_type == onnx.TensorProto.FLOAT
    assert {entry.domain for entry in child.opset_import} == {""}


@pytest.mark.parametrize("broken", ["zero point", "int32"])
def test_a_broken_rule_is_named(model: onnx.ModelProto, crops: np.ndarray, broken: str) -> None:
    child = quantised(model, crops)
    if broken == "zero point":
        zero = next(weight for weight in child.graph.initializer if weight.name == "zero")
        zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), "zero"))
        message = "zero point"
    else:
        node = next(node for node in child.graph.node if node.op_type == "DequantizeLinear" and node.input[0].endswith("_int8"))
        child.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int32), "bias32"))
        node.input[0] = "bias32"
        message = "dequantises"
    with pytest.raises(EngineError, match=message):
        check_int8(child)


def test_activations_and_moving_operators_share_one_scale(model: onnx.ModelProto, crops: np.ndarray) -> None:
    child = quantised(model, crops)
    made, checked = by_output(child), Counter[str]()
    taken = {node.input[0]: f"{node.input[0]}_dequantised" for node in child.graph.node if node.op_type == "QuantizeLinear"}
    for node in child.graph.node:
        if node.op_type not in ("Relu", "Clip", "Concat", "MaxPool") or node.output[0] not in taken:
            continue
        inputs = [name for name in node.input if name in made and made[name].op_type == "DequantizeLinear"]
        scales = {scale_of(child, name) for name in (*inputs, taken[node.output[0]])}
        assert len(scales) == 1, node.name
        checked[node.op_type] += bool(inputs)
    assert set(checked) >= {"Relu", "Clip", "Concat", "MaxPool"}


def test_the_value_before_an_activation_does_not_widen_its_range(model: onnx.ModelProto, crops: np.ndarray) -> None:
    plan = make_plan(model)
    largest = collect_stats(model, make_plan(model), crops, histograms=False).largest
    before = {node.input[0]: plan.values.get(node.input[0]) for node in model.graph.node if node.op_type in ("Relu", "Clip")}
    dropped = [value for value, group in before.items() if group and value not in plan.members[group]]
    assert len(dropped) > 3
    assert not set(dropped) & set(largest)  # not even looked at


def test_the_value_before_an_activation_loses_nothing(model: onnx.ModelProto, crops: np.ndarray) -> None:
    child = quantised(model, crops)
    bare = onnx.ModelProto()
    bare.CopyFrom(child)
    made, clips = by_output(bare), 0
    for node in bare.graph.node:
        if node.op_type in ("Relu", "Clip") and made[node.input[0]].op_type == "DequantizeLinear":
            node.input[0] = made[made[node.input[0]].input[0]].input[0]  # as if no pair stood before it
            clips += 1
    assert clips > 3
    answers = [ReferenceRunner(graph.SerializeToString(), plain=True).probabilities(crops) for graph in (child, bare)]
    np.testing.assert_array_equal(answers[0], answers[1])


def test_127_stands_for_the_largest_value_that_was_seen(model: onnx.ModelProto, crops: np.ndarray) -> None:
    plan, child = make_plan(model), quantised(model, crops)
    reach = collect_stats(model, plan, crops, histograms=False).ranges(plan, "minmax", 100)
    assert plan.values
    for value, group in plan.values.items():
        assert scale_of(child, f"{value}_dequantised") == pytest.approx(reach[group] / 127, rel=1e-6)


@pytest.mark.parametrize(("bits", "top"), [(7, 64), (8, 127)])
def test_weights_of_7_bits_leave_room_for_two_products_in_16(
    model: onnx.ModelProto, crops: np.ndarray, bits: Literal[7, 8], top: int
) -> None:
    child = quantised(model, crops, CalibrationConfig(method="minmax", weight_bits=bits))
    weights = [numpy_helper.to_array(one) for one in child.graph.initializer if one.name.endswith("_int8")]
    wide = [int(np.abs(weight.astype(int)).max()) for weight in weights if weight.shape[1] > 1]
    assert max(wide) == top
    assert bool(list(wide_layers(OnnxGraph(child)))) is (bits == 8)  # what a CPU without VNNI refuses to open
    assert 2 * 255 * 64 < 2**15 <= 2 * 255 * 127
    depthwise = [int(np.abs(weight.astype(int)).max()) for weight in weights if weight.shape[1] == 1]
    assert depthwise == [127]  # nine products fit in any case


def test_the_library_computes_the_file_as_it_stands(model: onnx.ModelProto, crops: np.ndarray) -> None:
    # with weights of 8 bits CPUs without VNNI overflow here, and differ by tenths
    content = quantised(model, crops).SerializeToString()
    plain = ReferenceRunner(content, plain=True).probabilities(crops)
    assert np.abs(ReferenceRunner(content).probabilities(crops) - plain).max() < 0.02


def test_a_layer_left_in_fp32_takes_and_holds_no_int8(model: onnx.ModelProto, crops: np.ndarray) -> None:
    parent = ReferenceRunner(model.SerializeToString()).probabilities(crops)
    stats = collect_stats(model, make_plan(model), crops)
    layers = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for floats in ([layers[0]], [layers[1]], [layers[3], layers[4]], [layers[-1]], layers[:-1]):
        plan = make_plan(model, floats)
        child = insert_qdq(model, plan, stats.ranges(plan, "minmax", 100), means=stats.means)
        made = by_output(child)
        for node in child.graph.node:
            if node.op_type == "Conv":
                ends = {made[name].op_type == "DequantizeLinear" if name in made else False for name in node.input[:2]}
                assert ends == {node.name not in floats}, node.name
            if node.op_type == "Concat" and len(node.input) == 2 and made[node.input[0]].op_type == "DequantizeLinear":
                assert len({scale_of(child, name) for name in node.input}) == 1
        answers = ReferenceRunner(child.SerializeToString()).probabilities(crops)
        assert np.abs(answers - parent).max() < 0.05
    nothing = insert_qdq(model, make_plan(model, layers), {})
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in nothing.graph.node}
    np.testing.assert_array_equal(ReferenceRunner(nothing.SerializeToString()).probabilities(crops), parent)


def test_one_pass_serves_every_method_and_groups_share_a_range(model: onnx.ModelProto, crops: np.ndarray) -> None:
    plan = make_plan(model)
    stats = collect_stats(model, plan, crops)
    assert collect_stats(model, plan, crops, histograms=False).ranges(plan, "minmax", 100) == stats.ranges(
        plan, "minmax", 99.999
    )
    assert any(len(members) > 1 for members in plan.members.values())
    for group, members in plan.members.items():
        reaches = [stats.ranges(plan, method, 99.999)[group] for method in ("minmax", "entropy", "percentile")]
        assert reaches[0] == max(stats.largest[value] for value in members)
        assert max(reaches) == reaches[0]


def test_a_subsample_is_a_fair_sample_of_all_columns_and_channels() -> None:
    array = np.random.default_rng(0).normal(size=(4, 40, 72, 72)).astype(np.float32) * np.arange(1, 41).reshape(1, -1, 1, 1)
    sample = subsample(array)
    assert HISTOGRAM_SAMPLES / 2 < len(sample) <= HISTOGRAM_SAMPLES * 1.01
    np.testing.assert_allclose(np.quantile(np.abs(sample), [0.5, 0.99]), np.quantile(np.abs(array), [0.5, 0.99]), rtol=0.02)
    places = subsample(np.arange(array.size, dtype=np.float64).reshape(array.shape))
    assert len({int(place) % 72 for place in places}) == 72
    assert subsample(array[0, 0]).size == 72 * 72


def test_a_rescaled_histogram_holds_the_same_values_on_wider_bins() -> None:
    histogram = np.random.default_rng(0).integers(0, 50, 2048)
    half = rescale_histogram(histogram, 0.5)
    assert half.sum() == histogram.sum()
    np.testing.assert_array_equal(half[:1024], histogram.reshape(1024, 2).sum(axis=1))
    assert rescale_histogram(histogram, 1.0) is histogram


def test_weights_stay_within_the_range_of_their_own_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 4, 3, 3)).astype(np.float32)
    weight[2] *= 1000
    weight[3] = 0
    for top in (64, 127):
        whole, scale = quantise_weight(weight, 0, top)
        assert np.abs(whole).max() <= top
        assert (scale > 0).all()
        back = whole * scale.reshape(-1, 1, 1, 1)
        error = np.abs(back - weight).max(axis=(1, 2, 3))
        reach = np.abs(weight).max(axis=(1, 2, 3))
        assert (error <= np.maximum(0.31 * reach, 0)).all()
        plain = np.rint(weight / np.where(reach > 0, reach / top, 1).reshape(-1, 1, 1, 1)) * (reach / top).reshape(-1, 1, 1, 1)
        assert (np.square(back - weight).sum(axis=(1, 2, 3)) <= np.square(plain - weight).sum(axis=(1, 2, 3)) * 1.001).all()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_what_rounding_takes_from_the_mean_is_what_pytorch_finds(groups: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 8 // groups, 3, 3)
    rounded = (weight * 4).round() / 4
    inputs = torch.randn(1, 8, 1, 1).expand(1, 8, 5, 5).contiguous()
    change = nn.functional.conv2d(inputs, weight - rounded, groups=groups).mean(dim=(0, 2, 3))
    lost = bias_correction(weight.numpy(), rounded.numpy(), 0, inputs[0, :, 0, 0].numpy())
    np.testing.assert_allclose(lost, change.numpy(), atol=1e-4)


def test_corrected_biases_bring_int8_nearer_to_its_parent(model: onnx.ModelProto, crops: np.ndarray) -> None:
    plan = make_plan(model)
    stats = collect_stats(model, plan, crops, histograms=False)
    reach = stats.ranges(plan, "minmax", 100)
    parent = ReferenceRunner(model.SerializeToString()).probabilities(crops)
    plain, corrected = (
        np.abs(
            ReferenceRunner(insert_qdq(model, plan, reach, means=means).SerializeToString()).probabilities(crops) - parent
        ).mean()
        for means in (None, stats.means)
    )
    assert corrected < plain


def test_a_crop_with_an_infinite_or_zero_range_is_refused(model: onnx.ModelProto, crops: np.ndarray) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    # x (x + 1) / (x + 1), which on black is 0 / 0
    convolution = next(node for node in broken.graph.node if node.op_type == "Conv")
    broken.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    divided = [
        onnx.helper.make_node("Add", [convolution.input[0], "one"], ["level"], name="level"),
        onnx.helper.make_node("Div", ["level", "level"], ["ones"], name="ones"),
        onnx.helper.make_node("Mul", [convolution.input[0], "ones"], ["shaky"], name="shaky"),
    ]
    place = list(broken.graph.node).index(convolution)
    convolution.input[0] = "shaky"
    nodes = list(broken.graph.node)
    del broken.graph.node[:]
    broken.graph.node.extend([*nodes[:place], *divided, *nodes[place:]])
    crops = np.maximum(crops, 9)
    mixed = np.concatenate([crops, np.zeros((1, SIDE, SIDE, 3), np.uint8)])
    found = collect_stats(broken, make_plan(broken), mixed, histograms=False)
    ((row, reason),) = found.refused
    assert row == len(crops)
    assert "infinite or no number" in reason
    rows = tuple(_refused(np.array([[1, 2], [3, 0], [np.inf, 1]], np.float32), ["conv", "relu"]))
    assert rows == ((1, "the range of relu is zero"), (2, "the range of conv is infinite or no number"))
    clean = collect_stats(model, make_plan(model), crops, histograms=False)
    assert sorted(found.largest.values()) == pytest.approx(sorted(clean.largest.values()), rel=1e-4)
    # the batch of the refused crop has no part in means at all: they stay those of the others, and not a share of them
    last = collect_stats(broken, make_plan(broken), np.concatenate([crops[:4], mixed[-1:]]), histograms=False).means
    assert {value: mean.tolist() for value, mean in last.items()} == {
        value: mean.tolist()
        for value, mean in collect_stats(broken, make_plan(broken), crops[:4], histograms=False).means.items()
    }
    with pytest.raises(EngineError, match="no cell can calibrate"):
        collect_stats(broken, make_plan(broken), mixed[-1:], histograms=False)


def test_percentile_and_entropy_cut_outliers_off() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 60, 200_000))
    histogram = np.bincount(values.astype(int), minlength=2048)
    histogram[2047] = 2
    assert percentile_bins(histogram, 99.9) < 220
    assert percentile_bins(histogram, 100) == 2048
    assert 128 <= entropy_bins(histogram) < 400
    flat = np.full(2048, 50, np.int64)
    assert entropy_bins(flat) > 1900
    assert percentile_bins(np.eye(1, 2048, dtype=np.int64)[0] * 9, 99) == 2048
