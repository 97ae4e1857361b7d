"""The widget in napari's Plugins menu: its manifest, and a real window under a virtual screen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.frames.corrections import read_corrections
from blastscope.runtime.frames.report.theme import rgb
from blastscope.runtime.integrations.napari_layers import COLOURS

if TYPE_CHECKING:
    from conftest import TinyBundle

pytest.importorskip("napari", reason="napari is not installed: pip install 'blastscope[napari]'", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # napari's own
HERE = Path(__file__).parent
PACKAGES = "xvfb libqt6gui6 libxcb-cursor0"  # a screen, and the libraries of the system that Qt's wheel doesn't bring
NO_QT = ("the Qt platform plugin", "cannot open shared object file", "No Qt bindings could be found")


def test_the_manifest_is_valid_and_names_what_is_there() -> None:
    from npe2 import PluginManifest

    import blastscope.runtime.integrations as hosts

    path = Path(hosts.__path__[0]) / "napari.yaml"
    manifest = PluginManifest.from_file(path)
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets or ()] == ["Examine a blood smear"]
    project = tomllib.loads((HERE.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"blastscope": "blastscope.runtime.integrations:napari.yaml"}


def window_of(frame: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """What the widget told of `frame` in a real window, whose pictures are the folder's window.png and canvas.png."""
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1280x900x24"] if sys.platform.startswith("linux") else []
    if screen and not shutil.which(screen[0]):
        no_window("no virtual screen")
    command = [sys.executable, str(HERE / "napari_window.py"), str(frame), str(bundle)]
    # a session of its own: where it hangs, the virtual screen is ended with it
    process = subprocess.Popen(
        [*screen, *command, *(str(folder / name) for name in ("window.png", "canvas.png", "review.csv"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "NAPARI_CONFIG": str(folder / "napari.yaml")},
    )
    try:
        told, errors = process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if screen else process.kill()
    if lacking := next((line for line in errors.splitlines() if any(words in line for words in NO_QT)), None):
        no_window(lacking)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(told.splitlines()[-1])  # napari prints its own notes before
    return found


def no_window(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI must open napari's window: {reason}: apt-get install {PACKAGES}")
    pytest.skip(f"napari's window can't be opened: {reason} (pip's PySide6-Essentials, Debian's {PACKAGES})")


def seen(picture: Path) -> NDArray[np.int64]:
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_widget_examines_a_frame_in_a_window(tmp_path: Path, shared_data: Path, tiny_bundle: TinyBundle) -> None:
    path = shared_data / "bccd" / "JPEGImages" / "BloodImage_00034.jpg"  # a cell that is called and one that isn't lymphoid
    window = window_of(path, tiny_bundle.make(), tmp_path)
    counts, cells = window["report"]["counts"], window["report"]["cells"]
    calls = {cell["label"] or "refused" for cell in cells}
    assert "refused" in calls
    assert len(calls) > 1
    assert window["told"].startswith(f"{counts['cells']} white cells: {counts['all']} ALL, {counts['hem']} HEM")
    called = counts["all"] + counts["hem"]
    without = f"; {counts['refused']} have no call to accept: say what they are"
    state = f"{called} of {counts['cells']} cells reviewed, 0 of them changed"
    assert window["accepted"] == f"{called} calls accepted{without}\n{state}"
    assert window["nobody"] == "who are you? type your name or initials first"
    rows = read_corrections(tmp_path / "review.csv")
    assert [(row.new, row.who) for row in rows] == [(cell["label"], "me") for cell in cells if cell["label"]]
    assert window["loaded"].startswith(f"{called} answers taken from ")
    assert len(np.unique(seen(tmp_path / "window.png")[::4, ::4].reshape(-1, 3), axis=0)) > 1000

    canvas, frame = seen(tmp_path / "canvas.png"), seen(path)
    lit = canvas.max(axis=2) > 60  # what lies around the frame is black
    (top, bottom), (left, right) = (np.flatnonzero(lit.mean(axis=axis) > 0.3)[[0, -1]] for axis in (1, 0))
    scale = (right - left + 1) / frame.shape[1]
    assert scale == pytest.approx((bottom - top + 1) / frame.shape[0], rel=0.02)
    for cell in cells:
        x0, y0, x1, y1 = cell["box"]
        colour = rgb(COLOURS[cell["label"] or "refused"])
        drawn = 0
        for x, y in [(x, y) for step in np.linspace(0.1, 0.9, 9) for x, y in sides(x0, y0, x1, y1, step)]:
            column, row = round(left + x * scale), round(top + y * scale)
            around = canvas[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            drawn += bool((np.abs(around - colour).max(axis=2) < 24).any())
        assert drawn >= 30, (cell["box"], drawn)  # of 36 places on the box's sides


def sides(x0: int, y0: int, x1: int, y1: int, step: float) -> list[tuple[float, float]]:
    """A place on each side of a box, `step` of the way along it."""
    x, y = x0 + step * (x1 - x0), y0 + step * (y1 - y0)
    return [(x, y0), (x, y1), (x0, y), (x1, y)]
