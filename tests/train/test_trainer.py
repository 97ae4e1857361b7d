"""train/trainer.py and train/fit_checkpoint.py: rates, stopping, weights of classes, averages, and that something is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blastscope.runtime.errors import ConfigError, UsageError
from blastscope.train.bagging import Bag, plain_bag
from blastscope.train.config import AugmentConfig, ComputeConfig, ScheduleConfig
from blastscope.train.data_loader import TrainingBatches, ValidationBatches
from blastscope.train.fit_checkpoint import EpochRow, FitCheckpoint, FitState, learning_rate
from blastscope.train.network import VoterNetwork, make_voter
from blastscope.train.progress import TrainingProgress
from blastscope.train.trainer import (
    Score,
    Task,
    check_frozen,
    fit,
    freeze_batch_norm,
    freeze_layers,
    is_frozen,
    make_fabric,
    make_optimiser,
    resolve_precision,
    update_ema,
    weighted_loss,
)

CPU = ComputeConfig(device="cpu", precision="fp32")


def row(epoch: int, accuracy: float, loss: float = 1.0) -> EpochRow:
    return EpochRow(
        epoch=epoch, lr=0, train_loss=0, train_accuracy=0, validation_loss=loss, validation_accuracy=accuracy, seconds=0
    )  # fmt: skip


def states_after(accuracies: list[float], config: ScheduleConfig) -> list[FitState]:
    states = [FitState()]
    for epoch, accuracy in enumerate(accuracies, start=1):
        states.append(states[-1].update(row(epoch, accuracy), config))
    return states


def test_the_rate_falls_as_pytorchs_plateau_does_with_a_patience_of_five() -> None:
    accuracies = np.random.default_rng(5).integers(0, 40, 50) / 40
    states = states_after(accuracies.tolist(), ScheduleConfig())
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=5, threshold=0, min_lr=0, eps=0)
    for state, accuracy in zip(states[1:], accuracies, strict=True):
        oracle.step(1 - accuracy)
        assert state.lr_factor == pytest.approx(optimiser.param_groups[0]["lr"])
    assert states[-1].lr_factor < 1e-3
    assert learning_rate(ScheduleConfig(lr=0.5), 40, 10, 0.01) == pytest.approx(0.005)


def test_keras_reduces_at_stagnant_epoch_six_and_stops_at_twelve() -> None:
    states = states_after([0.9] + [0.8] * 12, ScheduleConfig())
    assert [state.lr_factor for state in states] == pytest.approx([1] * 7 + [0.1] * 6 + [0.01])
    assert [state.finished(ScheduleConfig()) for state in states] == [False] * 13 + [True]


def test_only_the_plateau_stops_early() -> None:
    config = ScheduleConfig(schedule="cosine")
    assert not states_after([0.9] + [0.8] * 20, config)[-1].finished(config)
    assert states_after([0.9] * 50, config)[-1].finished(config)


def test_the_loss_can_be_watched_in_place_of_the_error() -> None:
    rows = (row(1, 0.9, loss=1.0), row(2, 0.5, loss=0.5))
    for watch, best in (("loss", 2), ("error", 1)):
        config = ScheduleConfig.model_validate({"watch": watch})
        assert FitState().update(rows[0], config).update(rows[1], config).best_epoch == best


def test_one_cycle_rises_and_falls() -> None:
    config = ScheduleConfig(schedule="one-cycle", lr=1.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(config, step, 10, 1.0) for step in range(100)]
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) in (19, 20)
    assert rates[0] < 0.2
    assert rates[-1] < 0.003


def test_a_cells_loss_is_weighted_by_its_class_as_keras_does() -> None:
    logits, labels = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    weights = torch.tensor([1.0, 2.5])
    oracle = nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=0.0)(logits, labels) / 8
    torch.testing.assert_close(weighted_loss(logits, labels, weights, 0.0), oracle)


def test_rmsprop_is_kerass() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    module = nn.ParameterList([parameter])
    optimiser = make_optimiser(module, ScheduleConfig())
    value, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for _ in range(5):
        parameter.grad = 2 * parameter.detach()
        optimiser.step()
        velocity = 0.9 * velocity + 0.1 * (2 * value) ** 2
        value = value - 1e-3 * 2 * value / (np.sqrt(velocity) + 1e-7)
    np.testing.assert_allclose(parameter.detach(), value, rtol=1e-5)


@pytest.fixture(scope="module")
def voter() -> VoterNetwork:
    from blastscope.train.config import TrainConfig

    config = {"crop": {"side_px": 32}, "network": {"backbone": "test_efficientnet", "weights": "none"}}
    return make_voter(TrainConfig.model_validate(config))[0]


def test_frozen_layers_get_no_gradient_and_keep_their_statistics(voter: VoterNetwork) -> None:
    config = ScheduleConfig(
        frozen=("conv_stem", "bn1", "blocks.0"), optimiser="adamw", weight_decay=0.1, backbone_lr_factor=0.5
    )
    freeze_layers(voter, config)
    voter.train()
    freeze_batch_norm(voter, config)
    assert is_frozen("backbone.blocks.0.0.conv_pw.weight", config)
    assert not is_frozen("backbone.blocks.01.conv.weight", config)
    assert not voter.backbone.get_submodule("bn1").training
    assert voter.backbone.get_submodule("bn2").training
    freeze_batch_norm(voter, ScheduleConfig(frozen_batch_norm=True))
    assert not voter.backbone.get_submodule("bn2").training
    groups = make_optimiser(voter, config).param_groups
    moving = sum(len(group["params"]) for group in groups)
    frozen = [name for name, _ in voter.named_parameters() if is_frozen(name, config)]
    assert frozen
    assert moving + len(frozen) == len(list(voter.parameters()))
    assert {(group["factor"], group["weight_decay"]) for group in groups} == {(1, 0.1), (1, 0), (0.5, 0.1), (0.5, 0)}
    voter.requires_grad_(True)


def test_the_average_goes_halfway_and_copies_counters() -> None:
    own, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.weight.data.fill_(3.0)
    other.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    update_ema(own, other, 0.5, step=10_000)
    assert own.weight.tolist() == [2, 2]
    assert own.num_batches_tracked == 7


def learnable(folder: Path, **change: object) -> tuple[nn.Module, Task]:
    """Two clouds of features, 120 to train and 40 to validate on, and a linear network."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 160)
    features = torch.from_numpy(rng.normal(size=(160, 6)) + 2 * labels[:, None]).float()
    source = features.numpy()
    config = ScheduleConfig.model_validate({"epochs": 6, "lr": 0.02, "batch_size": 16} | change)
    training = TrainingBatches(source, labels, plain_bag(np.arange(120)), config.batch_size, (0, 1))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    return network, Task(
        "x", config, training, ValidationBatches(source, labels, np.arange(120, 160), 16), FitCheckpoint(folder)
    )


