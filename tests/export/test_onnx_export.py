"""The vote inside the graphs, held against runtime/inference/voting.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blastscope.export.onnx_export import FusedGraph, SingleGraph, decide, make_graph, trace
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.inference.voting import vote
from blastscope.train.config import NetworkConfig, TrainConfig
from blastscope.train.network import make_ensemble
from blastscope.train.trunk import make_trunk_ensemble

# quarters up to 120: ties are common, and the larger ones saturate fp32's softmax on both sides
MARGINS = st.integers(-480, 480).map(lambda quarter: quarter / 4)


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(np.float32, (5, 3), elements=MARGINS.map(float)), st.sampled_from([0.0, 1.0, -7.0]))
def test_the_graph_votes_as_the_runtime_does(margins: np.ndarray, base: float) -> None:
    logits = np.stack([np.full_like(margins, base), margins + np.float32(base)], axis=2)
    decision = decide(torch.from_numpy(logits))
    votes = vote(decision.probabilities.numpy())
    np.testing.assert_array_equal(decision.label.numpy(), votes.label)
    np.testing.assert_array_equal(decision.voter.numpy(), votes.voter)
    rows = np.arange(5)
    np.testing.assert_array_equal(decision.probability.numpy(), decision.probabilities.numpy()[rows, votes.voter, votes.label])


@pytest.mark.parametrize(
    ("margins", "label", "voter"),
    [
        ((2, 2, 2), 1, 0),
        ((-2, -2, -2), 0, 0),
        ((-2, 2, 1), 1, 1),
        ((-2, 1, 2), 1, 2),
        ((-2, -2, 1), 0, 0),
        ((1, -2, -2), 0, 1),
        ((0, 0, 0), 1, 0),
        ((30, -31, 20), 0, 1),  # the larger probability of each is 1.0
        ((200, -300, 0), 1, 0),  # beyond what fp32 tells apart: a tie
    ],
)
def test_equal_margins_go_to_all_then_a_then_b(margins: tuple[float, ...], label: int, voter: int) -> None:
    logits = torch.tensor([[[0.0, margin] for margin in margins]])
    decision = decide(logits)
    assert (int(decision.label[0]), int(decision.voter[0])) == (label, voter)
    votes = vote(decision.probabilities.numpy())
    assert (int(votes.label[0]), int(votes.voter[0])) == (label, voter)


def test_softmax_and_vote_are_fp32_whatever_the_networks_computed_in() -> None:
    decision = decide(torch.tensor([[[0.0, 9.0], [0.0, -8.0], [0.0, 1.0]]], dtype=torch.bfloat16))
    assert decision.probabilities.dtype == decision.probability.dtype == torch.float32
    assert decision.probabilities[0, 0, 0] > 0  # bf16's softmax would say 0
    assert decision.label.dtype == decision.voter.dtype == torch.int32


def test_the_fused_graph_says_what_the_separate_ones_say() -> None:
    torch.manual_seed(0)
    config = TrainConfig.model_validate({"network": {"backbone": "test_resnet", "weights": "none"}, "crop": {"side_px": 32}})
    ensemble = make_ensemble(
        config.model_copy(update={"network": NetworkConfig(backbone="test_resnet", weights="none", views=2)})
    )
    crops = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    fused, singles = make_graph(ensemble.eval(), "ensemble"), [make_graph(ensemble, name) for name in ("a", "b", "combined")]
    assert isinstance(fused, FusedGraph)
    assert all(isinstance(single, SingleGraph) for single in singles)
    with torch.inference_mode():
        together = fused(crops).probabilities
        for place, single in enumerate(singles):
            torch.testing.assert_close(single(crops), together[:, place], rtol=1e-4, atol=1e-5)


def test_the_pixels_are_transposed_once_for_all_that_read_them() -> None:
    settings = {"backbone": "test_efficientnet", "weights": "none"}
    config = {"network": settings, "crop": {"side_px": 32}, "trunk": {"stages": [1, 2], "covariances": [1]}}
    ensemble, _ = make_trunk_ensemble(TrainConfig.model_validate(config))
    model = trace(make_graph(ensemble.eval(), "ensemble"), 32, "ensemble")
    first, second, *others = model.graph.node
    assert (first.op_type, second.op_type) == ("Cast", "Transpose")
    assert list(second.input) == list(first.output)
    assert not any(name in (*first.output, "crops") for node in others for name in node.input)


@pytest.mark.parametrize("views", [1, 2])
def test_a_graph_says_the_shape_of_its_probabilities_whatever_the_views(views: int) -> None:
    network = NetworkConfig(backbone="test_efficientnet", weights="none", views=views)
    ensemble = make_ensemble(TrainConfig(network=network, crop=CropSpecification(side_px=32))).eval()
    model = trace(make_graph(ensemble, "ensemble"), 32, "ensemble")
    output = next(output for output in model.graph.output if output.name == "probabilities")
    assert [size.dim_value for size in output.type.tensor_type.shape.dim[1:]] == [3, 2]
