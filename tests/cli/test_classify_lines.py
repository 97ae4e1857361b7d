"""`blastscope classify -`: a line in, a line out, for programs in other languages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from PIL import Image
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.cli.classify import read_lines
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.session import open_bundle

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def images(tiny_bundle: Any, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"cell {seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        cv2.imwrite(str(path), tiny_bundle.cell(seed)[..., ::-1])
    return paths


@pytest.fixture
def bundle(tiny_bundle: Any) -> Path:
    return Path(tiny_bundle.make("fp32"))


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the command with its pipes here."""
    processes: list[subprocess.Popen[str]] = []

    def started(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "blastscope", "classify", "-", "--device", "cpu", "--bundle", str(bundle), *words]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        processes.append(subprocess.Popen(command, text=True, encoding="utf-8", env=environment, **pipes))  # type: ignore[call-overload]
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def test_each_line_is_answered_before_the_next_one_is_sent(
    start: Start, bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    process = start("--json")
    assert process.stdin
    assert process.stdout
    names = [str(images[2]), f"{tmp_path}/./cell 0.png", str(tmp_path / "gone.png"), str(tmp_path)]
    rows = []
    for name in names:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        rows.append(json.loads(process.stdout.readline()))
    rest, told = process.communicate()
    with open_bundle(bundle, device="cpu", cache_dir=tmp_path / "cache") as scope:
        wanted = [scope.classify(image).label for image in (images[2], images[0])]
    assert [row["path"] for row in rows] == names
    assert [row["label"] for row in rows] == [*wanted, None, None]
    assert [row["refusal"] for row in rows] == [None, None, "undecodable", "undecodable"]
    assert (rest, process.returncode) == ("", 1)
    assert "2 of 4 images refused" in told


def test_many_lines_at_once_are_answered_in_their_order(start: Start, images: list[Path]) -> None:
    names = [str(images[number % 3]) for number in range(200)]
    out, _ = start("--json").communicate("\r\n\n".join(names))  # an empty line is none, and the last has no end
    assert [json.loads(text)["path"] for text in out.splitlines()] == names


def test_people_may_use_it_too(start: Start, images: list[Path]) -> None:
    process = start()
    out, _ = process.communicate(f"{images[0]}\n")
    assert out.split()[0] in ("ALL", "HEM")
    assert process.returncode == 0


def test_lines_are_cut_wherever_the_pipe_cuts_them() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe, os.fdopen(reading, "rb"):
        lines = read_lines(reading)
        pipe.write(b"a\nb")
        assert next(lines) == "a"
        pipe.write("ü".encode()[:1])
        pipe.write("ü".encode()[1:] + b"\nlast")
        assert next(lines) == "bü"
        pipe.close()
        assert list(lines) == ["last"]


@pytest.mark.parametrize("words", [["-", "cell.png"], ["-", "--group-by", "folder"]])
def test_stdin_goes_with_no_other_paths_and_no_groups(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["classify", *words])
    assert result.exit_code == 2
    assert "with - all paths come from stdin" in result.stderr


def test_cells_without_a_patient_in_their_names_are_told(tmp_path: Path) -> None:
    for name in ("UID_H12_1_1_hem.png", "mine.png"):
        Image.fromarray(synthetic_cell(seed=7)).save(tmp_path / name)
    result = CliRunner().invoke(app, ["classify", str(tmp_path), "--group-by", "patient", "--json"])
    assert [row["smear"] for row in map(json.loads, result.stdout.splitlines()) if "smear" in row] == ["H12", str(tmp_path)]
    assert "1 of 2 images aren't named as C-NMC's" in result.stderr
