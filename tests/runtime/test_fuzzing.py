"""No mutated file or request crashes, hangs or surprises a reader: a few seconds of what `make fuzz` does for an hour."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("resource", reason="memory is measured as POSIX has it")

from fuzzing import __main__ as fuzzer
from fuzzing import child
from fuzzing.mutation import MOST_BYTES, mutate

from blastscope.runtime.errors import BlastscopeError

SECONDS = 2.5


@pytest.mark.parametrize("name", child.READERS)
def test_mutated_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    row = fuzzer.run(name, inputs=20_000, seconds=SECONDS, seed=1, out=tmp_path)
    assert row.inputs > len(child.seeds(name, tmp_path))
    assert not row.faults, "\n".join(file.read_text() for file in tmp_path.glob("*.txt"))


@pytest.mark.parametrize("name", child.READERS)
def test_readers_take_the_inputs_that_mutation_begins_from(name: str, tmp_path: Path) -> None:
    read = child.reader(name, tmp_path)
    for seed in child.seeds(name, tmp_path):
        read(seed)


@pytest.mark.parametrize("name", child.READERS)
def test_the_inputs_that_mutation_begins_from_are_the_same_each_time(name: str, tmp_path: Path) -> None:
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    first, second = (child.seeds(name, folder) for folder in folders)
    assert first == second


def test_the_same_seed_gives_the_same_inputs() -> None:
    seeds = [b"12 is a number", bytes(range(256))]
    first, second = ([mutate(seeds, random.Random(number)) for number in range(200)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 150


def test_no_input_is_too_long_for_its_note() -> None:
    assert len(mutate([bytes(2 * MOST_BYTES)], random.Random(0))) <= MOST_BYTES


ILL = """
import os, threading

def waits_seeds(folder): return [b"1", b"22"]
def waits(folder): return lambda data: threading.Event().wait() if len(data) > 1 else None
def works_seeds(folder): return [b"1", b"22"]
def works(folder): return lambda data: sum(0 for _ in range(10**12 if len(data) > 1 else 0))
def ends_seeds(folder): return [b"1", b"22"]
def ends(folder): return lambda data: os.abort() if len(data) > 1 else None
"""


def test_a_reader_that_hangs_or_dies_is_found_and_gone_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ill_readers.py").write_text(ILL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(fuzzer, "STUCK_S", 0.5)
    monkeypatch.setattr(fuzzer, "SLOW_S", 0.5)
    for name, kind in (("waits", "slow"), ("works", "slow"), ("ends", "crash")):
        row = fuzzer.run(f"ill_readers:{name}", inputs=3, seconds=60, seed=0, out=tmp_path)
        assert row.inputs == 3
        assert row.faults[0].startswith(f"{name}-{kind}-")
        assert (tmp_path / row.faults[0]).read_bytes() == b"22"


def test_an_untyped_error_is_a_fault_and_a_typed_one_is_none() -> None:
    def raises(error: Exception) -> Callable[[bytes], None]:
        def read(data: bytes) -> None:
            raise error

        return read

    fault = child.check(raises(ValueError("cannot reshape")), b"input")
    assert fault is not None
    assert (fault.kind, fault.data) == ("error", b"input")
    assert "cannot reshape" in fault.told
    assert child.check(raises(BlastscopeError("is damaged")), b"input") is None


def test_a_reader_that_takes_much_memory_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1 << 30, (2 << 30) + (1 << 20)])
    monkeypatch.setattr(child, "_peak_bytes", lambda: next(peaks))
    fault = child.check(lambda data: None, b"")
    assert fault is not None
    assert (fault.kind, fault.told) == ("memory", "1025 MB")
