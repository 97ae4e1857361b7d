"""The ImageJ plugin: Python's calls, ROIs that show them, a macro that the recorder wrote; with a screen and without."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from native_bindings import IMAGEJ, JNA, Binding, missing, write_picture
from native_library import ROOT, SOURCES

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image

MARGIN = 12
COLOURS = {"hem": ("1", "#0072b2"), "all": ("2", "#d55e00"), "refused": ("3", "#808080")}
SCREEN = ("xvfb-run", "-a", "-s", "-screen 0 1280x900x24")


class Plugin(NamedTuple):
    """ImageJ's folder with the plugin in it, as a user lays it, and the library."""

    home: Path
    library: Path

    def imagej(self, *command: str | Path, screen: bool, status: int = 0) -> str:
        """Runs ImageJ, and gives what it prints."""
        java = ["java", f"-Dplugins.dir={self.home}", f"-Duser.home={self.home}"]
        classes = [str(IMAGEJ), str(self.home)]
        if not screen:
            java.append("-Djava.awt.headless=true")
            classes += [str(self.home / "plugins" / "Blastscope_.jar"), str(JNA)]
        words = [*(SCREEN if screen else ()), *java, "-cp", ":".join(classes), *map(str, command)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.home / "cache")}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=600)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def plugin(build_binding: Callable[[str], Binding], tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """Installed as the page says."""
    if not IMAGEJ.exists():
        missing("ImageJ is")
    home, java = tmp_path_factory.mktemp("imagej"), build_binding("java")
    (home / "plugins" / "jars").mkdir(parents=True)
    shutil.copy(java.folder / "Blastscope_.jar", home / "plugins")
    shutil.copy(JNA, home / "plugins" / "jars")
    checks = ROOT / "tests" / "native" / "java" / "ImageJChecks.java"
    subprocess.run(["javac", "-cp", str(IMAGEJ), "-d", str(home), str(checks)], check=True)
    return Plugin(home, java.library)


class Picture(NamedTuple):
    """Six cells on a light background, as a smear has it, which lies between them at a picture's edge too; and their labels."""

    picture: Path
    labels: Path
    wanted: list[dict[str, Any]]  # Python's rows


@pytest.fixture(scope="module")
def six_cells(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> Picture:
    """The sixth is cut by the picture's right edge."""
    folder = tmp_path_factory.mktemp("picture")
    cells = scan_dataset(cnmc).cells
    hem, malignant = ([cell.path for cell in cells if cell.label == label][::400][:3] for label in ("hem", "all"))
    picture, labels = np.full((900, 1350, 3), (235, 200, 220), np.uint8), np.zeros((900, 1350), np.uint8)
    for number, path in enumerate((*hem, *malignant)):
        image = read_image(path)
        assert isinstance(image, np.ndarray)
        _, components, facts, _ = cv2.connectedComponentsWithStats(np.asarray(image.max(axis=2) > 0, np.uint8))
        mask = components == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()
        where = np.s_[450 * (number // 3) :, 450 * (number % 3) :]
        height, width = mask.shape
        picture[where][:height, :width][mask], labels[where][:height, :width][mask] = image[mask], number + 1
    edge = int(np.nonzero((labels == 6).any(axis=0))[0][-1]) - 40
    picture, labels = picture[:, :edge], labels[:, :edge]
    with open_bundle(device="cpu", backend="openvino", precision="fp32", execution="f32", cache_dir=folder) as python:
        wanted = [python.classify(cut(picture, labels == number + 1)).row() for number in range(6)]
        wanted.append(python.classify(picture).row())
    assert [row["refusal"] for row in wanted[5:]] == ["touches-border", "not-on-black"]
    return Picture(write_picture(folder / "six.png", picture), labels_file(folder, labels), [dict(row) for row in wanted])


def need_a_screen() -> None:
    """Skips without a virtual screen, or with a Java that has no windows."""
    java = Path(os.path.realpath(shutil.which("java") or ""))
    if shutil.which("xvfb-run") is None or not (java.parents[1] / "lib" / "libawt_xawt.so").exists():
        missing("xvfb-run or Java's windows (Debian: xvfb openjdk-17-jre) are")


def labels_file(folder: Path, labels: np.ndarray[Any, np.dtype[np.uint8]]) -> Path:
    assert cv2.imwrite(str(folder / "labels.png"), labels)
    return folder / "labels.png"


def cut(picture: np.ndarray[Any, np.dtype[np.uint8]], mask: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, Any]:
    """The cell on black, as the plugin's page says: a margin, except where the picture ends."""
    ys, xs = np.nonzero(mask)
    black = np.where(mask[..., None], np.maximum(picture, 1), 0).astype(np.uint8)
    inner = black[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    right = 0 if xs.max() + 1 == picture.shape[1] else MARGIN
    return np.pad(inner, ((MARGIN, MARGIN), (MARGIN, right), (0, 0)))


def assert_table(path: Path, wanted: list[dict[str, Any]]) -> None:
    """Holds ImageJ's results table, which has six decimals, to Python's rows."""
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["Call"] for row in table] == [row["label"] or "refused" for row in wanted]
    assert [row["Refusal"] for row in table] == [row["refusal"] or "" for row in wanted]
    for row, theirs in zip(table, wanted, strict=True):
        told = {"Probability": theirs["probability"], "Score": theirs["score"], "Novelty": theirs["novelty"]}
        for name, value in told.items():
            assert float(row[name]) == pytest.approx(float("nan") if value is None else value, abs=2e-6, nan_ok=True)
        assert row["Set"].split() == (theirs["set"] or [])


@pytest.mark.parametrize("mode", ["headless", "screen"])
def test_rois_and_table_show_pythons_calls(plugin: Plugin, six_cells: Picture, tmp_path: Path, mode: str) -> None:
    if mode == "screen":
        need_a_screen()
    arguments = (mode, six_cells.picture, six_cells.labels, SHIPPED_BUNDLE, plugin.library.parent, tmp_path / "table.csv")
    said = plugin.imagej("ImageJChecks", *arguments, screen=mode == "screen").splitlines()
    assert_table(tmp_path / "table.csv", six_cells.wanted)
    rois = [line.split("\t")[1:] for line in said if line.startswith("roi\t")]
    wanted = []
    for number, row in enumerate(six_cells.wanted):
        call = f"{row['label']} {row['probability']:.4f}" if row["label"] else f"refused as {row['refusal']}"
        group, colour = COLOURS[row["label"] or "refused"]
        wanted.append(
            [f"{'everything' if number == 6 else f'cell {number + 1}'} | {call}", group, row["label"] or "refused", colour]
        )
    assert rois == wanted * (2 if mode == "screen" else 1)  # a second time by the macro that the recorder wrote
    options = f"bundle={SHIPPED_BUNDLE} library={plugin.library.parent} cells=[all ROIs]"
    recorded = [line.split("\t")[1].strip() for line in said if line.startswith("recorded\t")]
    assert recorded == ([f'run("Classify Cells...", "{options}");'] if mode == "screen" else [])


def test_the_macro_of_the_page_classifies_a_folder(plugin: Plugin, cnmc: Path, tmp_path: Path) -> None:
    need_a_screen()
    images = [read_image(cell.path) for cell in scan_dataset(cnmc).cells[::1500]]
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(images):
        assert isinstance(image, np.ndarray)
        write_picture(tmp_path / "pictures" / f"{number}.png", image)
    (tmp_path / "lib").symlink_to(plugin.library.parent)  # beside the bundle, as in the package
    shutil.copytree(SHIPPED_BUNDLE, tmp_path / "shipped")
    macro = SOURCES / "imagej" / "examples" / "classify_folder.ijm"
    arguments = f"{tmp_path / 'pictures'}{os.sep};{tmp_path / 'shipped'};{tmp_path / 'table.csv'}"
    plugin.imagej("ij.ImageJ", "-batch", macro, arguments, screen=True)
    with open_bundle(device="cpu", backend="openvino", precision="fp32", execution="f32", cache_dir=tmp_path) as python:
        assert_table(tmp_path / "table.csv", [dict(python.classify(image).row()) for image in images])


def test_a_bundle_that_cant_be_used_ends_the_macro(plugin: Plugin, six_cells: Picture, tmp_path: Path) -> None:
    arguments = (six_cells.picture, six_cells.labels, tmp_path / "nothing", plugin.library.parent, tmp_path / "table.csv")
    said = plugin.imagej("ImageJChecks", "headless", *arguments, screen=False, status=1)
    assert "Blastscope: " in said
    assert "nothing" in said
    assert "Macro canceled" in said
    assert not (tmp_path / "table.csv").exists()