def validation_loss(network: nn.Module, task: Task) -> float:
    """Of each cell on average. An accuracy is too coarse to tell one epoch's weights from another's."""
    parts = list(task.validation.all(torch.device("cpu")))
    with torch.inference_mode():
        return sum(float(nn.functional.cross_entropy(network(x), y, reduction="sum")) for x, y in parts) / 40


def test_fit_learns_and_leaves_one_finished_file(tmp_path: Path) -> None:
    network, task = learnable(tmp_path)
    state = fit(network, task, make_fabric(CPU), TrainingProgress())
    assert state.history[-1].validation_accuracy == pytest.approx(0.97, abs=0.04)
    assert state.history[0].train_loss > state.history[-1].train_loss
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]
    assert not network.training
    again, task = learnable(tmp_path)
    assert fit(again, task, make_fabric(CPU), TrainingProgress()) == state  # a finished network is only read
    for own, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_epoch_asked_for_is_kept(tmp_path: Path, keep: str) -> None:
    network, task = learnable(tmp_path, keep=keep, lr=0.5)
    state = fit(network, task, make_fabric(CPU), TrainingProgress())
    assert state.best_epoch < state.epoch
    epoch = state.best_epoch if keep == "best" else state.epoch
    assert validation_loss(network, task) == pytest.approx(state.history[epoch - 1].validation_loss)


