"""A site's corrections as its next training set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.errors import DataError
from blastscope.runtime.frames.corrections import Correction, write_corrections
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.types import Audit, Prediction, Refusal
from blastscope.train import site_cells as module
from blastscope.train.site_cells import add_site_cells

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
SPEC = FrameSpecification(pixel_um=0.075)
NAMES = ("BloodImage_00010.jpg", "BloodImage_00026.jpg", "BloodImage_00190.jpg", "BloodImage_00192.jpg")


class Site:
    """Frames in two folders, as of two persons; what was found in them; and what the networks would have been shown."""

    def __init__(self, folder: Path, shared_data: Path) -> None:
        self.seen: list[NDArray[np.uint8]] = []
        self.frames = [folder / ("one", "two")[number // 2] / name for number, name in enumerate(NAMES)]
        for frame in self.frames:
            frame.parent.mkdir(exist_ok=True)
            frame.write_bytes((shared_data / "bccd" / "JPEGImages" / frame.name).read_bytes())
        self.reports: list[FrameReport] = list(Examiner(self.classify, SPEC).examine_files(self.frames))

    def classify(self, cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        self.seen += cells
        return [Prediction(None, None, None, None, None, None, Refusal("unlike-training", ""), AUDIT) for _ in cells]

    def corrections(self, labels: dict[str, str]) -> list[Correction]:
        """Each cell gets the label of its frame's folder."""
        return [
            Correction(str(report.path), number, cell.box, "", labels[report.path.parent.name], "me", "2026")  # type: ignore[union-attr, arg-type]
            for report in self.reports
            for number, cell in enumerate(report.cells, 1)
        ]


@pytest.fixture(scope="module")
def site(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), shared_data)


@pytest.fixture(scope="module")
def cells(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells of C-NMC."""
    folder = tmp_path_factory.mktemp("cells")
    for label in ("all", "hem"):
        (folder / label).mkdir()
        path = min(cnmc.rglob(f"*_{label}.webp"))
        (folder / label / path.name).write_bytes(path.read_bytes())
    return folder


def test_corrected_cells_stand_beside_the_others_as_the_networks_see_them(
    site: Site, cells: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_corrections(tmp_path / "c.csv", site.corrections({"one": "all", "two": "hem"}))
    caplog.set_level("INFO", module.logger.name)
    place = add_site_cells(cells, tmp_path / "c.csv", tmp_path / "place", spec=SPEC)
    told = [record.getMessage() for record in caplog.records if record.name == module.logger.name]
    data = scan_dataset(place)
    own = [cell for cell in data.cells if cell.patient.startswith("S")]
    assert len(data.cells) == len(own) + 2
    assert {cell.label for cell in own} == {"all", "hem"}
    assert len({(cell.person, cell.label) for cell in own}) == 2  # a person a folder
    images = {cv2.imread(str(cell.path))[..., ::-1].tobytes() for cell in own}
    assert {image.tobytes() for image in site.seen} <= images
    assert f"{len(own)}" == str(sum(int(word) for word in told[0].split() if word.isdigit()) - 2)  # two persons
    lost = sum(int(line.split(": ")[1].split(",")[0]) for line in told[1:])
    assert len(own) + lost == sum(len(report.cells) for report in site.reports)


def test_the_same_person_has_the_same_id_in_every_run(site: Site, cells: Path, tmp_path: Path) -> None:
    write_corrections(tmp_path / "c.csv", site.corrections({"one": "all", "two": "hem"}))
    names = [
        sorted(path.name for path in add_site_cells(cells, tmp_path / "c.csv", tmp_path / out, spec=SPEC).rglob("UID_s*"))
        for out in ("first", "second")
    ]
    assert names[0] == names[1] != []


def test_of_a_person_with_both_classes_the_more_frequent_one_is_taken(site: Site, cells: Path, tmp_path: Path) -> None:
    rows = site.corrections({"one": "all", "two": "hem"})
    rows[0] = Correction(rows[0].path, 1, rows[0].box, "all", "hem", "me", "2026")
    write_corrections(tmp_path / "c.csv", rows)
    data = scan_dataset(add_site_cells(cells, tmp_path / "c.csv", tmp_path / "place", spec=SPEC))
    assert {
        len({cell.label for cell in data.cells if cell.person == person}) for person in {one.person for one in data.cells}
    } == {1}


def test_a_table_without_a_usable_cell_is_an_error(site: Site, cells: Path, tmp_path: Path) -> None:
    write_corrections(tmp_path / "c.csv", site.corrections({"one": "other", "two": "none"}))
    with pytest.raises(DataError, match="no cell that is labelled all or hem"):
        add_site_cells(cells, tmp_path / "c.csv", tmp_path / "place", spec=SPEC)
    assert not (tmp_path / "place").exists()


def test_train_takes_corrections(site: Site, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained on; the training itself is tested elsewhere."""
    asked: list[Any] = []
    monkeypatch.setattr("blastscope.train.pipeline.train_ensemble", lambda data, *_, **__: asked.append(data) or tmp_path)
    monkeypatch.setattr("blastscope.cli.train_export.print_training", lambda *_, **__: None)
    write_corrections(tmp_path / "c.csv", site.corrections({"one": "all", "two": "hem"}))
    words = ["train", str(cells), "--out", str(tmp_path / "run"), "--corrections", str(tmp_path / "c.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert asked == [tmp_path / "run.cells"]
    assert "cells of this site:" in done.stderr
    assert len(scan_dataset(asked[0]).cells) > 2
    (tmp_path / "c.csv").unlink()
    assert CliRunner().invoke(app, [*words, "--resume"]).exit_code == 0  # with the cells that it began with
