"""The wheel, in an environment that has its dependencies and nothing of this repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_ships_types_the_bundle_and_each_file_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for needed in ("py.typed", "demo.toml", "shipped/manifest.json", "runtime/FORMAT.md", "runtime/bundle/bundle.schema.json"):
        assert f"blastscope/{needed}" in names
    assert {"blastscope/train/paper.toml", "blastscope/train/shipped.toml", "blastscope/cli/__init__.py"} <= set(names)
    kernels = "blastscope/runtime/cuda/kernels/"
    assert {f"{kernels}crop.fatbin", f"{kernels}crop.json", f"{kernels}crop.cu", f"{kernels}memory.cuh"} <= set(names)
    assert {f"blastscope/runtime/streaming/static/{file}" for file in ("icon.svg", "page.css", "page.html", "page.js")} <= set(
        names
    )
    assert {"blastscope/runtime/integrations/napari.yaml", "blastscope/runtime/evaluation/training_reference.json"} <= set(
        names
    )
    pages = "runtime/frames/report/templates"
    templates = {path.name for path in (ROOT / pages).iterdir() if path.suffix in (".html", ".css", ".js")}
    assert {"base.html", "slide.html", "style.css", "cells.js"} <= templates
    assert {f"blastscope/{pages}/{name}" for name in templates} <= set(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith(("runtime/", "train/", "tests/"))]


def test_the_wheel_alone_classifies_without_torch(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
sys.modules.update(dict.fromkeys(("torch", "timm", "onnx", "onnxruntime", "sklearn", "matplotlib")))
import blastscope
from blastscope.runtime.io.synthetic import synthetic_cell
assert blastscope.__file__.startswith({str(tmp_path)!r}), blastscope.__file__
with blastscope.open_bundle(unlike_training="call") as scope:
    print(scope.classify(synthetic_cell(7)).label)
from blastscope.runtime.frames.report.html_report import render_slide_report
assert "<h1>no frames</h1>" in render_slide_report([], "no frames")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("all", "hem")
