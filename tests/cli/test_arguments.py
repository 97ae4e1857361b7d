"""What is wrong in a command is told in a line, before work begins and before anything is overwritten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blastscope.cli import app
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.io.synthetic import write_synthetic_dataset


@pytest.fixture
def bundle(tiny_bundle: Any) -> Path:
    return Path(tiny_bundle.make("fp32"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    "verb", ["examine", "validate --labels x.csv", "live --source x", "explain --on-black", "classify --on-black"]
)
@pytest.mark.parametrize("scale", ["0", "-1", "5", "1e300"])
def test_a_scale_that_no_microscope_has_is_told_before_files_are_read(verb: str, scale: str) -> None:
    result = run(*verb.split(), "--bundle", "gone", *(() if verb.startswith("live") else ["gone"]), "--pixel-um", scale)
    assert result.exit_code == 2
    assert result.stderr == f"blastscope: pixel_um is {float(scale)}: micrometres per pixel must lie between 0.005 and 5.0\n"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "option",
    [
        *("serve --timeout", "serve --max-body-mb", "serve --max-megapixels", "serve --drain", "serve --audit-file-mb"),
        *("bench --seconds", "bench --latency-bound-ms", "calibrate b --data d --cascade-flips", "examine a.png --pixel-um"),
    ],
)
def test_a_number_is_finite(option: str, value: str) -> None:
    result = run(*option.split(), value)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(("Error: Invalid value for", "blastscope: pixel_um is"))


@pytest.mark.parametrize(
    "command", ["examine a.png --csv 1.csv --csv 2.csv", "explain a.png --out 1 --out 2", "train d --out 1 --out 2"]
)
def test_a_file_that_would_get_nothing_is_not_named_in_vain(command: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 2
    assert re.search(r"Invalid value for '--(csv|out)': it is given twice, and takes one path\n$", result.stderr)


def test_no_output_replaces_what_the_command_reads(bundle: Path, tmp_path: Path) -> None:
    key, packed = tmp_path / "lab.pem", tmp_path / "b.zip"
    assert run("trust", "new", key).exit_code == 0
    assert run("pack", bundle, packed).exit_code == 0
    before = key.read_bytes(), packed.read_bytes()
    for command in (("sign", bundle, "--key", key, "--out", key), ("sign", packed, "--key", key, "--out", packed)):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"blastscope: '{command[-1]}': is read by this command: name another place\n"
    assert (key.read_bytes(), packed.read_bytes()) == before


def test_no_output_lies_in_a_bundle_which_would_be_refused_then(bundle: Path, tmp_path: Path) -> None:
    inside, frame, key = bundle / "out", tmp_path / "frame.png", tmp_path / "lab.pem"
    assert run("trust", "new", key).exit_code == 0
    frame.write_bytes(b"no picture")
    for command in (
        ("pack", bundle, inside),
        ("sign", bundle, "--key", key, "--out", bundle / "fp32" / "out"),
        ("verify", bundle, "--data", tmp_path, "--csv", inside),
        ("examine", frame, "--bundle", bundle, "--csv", inside),
        ("examine", frame, "--bundle", bundle, "--coco", inside),
        ("calibrate", bundle, "--data", tmp_path, "--cascade", "--report", inside),
    ):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, ""), command
        assert f"lies in the bundle '{bundle.resolve()}': name another place" in result.stderr
    assert read_bundle(bundle).manifest


def test_data_that_cannot_be_scored_is_told_before_engines_are(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.calibration.compare.available_backends", lambda: pytest.fail("engines were asked"))
    result = run("verify", bundle, "--data", "gone")
    assert (result.exit_code, result.stderr) == (2, "blastscope: 'gone': no such folder\n")


def test_a_benchmark_that_cannot_be_written_is_told_before_hours_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.cli.bench._measure", lambda *_: pytest.fail("it was measured"))
    result = run("bench", "--output", tmp_path)
    assert (result.exit_code, result.stderr) == (2, f"blastscope: '{tmp_path}': is a folder: name a file\n")


@pytest.mark.parametrize("option", ["--output", "--compare", "--result", "--native"])
def test_an_option_that_loadgen_would_pass_over_is_told(option: str, tmp_path: Path) -> None:
    result = run("bench", "--loadgen", "all", option, tmp_path / "x.json")
    assert result.exit_code == 2
    assert "don't go with --loadgen" in result.stderr


def test_what_is_no_bundle_is_told_once_and_a_closed_one_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"blastscope: bundle '{tmp_path}': holds no manifest.json"
    assert run("inspect", tmp_path).stderr == f"{said}, so it is not a bundle\n"

    def closed(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("blastscope.runtime.bundle.manifest_io.open_plain", closed)
    result = run("inspect", tmp_path)
    assert (result.exit_code, result.stderr) == (3, f"{said} that can be read: permission denied\n")


@pytest.mark.parametrize("verb", ["train", "crossvalidate"])
def test_a_run_that_cannot_be_written_is_told_before_its_cells_are_cropped(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.train.data_loader.cache_crops", lambda *_, **__: pytest.fail("cells were cropped"))
    write_synthetic_dataset(tmp_path / "cells", patients=8, cells_each=1, size_px=64)
    (tmp_path / "file").write_bytes(b"")
    settings = '[data]\nfolds = 2\n[network]\nbackbone = "test_efficientnet"\nweights = "none"\n[crop]\nside_px = 64\n'
    (tmp_path / "t.toml").write_text(settings, encoding="utf-8")
    words = (tmp_path / "cells", "--config", tmp_path / "t.toml", "--out", tmp_path / "file" / "run")
    result = run(verb, *words)
    assert result.exit_code == 2
    assert re.search(
        r"^blastscope: '.*run.json': can't be written, not a directory: name another place\n$", result.stderr, re.M
    )


@pytest.mark.parametrize(
    "verb", ["calibrate --data .", "calibrate-detector --data .", "add-neighbours --data .", "add-detector --from ."]
)
def test_a_zip_is_no_place_for_changes(verb: str, bundle: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.zip"
    assert run("pack", bundle, packed).exit_code == 0
    before = packed.read_bytes()
    name, *words = verb.split()
    result = run(name, packed, *(bundle if word == "." else word for word in words))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.endswith("not a folder: a zip can't be changed, unpack it and pack it again afterwards\n")
    assert packed.read_bytes() == before
