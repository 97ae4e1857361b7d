"""The verbs: what they print, and what they exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from typer.testing import CliRunner, Result

from blastscope.cli import app
from blastscope.cli.terminal import json_text
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import Closed, DeviceError
from blastscope.runtime.types import PredictionRow
from blastscope.train.nested_cross_validation import RecipeChoices
from blastscope.train.progress import TrainingProgress

RUNNER = CliRunner()


def run(*words: object) -> Result:
    return RUNNER.invoke(app, [str(word) for word in words])


@pytest.fixture
def bundle(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_bundle.make("fp32")


@pytest.fixture
def images(tiny_bundle: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"cell{seed}.png"), tiny_bundle.cell(seed)[..., ::-1])
    return folder


def test_classify_prints_a_line_of_json_an_image_in_the_order_given(bundle: Path, images: Path) -> None:
    paths = [images / "cell2.png", images / "cell0.png"]
    result = run("classify", *paths, "--bundle", bundle, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert set(rows[0]) == {"path", *PredictionRow.__annotations__}
    assert rows[0]["score"] == rows[0]["probabilities"][rows[0]["voter"]]["all"]
    assert rows[0]["audit"]["bundle"] == read_bundle(bundle).digest
    assert set(rows[0]["probabilities"]) == {"a", "b", "combined"}
    assert rows[0]["probability"] == rows[0]["probabilities"][rows[0]["voter"]][rows[0]["label"]]


def test_a_bad_file_is_refused_by_name_and_the_batch_goes_on(bundle: Path, images: Path) -> None:
    (images / "cell1.png").write_bytes(b"")
    result = run("classify", images, "--bundle", bundle, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [row["refusal"] for row in rows] == [None, "undecodable", None]
    assert [row["detail"] for row in rows] == [None, "the file is empty", None]
    assert rows[1]["label"] is None
    assert "1 of 3 images refused" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_that_leads_to_itself_is_refused_and_the_batch_goes_on(bundle: Path, images: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop.name)
    result = run("classify", loop, images, "--bundle", bundle, "--device", "cpu", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, rows[0]["refusal"]) == (1, "undecodable")
    assert len(rows) == 1 + len(list(images.iterdir()))


def test_people_get_a_line_an_image(bundle: Path, images: Path) -> None:
    result = run("classify", images, "--bundle", bundle)
    assert result.exit_code == 0
    assert all(line.split()[0] in ("ALL", "HEM") for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("encoding", "written"), [("cp1252", r"\u0418\u0432\u0430\u043d.png"), ("utf-8", "\u0418\u0432\u0430\u043d.png")]
)
def test_every_image_is_told_in_an_output_that_lacks_letters(bundle: Path, images: Path, encoding: str, written: str) -> None:
    (images / "cell1.png").rename(images / "\u0418\u0432\u0430\u043d.png")
    if os.name == "posix":
        (images / "cell2.png").rename(os.fsdecode(os.fsencode(images) + b"/caf\xe9.png"))
        written = f"{written}|caf\\udce9.png"
    command = [sys.executable, "-m", "blastscope", "classify", images, "--bundle", bundle, "--backend", "onnxruntime"]
    variables = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=variables, check=True)
    lines = done.stdout.decode(encoding).splitlines()
    assert len(lines) == 3
    for name in written.split("|"):
        assert sum(line.endswith(name) for line in lines) == 1, name


def test_json_is_ascii_whatever_the_output_can_write(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest.model_copy(update={"name": "\u0418\xe4\U0001f52c"})
    text = json_text(manifest)
    assert text.isascii()
    assert json.loads(text) == json.loads(manifest.model_dump_json())


def test_a_layout_may_be_named(bundle: Path, images: Path) -> None:
    result = run("classify", images, "--bundle", bundle, "--precision", "fp32", "--layout", "fused", "--json")
    assert result.exit_code == 0, result.output
    assert "took fp32: the only one to choose from" in result.stderr
    refused = run("classify", images, "--bundle", bundle, "--layout", "side-by-side", "--threads", "2")
    assert refused.exit_code == 2
    assert "layout 'side-by-side' is not for throughput on 2 cores: fused, paired may be had" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["classify"], 2),
        (["classify", "nowhere.png", "--bundle", "nowhere"], 3),
        (["classify", "nowhere.png", "--precision", "fp12"], 2),
        (["classify", "nowhere.png", "--device", "tpu"], 2),
        (["classify", "nowhere.png", "--device", "cuda"], 4),
        (["train", "nowhere", "--out", "run"], 2),
        (["inspect", "nowhere"], 3),
        (["frobnicate"], 2),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    words: list[str], code: int, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    named = (
        [*words, "--bundle", str(bundle)] if words[0] == "classify" and "--bundle" not in words and len(words) > 1 else words
    )
    result = run(*named)
    assert result.exit_code == code, result.output
    assert result.stderr.strip()
    assert "Traceback" not in result.output


def test_an_error_is_one_line_that_names_itself(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "nowhere")
    assert result.stderr == f"blastscope: bundle '{tmp_path / 'nowhere'}': no such folder or zip\n"
    assert (DeviceError.exit_code, Closed.exit_code) == (4, 1)


@pytest.mark.parametrize(
    ("verb", "function"), [("train", "pipeline.train_ensemble"), ("crossvalidate", "cross_validation.cross_validate")]
)
def test_training_is_followed_on_stderr(verb: str, function: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def trained(data: Path, config: object, out: Path, *, console: Any, **rest: Any) -> Path:
        with TrainingProgress(console) as progress:
            progress.say(f"left out: {data / 'broken.png'}")
        return out

    monkeypatch.setattr(f"blastscope.train.{function}", trained)
    monkeypatch.setattr("blastscope.cli.train_export.print_training", lambda run, *, as_json: print("{}"))
    result = run(verb, tmp_path, "--out", tmp_path / "run", "--json")
    assert (result.exit_code, result.stdout) == (0, "{}\n")
    assert result.stderr == f"left out: {tmp_path / 'broken.png'}\n"


def test_crossvalidate_takes_several_recipes_by_their_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def chosen(data: Path, recipes: dict[str, object], out: Path, **rest: object) -> RecipeChoices:
        asked.append(tuple(recipes))
        return RecipeChoices(criterion="weighted F1", best="two", scores={}, folds=())

    monkeypatch.setattr("blastscope.train.nested_cross_validation.nested_cross_validate", chosen)
    monkeypatch.setattr("blastscope.cli.train_export.print_training", lambda run, *, as_json: print("{}"))
    (tmp_path / "other").mkdir()
    for name in ("one.toml", "two.toml", "other/two.toml"):
        (tmp_path / name).write_text("seed = 1\n")
    options = ("--out", tmp_path / "runs", "--config", tmp_path / "two.toml", "--config")
    result = run("crossvalidate", tmp_path, *options, tmp_path / "one.toml")
    assert (result.exit_code, asked) == (0, [("two", "one")])
    assert result.stderr == "best by all folds, to be trained on everybody: two\n"
    result = run("crossvalidate", tmp_path, *options, tmp_path / "other" / "two.toml")
    assert (result.exit_code, len(asked)) == (2, 1)
    assert "give each another name" in result.stderr


def test_a_bundle_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("not a bundle")
    result = run("export", tmp_path / "no run", "--out", tmp_path / "mine")
    assert (result.exit_code, result.stderr) == (2, f"blastscope: '{tmp_path / 'mine'}' is a file: name a folder\n")


def test_inspect_prints_the_manifest(bundle: Path) -> None:
    assert json.loads(run("inspect", bundle, "--json").stdout) == json.loads((bundle / "manifest.json").read_text())
    assert "golden set" in run("inspect", bundle).stdout


def test_verify_passes_a_good_bundle_and_says_what_it_compared(bundle: Path) -> None:
    result = run("verify", bundle, "--json")
    assert result.exit_code == 0, result.output
    assert {row["backend"] for row in json.loads(result.stdout)["engines"]} == {"openvino", "onnxruntime"}


@pytest.mark.parametrize(("gone", "left"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_verify_needs_one_engine_of_the_two_and_names_the_missing_one(bundle: Path, gone: str, left: str) -> None:
    missing = ("onnx", "onnxscript", gone)
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); from blastscope.cli import app; app()"
    command = [sys.executable, "-c", code, "verify", str(bundle), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {row["backend"] for row in told["engines"]} == {left}
    assert [one.partition(" ")[0] for one in told["missing"]] == [gone]
    assert "pip install" in told["missing"][0]


def test_pack_gives_a_zip_that_answers_as_the_folder_does(bundle: Path, images: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny.zip"
    assert run("pack", bundle, packed).exit_code == 0
    words = ("--json", "--precision", "fp32", "--layout", "fused")
    rows = [run("classify", images, "--bundle", path, *words).stdout for path in (bundle, packed)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "verb", [["train", "x", "--out", "y"], ["export", "x", "--out", "y"], ["calibrate", "x", "--data", "y"], ["bench"]]
)
def test_a_verb_whose_extra_is_missing_says_the_pip_command(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for name in ("run.json", "manifest.json"):  # folders are looked at first
        (tmp_path / "x" / name).touch()
    heavy = ("torch", "timm", "onnx", "onnxruntime", "lightning_fabric")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy})); from blastscope.cli import app; app({verb})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "pip install 'blastscope[" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_starts_without_loading_torch() -> None:
    code = "import sys; from blastscope.cli import app; assert not {'torch', 'onnx', 'openvino', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_control_c_while_the_command_is_being_imported_is_quiet() -> None:
    code = """
import sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from blastscope.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_version_is_the_packages() -> None:
    from blastscope import __version__

    assert run("--version").stdout == f"blastscope {__version__}\n"