def test_averaged_weights_are_validated_and_kept(tmp_path: Path) -> None:
    network, task = learnable(tmp_path, ema_decay=0.9, keep="last")
    state = fit(network, task, make_fabric(CPU), TrainingProgress())
    assert validation_loss(network, task) == pytest.approx(state.history[-1].validation_loss)
    plain, task = learnable(tmp_path / "plain", keep="last")
    fit(plain, task, make_fabric(CPU), TrainingProgress())
    assert validation_loss(plain, task) != pytest.approx(validation_loss(network, task))


def test_without_validation_cells_the_training_is_watched(tmp_path: Path) -> None:
    network, task = learnable(tmp_path)
    bare = Task(
        "x",
        task.config,
        task.training,
        ValidationBatches(task.validation.inputs, task.validation.labels, np.empty(0, np.int64), 16),
        task.files,
    )
    state = fit(network, bare, make_fabric(CPU), TrainingProgress())
    assert state.history[0].validation_loss is None
    assert state.best_epoch > 0


def test_a_last_batch_of_one_image_is_left_out() -> None:
    source, labels = np.zeros((33, 2), np.float32), np.zeros(33, np.int64)
    batches = TrainingBatches(source, labels, plain_bag(np.arange(33)), 16, (0,))
    assert [len(batch.labels) for batch in batches.epoch(0, torch.device("cpu"))] == [16, 16]
    assert batches.steps == 2


def test_each_epoch_has_its_own_order_and_repeats_it_after_a_kill() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    bag = Bag(np.arange(12), np.ones(12, np.bool_))
    batches = TrainingBatches(crops, np.arange(12), bag, 12, (0, 1), augment=AugmentConfig())
    ((first, order, _),), ((second, other, _),), ((again, same, _),) = (
        batches.epoch(number, torch.device("cpu")) for number in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert torch.equal(order, same)
    assert order.tolist() != other.tolist()
    assert not torch.equal(first[order.argsort()], second[other.argsort()])


def test_two_processes_share_each_batch_and_lose_nothing() -> None:
    source, labels = np.arange(32, dtype=np.float32)[:, None], np.zeros(32, np.int64)
    shares = [TrainingBatches(source, labels, plain_bag(np.arange(32)), 16, (0,), share=(rank, 2)) for rank in (0, 1)]
    drawn = [x for share in shares for batch in share.epoch(0, torch.device("cpu")) for x in batch.inputs[:, 0].tolist()]
    assert sorted(drawn) == list(range(32))


def test_auto_precision_is_full_where_the_cpu_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.train.trainer._cpu_has_bf16", lambda: False)
    assert resolve_precision(ComputeConfig(), gpu=False) == "fp32"
    monkeypatch.setattr("blastscope.train.trainer._cpu_has_bf16", lambda: True)
    assert resolve_precision(ComputeConfig(), gpu=False) == "bf16"
    assert resolve_precision(ComputeConfig(precision="fp16"), gpu=True) == "fp16"


@pytest.mark.parametrize("wrong", ["blokcs.1", "blocks.0.0.con", "block", "", "classify"])
def test_a_frozen_name_that_no_layer_begins_with_is_an_error(voter: VoterNetwork, wrong: str) -> None:
    check_frozen(voter, ScheduleConfig(frozen=("conv_stem", "bn1", "blocks.0", "blocks.1.0")), "stage1")
    with pytest.raises(ConfigError, match=rf"'stage1': frozen: the backbone has no layer '{wrong}'; .* conv_stem, bn1, blocks"):
        check_frozen(voter, ScheduleConfig(frozen=("conv_stem", wrong)), "stage1")


def test_a_training_that_diverges_is_an_error_with_the_remedy(
    voter: VoterNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.train.trainer.train_epoch", lambda *_: Score(float("nan"), 0.5))
    crops, labels = np.zeros((8, 32, 32, 3), np.uint8), np.arange(8) % 2
    training = TrainingBatches(crops, labels, plain_bag(np.arange(8)), 4, (0, 0))
    validation = ValidationBatches(crops, labels, np.arange(8), 8)
    task = Task("a", ScheduleConfig(epochs=3), training, validation, FitCheckpoint(tmp_path))
    with pytest.raises(UsageError, match="'a': the loss of epoch 1 is not a number: the training diverged, take a smaller lr"):
        fit(voter, task, make_fabric(CPU), TrainingProgress())
    assert not any(tmp_path.iterdir())
