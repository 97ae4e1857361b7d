"""Checkpoints of a network: what is read is what was written, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blastscope.runtime.errors import DataError
from blastscope.train.fit_checkpoint import read_tensors, write_tensors

TENSORS = {"weight": torch.arange(12, dtype=torch.float32).reshape(3, 4), "steps": torch.tensor(7)}
HEADER = {"state": '{"sha256":"' + "0" * 64 + '", "epoch": 3}', "config": "x = 1"}


def test_tensors_and_header_are_those_that_were_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "state.safetensors", TENSORS, HEADER)
    tensors, header = read_tensors(tmp_path / "state.safetensors")
    assert header == HEADER
    for found in (tensors, load_file(tmp_path / "state.safetensors")):  # safetensors' own reader is the oracle
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_equal_tensors_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tensors(tmp_path / name, TENSORS, HEADER)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_byte_of_a_checkpoint_can_change_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, TENSORS, HEADER)
    content = path.read_bytes()
    key = content.index(b'"sha256":"')
    for place in range(len(content)):
        if key < place < key + len('"sha256"') - 1:
            continue  # the digest under another name is a file of an earlier version, which had none
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match=r"state\.safetensors"):
            read_tensors(path)


def test_a_checkpoint_of_an_earlier_version_is_read_without_a_digest(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "old.safetensors", metadata={"config": "x = 1"})
    tensors, header = read_tensors(tmp_path / "old.safetensors")
    assert header == {"config": "x = 1"}
    assert torch.equal(tensors["weight"], TENSORS["weight"])
