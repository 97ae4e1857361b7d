"""`blastscope live`: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.evaluation import validation_record
from blastscope.runtime.frames.report.theme import VALIDATED

PATIENCE_S = 30.0


def save(path: Path, value: int = 200) -> Path:
    cv2.imwrite(str(path), np.full((48, 64, 3), value, np.uint8))
    return path


@pytest.fixture
def bundle(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(tiny_bundle.make("fp32"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for value in (210, 220):
        save(folder / f"{value}.png", value)
    return folder


def live(*words: object) -> Any:
    return CliRunner().invoke(app, ["live", "--port", "0", *map(str, words)])


def test_a_folder_is_shown_to_its_end_with_a_line_of_json_a_frame(bundle: Path, folder: Path) -> None:
    result = live("--source", f"folder:{folder}", "--bundle", bundle, "--until-end", "--json", "--pixel-um", "0.1")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, result.stderr
    assert [row["path"] for row in rows] == [str(folder / "210.png"), str(folder / "220.png")]
    assert [row["id"] for row in rows] == [row["path"] for row in rows]
    assert {"path", "refusal", "validated", "pixel_um", "counts", "cells"} <= set(rows[0])
    assert "the page is at http://127.0.0.1:" in result.stderr
    assert "2 frames reported, 0 could not be examined, 0 dropped, 0 failures" in result.stderr


def test_what_is_assumed_of_frames_may_come_from_a_file(bundle: Path, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "frames.toml"
    config.write_text("pixel_um = 0.2", "utf-8")
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--json", "--config", config)
    assert [json.loads(line)["pixel_um"] for line in result.stdout.splitlines()] == [0.2, 0.2]
    config.write_text("pixel_mm = 0.2", "utf-8")
    assert live("--source", folder, "--bundle", bundle, "--until-end", "--config", config).exit_code == 2


def test_damaged_files_are_told_once_and_the_rest_is_shown(bundle: Path, folder: Path) -> None:
    for name in ("215.png", "216.png"):
        (folder / name).write_bytes(b"")
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--json")
    assert [json.loads(line)["refusal"] for line in result.stdout.splitlines()] == [None, "undecodable", "undecodable", None]
    assert result.exit_code == 1
    assert result.stderr.count("the file is empty") == 1
    assert f"frame {folder / '215.png'}, undecodable: the file is empty" in result.stderr
    assert "4 frames reported, 2 could not be examined" in result.stderr


def test_a_site_that_validated_its_frames_is_not_warned_of_the_scope(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--validation", tmp_path / "none.json")
    assert (result.exit_code, "none.json" in result.stderr) == (2, True)
    monkeypatch.setattr(validation_record, "read_validation", lambda _: Passed())
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--json", "--validation", tmp_path / "passed.json")
    assert [json.loads(line)["validated"] for line in result.stdout.splitlines()] == [True, True], result.stderr
    assert VALIDATED in result.stderr


class Passed:
    """A record that holds for everything."""

    spec = None

    def objection(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--source", "nowhere"], 2),
        (["--source", "camera:99"], 4),
        (["--source", "FOLDER", "--pixel-um", "900"], 2),
        (["--source", "FOLDER", "--queue", "0"], 2),
        ([], 2),
        (["--source", "FOLDER", "--bundle", "nowhere"], 3),
    ],
)
def test_the_exit_code_says_what_was_wrong(words: list[str], code: int, bundle: Path, folder: Path) -> None:
    result = live("--bundle", bundle, "--until-end", *[str(folder) if word == "FOLDER" else word for word in words])
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr


def test_control_c_ends_the_page_cleanly(bundle: Path, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blastscope", "live", "--source", f"folder:{folder}", "--watch", "--port", "0"]
    child = subprocess.Popen(
        [*command, "--bundle", str(bundle), "--json", "--precision", "fp32", "--backend", "onnxruntime"],  # nothing to measure
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    try:
        assert child.stdout is not None
        first = [json.loads(child.stdout.readline()) for _ in range(2)]
        save(folder / "230.png", 230)
        later = json.loads(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=PATIENCE_S)
    finally:
        child.kill()
    assert [Path(row["path"]).name for row in [*first, later]] == ["210.png", "220.png", "230.png"]
    assert child.returncode == 130, error
    assert "Traceback" not in error
