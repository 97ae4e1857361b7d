"""train/config.py: the paper's values are the defaults, and a wrong key is named with the right ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from blastscope.runtime.errors import ConfigError
from blastscope.train.config import PAPER, SHIPPED, TrainConfig


def test_the_papers_file_is_the_default() -> None:
    assert TrainConfig.from_toml(PAPER) == TrainConfig()


def test_the_papers_file_spells_every_value_that_is_not_empty() -> None:
    spelled = tomllib.loads(PAPER.read_text())
    for section, values in TrainConfig().model_dump().items():
        if isinstance(values, dict):
            assert set(spelled[section]) == {key for key, value in values.items() if value is not None}, section


def test_the_defaults_say_what_the_paper_says() -> None:
    config = TrainConfig()
    assert (config.network.backbone, config.crop.side_px, config.crop.scale) == ("inception_resnet_v2", 299, "fit")
    assert (config.stage1.optimiser, config.stage1.lr, config.stage1.rho, config.stage1.epsilon) == ("rmsprop", 1e-3, 0.9, 1e-7)
    for stage in (config.stage1, config.stage2):
        assert (stage.epochs, stage.reduce_after, stage.reduce_factor, stage.stop_after) == (50, 6, 0.1, 12)
    assert config.stage1.class_weights == (1.0, 1.0)
    assert config.stage2.class_weights == (1.0, 2.5)  # hem, all
    assert (config.stage2.hidden, config.stage2.dropout, config.stage2.fine_tune) == (1024, 0.6, False)
    assert config.data.validation_share == 0.3


def test_the_shipped_file_is_valid_and_names_its_backbone() -> None:
    assert TrainConfig.from_toml(SHIPPED).network.backbone == "tf_efficientnet_lite0"


def test_an_unknown_key_is_answered_with_the_known_ones_of_its_section(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[stage1]\nlearning_rate = 0.1\n")
    with pytest.raises(ConfigError, match=r"stage1\.learning_rate.*known keys:.*\blr\b") as caught:
        TrainConfig.from_toml(path)
    assert "hidden" not in caught.value.known  # stage 2 alone has it


def test_a_fold_beyond_the_last_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[data]\nfold = 3\n")
    with pytest.raises(ConfigError, match="fold must be below folds = 3"):
        TrainConfig.from_toml(path)


def test_folds_by_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nfold = 0\nsplit = "image"\n')
    with pytest.raises(ConfigError, match="folds are over patients"):
        TrainConfig.from_toml(path)


@pytest.mark.parametrize(
    "text",
    [
        "class_weights = [-1.0, 1.0]",
        "class_weights = [0.0, 0.0]",
        "betas = [1.5, 0.9]",
        "betas = [0.9, 1.0]",
        "lr = true",
        "warmup_epochs = 50",
    ],
)
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_value_that_cannot_be_meant_is_refused_by_its_key(tmp_path: Path, stage: str, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[{stage}]\n{text}\n")
    with pytest.raises(ConfigError, match=rf"{stage}.*{text.split()[0]}"):
        TrainConfig.from_toml(path)


def test_layers_are_frozen_in_stage_2_only_where_they_move(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[stage2]\nfrozen = ["conv_stem"]\n')
    with pytest.raises(ConfigError, match="stage2: frozen names layers of the backbones, which move with fine_tune"):
        TrainConfig.from_toml(path)
    path.write_text('[stage2]\nfrozen = ["conv_stem"]\nfine_tune = true\n')
    assert TrainConfig.from_toml(path).stage2.frozen == ("conv_stem",)


@pytest.mark.parametrize("text", ["[network]\ndrop_path = 0.1", '[stage1]\nfrozen = ["conv_stem"]'])
def test_what_a_frozen_trunk_would_pass_over_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[trunk]\n{text}\n")
    with pytest.raises(ConfigError, match=r"with \[trunk\] nothing of the backbone moves"):
        TrainConfig.from_toml(path)
