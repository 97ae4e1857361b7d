"""`blastscope validate` on frames that hold real, labelled cells, and what its record lets reports say."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.validation_record import Requirements, read_validation
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.inference.voting import call_smear, smear_model
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import open_bundle

if TYPE_CHECKING:
    from conftest import TinyBundle

SCALE = 0.5  # of C-NMC's pixels: the finder's work goes with their number
PIXEL_UM = FrameSpecification().network_um / SCALE
EASY = """
frames = 2
cells_each = 2
patients = 2
recall = 0.5
precision = 0.5
called = 0.5
sensitivity = 0.0
specificity = 0.0
"""


def field_of(images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], list[tuple[int, int, int, int]]]:
    """Cells on glass, side by side, and their boxes."""
    frame = np.full((300, 260 * len(images) + 40, 3), 226, np.uint8)
    boxes = []
    for number, image in enumerate(images):
        small = np.asarray(cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA), np.uint8)
        mask = small.max(axis=2) > 12
        x, y = 30 + 260 * number, 30
        place = frame[y : y + small.shape[0], x : x + small.shape[1]]
        place[mask] = small[mask]
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        boxes.append((x + left, y + top, x + left + width, y + top + height))
    return frame, boxes


@pytest.fixture(scope="module")
def site(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of two ALL and two HEM cells each, of patients of their own, and the table of their labels."""
    folder = tmp_path_factory.mktemp("site")
    kinds = {label: sorted(cnmc.rglob(f"*_{label}.webp"))[::200] for label in ("all", "hem")}
    rows: list[list[Any]] = []
    for number in range(4):
        paths = [*kinds["all"][2 * number : 2 * number + 2], *kinds["hem"][2 * number : 2 * number + 2]]
        images = [image for image in map(read_image, paths) if isinstance(image, np.ndarray)]
        frame, boxes = field_of(images)
        cv2.imwrite(str(folder / f"field{number}.png"), frame[..., ::-1])
        labels = [path.stem.rpartition("_")[2] for path in paths]
        rows += [[f"field{number}.png", *box, label, f"P{number}"] for box, label in zip(boxes, labels, strict=True)]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "x0", "y0", "x1", "y1", "label", "patient"], *rows])
    (folder / "easy.toml").write_text(EASY)
    return folder


def run(site: Path, bundle: Path, *words: str) -> tuple[int, dict[str, Any]]:
    command = ["validate", str(site), "--labels", str(site / "labels.csv"), "--bundle", str(bundle), "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--json", "--pixel-um", str(PIXEL_UM), "--site", "<North>", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_validation_counts_findings_and_its_record_makes_reports_say_so(
    site: Path, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    bundle, record, page = tiny_bundle.make(), tmp_path / "validation.json", tmp_path / "page.html"
    table = tmp_path / "cells.csv"
    words = ["--csv", str(table), "--record", str(record), "--report", str(page), "--requirements", str(site / "easy.toml")]
    code, told = run(site, bundle, *words)
    assert (code, told["passed"], told["shortfalls"]) == (0, True, [])
    assert told["finding"]["labelled"] == 16
    assert told["finding"]["found"] >= 14  # real cells, on glass that isn't theirs
    assert (told["units"], told["patients"], told["frames"]) == ("patients", 4, 4)
    assert sum(sum(told[name].values()) for name in ("hem", "all")) == 16
    assert sum(told["refusals"].values()) == told["hem"]["refused"] + told["all"]["refused"]
    called = sum(told[name][kind] for name in ("hem", "all") for kind in ("called_hem", "called_all"))
    assert told["calls"]["cells"] == called <= told["drift"]["cells"] <= 16  # a cell that the crop refuses has a look, too
    assert sum(row["right"] + row["wrong"] + row["refused"] for row in told["frame_rows"]) == told["finding"]["found"]

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (site / "labels.csv").open(newline="") as file:
        labelled = [(str(site / row["path"]), row["x0"], row["y1"], row["label"]) for row in csv.DictReader(file)]
    assert [(row["path"], row["x0"], row["y1"], row["label"]) for row in rows if row["label"]] == labelled
    assert sum(row["found"] == "true" and bool(row["label"]) for row in rows) == told["finding"]["found"]
    assert sum(not row["label"] for row in rows) == told["finding"]["false"]
    for label in ("all", "hem"):
        of_class = [row for row in rows if row["label"] == label]
        assert sum(row["call"] == "all" for row in of_class) == told[label]["called_all"]
        assert sum(bool(row["refusal"]) for row in of_class) == told[label]["refused"]
    assert all(bool(row["score"]) == bool(row["call"]) for row in rows)

    text = page.read_text()
    assert "Validation of tiny at &lt;North&gt;" in text
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,)|https?://', text)
    wrong = sum(row["wrong"] + row["labelled"] - row["found"] + row["refused"] + row["false"] for row in told["frame_rows"])
    assert wrong == len(re.findall('<li class="cell ', text)) == text.count('src="data:image/jpeg')
    assert f"Labelled ALL, called HEM: {told['all']['called_hem']}" in text or not told["all"]["called_hem"]
    assert f"Labelled HEM, called ALL: {told['hem']['called_all']}" in text or not told["hem"]["called_all"]

    frame = read_image(site / "field0.png")
    assert isinstance(frame, np.ndarray)
    with open_bundle(bundle, device="cpu", validation=record) as scope:
        assert scope.examine(frame, pixel_um=PIXEL_UM).validated
        assert all(report.validated for report in scope.examine_files([site / "field0.png"]))
        other = FrameSpecification(lymphocyte_um=11)
        assert not scope.examine(frame, pixel_um=PIXEL_UM, spec=other).validated
        assert not any("the validation of" in note for note in scope.notes)
    with open_bundle(tiny_bundle.make(name="another"), device="cpu", validation=record) as scope:
        assert not scope.examine(frame, pixel_um=PIXEL_UM).validated
        assert any("is of bundle 'tiny'" in note for note in scope.notes)


def test_each_patient_is_called_by_all_cells_of_their_frames(cnmc: Path, tmp_path: Path) -> None:
    rows: list[list[Any]] = []
    for name, label, count in (("P1", "all", 12), ("P2", "hem", 12), ("P3", "hem", 3)):
        paths = sorted(cnmc.rglob(f"*_{label}.webp"))[:: 7 if name == "P1" else 11][:count]
        frame, boxes = field_of([image for image in map(read_image, paths) if isinstance(image, np.ndarray)])
        cv2.imwrite(str(tmp_path / f"{name}.png"), frame[..., ::-1])
        rows += [[f"{name}.png", *box, label, name] for box in boxes]
    rows[-1][5] = "all"  # of P3's three cells one is another's class
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "x0", "y0", "x1", "y1", "label", "patient"], *rows])
    page = tmp_path / "page.html"
    command = [
        "validate",
        str(tmp_path),
        "--labels",
        str(tmp_path / "labels.csv"),
        "--site",
        "North",
        "--pixel-um",
        str(PIXEL_UM),
    ]
    command += ["--unlike-training", "call", "--device", "cpu", "--report", str(page)]
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    people = {person["patient"]: person for person in told["people"]}
    assert [people[name]["labelled"] for name in ("P1", "P2", "P3")] == ["all", "hem", None]
    with open_bundle(device="cpu", unlike_training="call") as scope:
        for name, person in people.items():
            report = next(iter(scope.examine_files([tmp_path / f"{name}.png"], pixel_um=PIXEL_UM)))
            predictions = [cell.prediction for cell in report.cells if cell.prediction]
            wanted = call_smear(predictions, smear_model(scope.bundle)).row()
            assert {key: person[key] for key in wanted} == {**wanted, "refused": person["refused"]}
    assert people["P1"]["cells"] >= 10
    assert people["P3"]["label"] is None
    assert "needs 10 called cells" in people["P3"]["detail"]
    assert "labelled both classes or none: smear  --   P3" in CliRunner().invoke(app, command).stdout
    assert page.read_text().count("needs 10 called cells") == 1


