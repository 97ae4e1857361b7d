"""Records: checked once, frozen, and strict about keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.errors import ConfigError
from blastscope.runtime.io.strict_model import StrictModel


class Inner(StrictModel):
    rate: float = 0.001


class Outer(StrictModel):
    epochs: int = 50
    stage1: Inner = Inner()


def toml(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_record_is_read_from_toml_with_its_defaults(tmp_path: Path) -> None:
    assert Outer.from_toml(toml(tmp_path, "epochs = 4\n[stage1]\nrate = 0.01\n")) == Outer(epochs=4, stage1=Inner(rate=0.01))
    assert Outer.from_toml(toml(tmp_path, "")) == Outer()


def test_an_unknown_key_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"epoch: .*known keys: epochs, stage1") as caught:
        Outer.from_toml(toml(tmp_path, "epoch = 4\n"))
    assert caught.value.known == ("epochs", "stage1")
    assert caught.value.path.name == "config.toml"


def test_an_unknown_key_in_a_section_is_named_with_that_sections_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage1\.rat: .*known keys: rate$"):
        Outer.from_toml(toml(tmp_path, "[stage1]\nrat = 0.1\n"))


def test_a_wrong_value_names_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage1\.rate: ") as caught:
        Outer.from_toml(toml(tmp_path, "[stage1]\nrate = 'fast'\n"))
    assert caught.value.known == ()


@pytest.mark.parametrize("text", ["epochs = ", "epochs = 1\nepochs = 2\n"])
def test_what_is_not_toml_is_said_to_be_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        Outer.from_toml(toml(tmp_path, text))


def test_bytes_that_are_no_text_and_a_missing_file_are_configuration_errors(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        Outer.from_toml(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match="no such file"):
        Outer.from_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="can't be read"):
        Outer.from_toml(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_number_is_infinite(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="finite"):
        Outer.from_toml(toml(tmp_path, f"[stage1]\nrate = {value}\n"))


def test_a_record_is_frozen_and_has_a_value() -> None:
    record = Inner()
    with pytest.raises(ValidationError, match="frozen"):
        record.rate = 1.0
    assert len({Inner(), Inner(rate=0.001)}) == 1


def test_a_rule_between_keys_is_told_without_a_made_up_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml': window_px goes with") as caught:
        CropSpecification.from_toml(toml(tmp_path, "scale = 'keep'\n"))
    assert len(caught.value.problems) == 1
