"""`blastscope demo` on a machine without real cells: a small training on drawn ones, and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from blastscope import demo
from blastscope.cli import app


@pytest.mark.slow
def test_the_demo_trains_exports_and_calls_drawn_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLASTSCOPE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(demo, "CELLS_OF_A_PATIENT", 6)  # half of what users get drawn
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["cells"]) == 24
    assert all(row["label"] in ("hem", "all") for row in told["cells"])
    with Image.open(told["picture"]) as picture:
        assert picture.width > 1000
    for step in ("train: ", "export: ", "calibrate: ", "verify: "):
        assert step in done.stderr
    assert "drawn cells are unlike those of the training" in done.stderr
