"""Records: checked once, frozen, and strict about keys."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import ValidationError

from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.errors import ConfigError
from blastscope.runtime.io.strict_model import NotBool, StrictModel


class Inner(StrictModel):
    rate: float = 0.001


class Outer(StrictModel):
    epochs: int = 50
    stage1: Inner = Inner()


class Typed(StrictModel):
    epochs: int = 1
    views: Annotated[Literal[1, 2], NotBool] = 1
    whole: bool = False
    name: str = ""
    pair: tuple[float, float] = (0.0, 0.0)


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


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(codecs.BOM_UTF8 + b"epochs = 3\r\n")
    assert Outer.from_toml(tmp_path / "config.toml").epochs == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("epochs = 3".encode("utf-16"), "is UTF-16: save it anew with the encoding UTF-8"),
        (b'epochs = 3 # "\xe4"', "isn't UTF-8 from byte 14 on: save it anew"),
    ],
)
def test_a_file_in_another_encoding_is_told_with_the_remedy(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        Outer.from_toml(tmp_path / "config.toml")


@pytest.mark.parametrize(
    "text", ["epochs = '3'", "epochs = 3.0", "epochs = true", "views = true", "whole = 1", "name = 3", "pair = [true, 1]"]
)
def test_a_value_of_another_type_is_not_converted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{text.split()[0]}(\.0)?: .*should be") as caught:
        Typed.from_toml(toml(tmp_path, text))
    assert len(caught.value.problems) == 1


def test_whole_numbers_and_arrays_serve_where_they_are_meant(tmp_path: Path) -> None:
    found = Typed.from_toml(toml(tmp_path, "pair = [1, 2]\nviews = 2\nwhole = true\n"))
    assert found == Typed(pair=(1.0, 2.0), views=2, whole=True)


def test_bytes_that_are_no_text_and_no_file_are_configuration_errors(tmp_path: Path) -> None:
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