def test_a_small_validation_falls_short_in_figures_and_exits_1(site: Path, tiny_bundle: TinyBundle, tmp_path: Path) -> None:
    record = tmp_path / "validation.json"
    code, told = run(site, tiny_bundle.make(), "--record", str(record))
    assert (code, told["passed"]) == (1, False)
    assert "4 frames, wanted 20" in told["shortfalls"]
    assert "4 patients, wanted 10" in told["shortfalls"]
    kept = read_validation(record)
    assert not kept.passed
    assert "fell short: 4 frames, wanted 20" in (kept.objection(kept.bundle, kept.spec) or "")


def test_a_record_that_was_changed_by_hand_is_refused(site: Path, tiny_bundle: TinyBundle, tmp_path: Path) -> None:
    record = tmp_path / "validation.json"
    run(site, tiny_bundle.make(), "--record", str(record))
    record.write_text(record.read_text().replace('"passed": false', '"passed": true'))
    with pytest.raises(DataError, match="not what the figures and requirements say"):
        read_validation(record)
    record.write_text('{"site": 3')
    with pytest.raises(DataError, match="is no validation record"):
        read_validation(record)
    with pytest.raises(DataError, match="No such file"):
        open_bundle(tiny_bundle.make(), validation=tmp_path / "none.json")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--site", " "], "the site's name ' ' must have 1 to 200 letters"),
        (["--record", "FILE/record.json"], "can't be written"),
        (["--report", "FILE/page.html"], "can't be written"),
        (["--record", "FILE/../labels.csv"], "is read by this command"),
        (["--report", "FILE/../frame.png"], "is one of the frames"),
        (["--requirements", "FILE"], "recall: input should be a finite number"),
    ],
)
def test_what_can_not_be_is_said_before_a_bundle_is_opened(words: list[str], problem: str, tmp_path: Path) -> None:
    for name in ("frame.png", "labels.csv"):
        (tmp_path / name).write_text("path,x0,y0,x1,y1,label\nframe.png\n")
    (tmp_path / "file").write_text("recall = nan")
    named = [word.replace("FILE", str(tmp_path / "file")) for word in words]
    command = ["validate", str(tmp_path / "frame.png"), "--labels", str(tmp_path / "labels.csv"), "--bundle", "nowhere", *named]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.stderr
    assert problem in done.stderr


def test_the_houses_requirements_are_not_empty() -> None:
    wanted = Requirements()
    assert wanted.frames >= 20
    assert wanted.cells_each >= 50
    assert wanted.recall >= 0.9
