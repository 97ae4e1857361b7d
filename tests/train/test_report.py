"""The report of a training run: figures, page and pictures, from arrays and from a run's folder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from blastscope.runtime.bundle.manifest import Interval, Patients, TrainingProvenance
from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.people import person_of
from blastscope.runtime.types import CLASSES, ClassName, Voter
from blastscope.train.config import ScheduleConfig, TrainConfig
from blastscope.train.fit_checkpoint import EpochRow
from blastscope.train.report import (
    ComparisonRow,
    RecipeComparison,
    Report,
    ReportInput,
    assess,
    render_table,
    write_folder,
    write_report,
)
from blastscope.train.report.data import voter_calls
from blastscope.train.report.plots import draw_pictures
from blastscope.train.report.writer import classes_by_name, kept_epoch, render_training_report

PICTURES = ["confusion", "curves", "patients", "reliability", "roc", "scores"]
NAMES = ("1", "2", "3", "H1", "H2")


def epochs(count: int, *, validated: bool = True) -> tuple[EpochRow, ...]:
    return tuple(
        EpochRow(
            epoch=number,
            lr=1e-3,
            train_loss=1 / number,
            train_accuracy=1 - 0.4 / number,
            validation_loss=0.5 + 1 / number if validated else None,
            validation_accuracy=0.8 - 0.3 / number if validated else None,
            seconds=1.0,
        )
        for number in range(1, count + 1)
    )


def invent(*, cells_each: int = 12, seed: int = 0) -> ReportInput:
    random = np.random.default_rng(seed)
    patients = tuple(name for name in NAMES for _ in range(cells_each))
    labels = np.array([int(not name.startswith("H")) for name in patients])
    margin = random.normal(2 * labels - 1, 1.5)[:, None] + random.normal(0, 0.5, (len(labels), 3))
    malignant = 1 / (1 + np.exp(-margin))
    classes: dict[str, ClassName] = {name: CLASSES[int(not name.startswith("H"))] for name in (*NAMES, "7", "H9")}
    return ReportInput(
        title="lite0 <script>alert(1)</script> & co",
        labels=labels,
        patients=patients,
        people=patients,
        files=tuple(f"all/UID_{name}_1_{place}_all.bmp" for place, name in enumerate(patients)),
        probabilities=np.stack([1 - malignant, malignant], axis=-1).astype(np.float32),
        history={"a": epochs(4), "b": epochs(3), "combined": epochs(2)},
        kept={"a": 4, "b": 2, "combined": 2},
        provenance=TrainingProvenance(
            data_sha256="ab" * 32,
            split="patient",
            seed=5,
            config={"network": {"backbone": "</pre><b>bold"}},
            versions={"torch": "2.13.0"},
            patients=Patients(training=("7", "H9", "80"), validation=NAMES),
        ),
        patient_classes=classes,
        circumstances={"on": "cpu, bf16"},
    )


def empty(given: ReportInput) -> ReportInput:
    return replace(
        given, labels=np.zeros(0, int), patients=(), people=(), files=(), probabilities=np.zeros((0, 3, 2), np.float32)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "report"
    write_folder(invent(), folder)
    return folder


def test_the_folder_holds_the_page_its_figures_and_every_picture_twice(written: Path) -> None:
    expected = {"index.html", "report.json", *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg"))}
    assert {path.name for path in written.iterdir()} == expected


def test_the_pictures_decode_and_are_not_blank(written: Path) -> None:
    for name in PICTURES:
        image = cv2.imread(str(written / f"{name}.png"))
        assert image is not None
        assert image.std() > 5, name


def test_the_json_is_the_report_and_has_no_nan(written: Path) -> None:
    text = (written / "report.json").read_text()
    assert "NaN" not in text
    assert Report.model_validate_json(text) == assess(invent())
    assert set(json.loads(text)["scores"]) == {"a", "b", "combined", "vote"}


def test_the_page_loads_nothing_from_anywhere(written: Path) -> None:
    page = (written / "index.html").read_text()
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>]{0,30})""", page)
    assert len(sources) == len(PICTURES)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "url(" not in page
    assert "<script" not in page
    assert "@import" not in page


def test_what_comes_from_outside_is_escaped(written: Path) -> None:
    page = (written / "index.html").read_text()
    assert "lite0 &lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert "</pre><b>" not in page


def test_every_figure_of_table_1_stands_on_the_page_and_in_the_terminal(written: Path) -> None:
    report = assess(invent())
    console = Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render_table(report))
    page, terminal = (written / "index.html").read_text(), capture.get()
    for scores in report.scores.values():
        for row in (scores.table1.hem, scores.table1.all, scores.table1.weighted):
            for value in (row.precision, row.recall, row.f1):
                assert f"{value:.3f}" in page
                assert f"{value:.3f}" in terminal
        for one in (scores.weighted_f1, scores.auroc, scores.sensitivity, scores.specificity, scores.accuracy):
            assert f"({one.low:.3f} to {one.high:.3f})" in page
            assert f"{one.low:.3f} to {one.high:.3f}" in terminal
    assert max(map(len, terminal.splitlines())) <= 80


def test_the_deciding_voters_add_up_to_all_cells() -> None:
    report = assess(invent())
    assert sum(report.deciding.values()) == report.scores["vote"].cells == 60


def test_each_voter_is_scored_by_its_own_probabilities() -> None:
    given = invent()
    given.probabilities[:, 1] = np.stack([given.labels == 0, given.labels == 1], axis=-1)  # B is always right
    report = assess(given)
    assert report.scores["b"].weighted_f1.value == 1
    assert report.scores["a"].weighted_f1.value < 1
    assert np.array_equal(voter_calls(given, "combined")[1], given.probabilities[:, 2, 1])


def test_patients_stand_in_their_part_and_class_in_natural_order() -> None:
    report = assess(invent())
    assert report.validation.all == ("1", "2", "3")
    assert report.validation.hem == ("H1", "H2")
    assert (report.training.all, report.training.hem, report.training.unknown) == (("7",), ("H9",), ("80",))


def test_a_split_by_image_warns_on_the_page() -> None:
    given = invent()
    report = assess(replace(given, provenance=given.provenance.model_copy(update={"split": "image"})))
    assert "leaks patients" in render_training_report(report, [])
    assert "leaks patients" not in render_training_report(assess(given), [])


def test_notes_stand_on_the_page_and_in_the_terminal() -> None:
    report = assess(replace(invent(), notes=("backbone weights: random <x>",)))
    assert "Backbone weights: random &lt;x&gt;." in render_training_report(report, [])
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render_table(report))
    assert "backbone weights: random <x>" in capture.get()


def test_few_patients_of_a_class_are_a_warning() -> None:
    notes = assess(invent()).notes
    assert [note.split(":")[0] for note in notes] == ["only 2 HEM patients validate", "only 3 ALL patients validate"]


def test_ids_of_one_person_count_once_and_keep_their_rows() -> None:
    invented = invent()
    named = {"1": "51", "2": "75", "3": "57", "H1": "H3", "H2": "H10"}  # 51 ~ 75, H3 ~ H10
    patients = tuple(named[name] for name in invented.patients)
    report = assess(replace(invented, patients=patients, people=tuple(map(person_of, patients))))
    assert [note.split(":")[0] for note in report.notes] == ["only 1 HEM patient validates", "only 2 ALL patients validate"]
    assert {row.patient for row in report.scores["vote"].patients} == set(named.values())
    specificity = report.scores["vote"].specificity
    assert specificity.low == specificity.high == specificity.value  # one person drawn from one


def test_a_run_without_validation_cells_still_shows_its_curves() -> None:
    history: dict[Voter, tuple[EpochRow, ...]] = {"a": epochs(2, validated=False), "b": (), "combined": ()}
    given = replace(empty(invent()), history=history, kept={"a": 2})
    report = assess(given)
    assert report.scores == {}
    assert any("no cells" in note for note in report.notes)
    pictures = draw_pictures(given, report)
    assert [picture.name for picture in pictures] == ["curves"]
    assert "Training" in render_training_report(report, pictures)


def test_networks_that_answer_nan_give_a_note_instead_of_scores() -> None:
    given = invent()
    given.probabilities[3, 0] = np.nan
    report = assess(given)
    assert report.scores == {}
    assert any("not a number" in note for note in report.notes)
    report.model_dump_json()


def test_one_cell_a_patient_and_one_epoch_can_be_drawn() -> None:
    given = replace(invent(cells_each=1), history={"a": epochs(1)}, kept={"a": 1})
    assert [picture.name for picture in draw_pictures(given, assess(given))] == [
        "curves",
        *PICTURES[:1],
        *PICTURES[2:3],
        "roc",
        "scores",
        "reliability",
    ]


def test_other_recipes_stand_beside_with_or_without_intervals() -> None:
    rows = (
        ComparisonRow(name="paper <&>", weighted_f1=Interval(value=0.7123, low=0.6, high=0.8), note="literal"),
        ComparisonRow(name="shipped", weighted_f1=0.8456, auroc=0.9),
    )
    page = render_training_report(assess(replace(invent(), comparison=RecipeComparison(note="three folds", rows=rows))), [])
    assert "Other recipes" in page
    assert "paper &lt;&amp;&gt;" in page
    assert "0.712 <small>(0.600 to 0.800)</small>" in page
    assert "0.846" in page


def test_arrays_of_different_cells_are_refused() -> None:
    with pytest.raises(UsageError, match=r"must be \(60, 3, 2\)"):
        replace(invent(), probabilities=np.zeros((5, 3, 2), np.float32))
    with pytest.raises(UsageError, match="aren't the same cells"):
        replace(invent(), files=("one",))


def test_the_kept_epoch_is_the_first_of_the_best_or_the_last() -> None:
    rows = [
        row.model_copy(update={"validation_accuracy": value})
        for row, value in zip(epochs(4), (0.5, 0.9, 0.9, 0.7), strict=True)
    ]
    assert kept_epoch(rows, ScheduleConfig()) == 2
    assert kept_epoch(rows, ScheduleConfig(watch="loss")) == 4
    assert kept_epoch(rows, ScheduleConfig(keep="last")) == 4


def test_classes_follow_names_only_where_known_classes_do() -> None:
    assert classes_by_name({"5": "all", "H2": "hem"}, ["H7", "8"]) == {"5": "all", "H2": "hem", "H7": "hem", "8": "all"}
    assert classes_by_name({"5": "hem"}, ["H7", "8"]) == {"5": "hem"}
    assert classes_by_name({}, ["H7"]) == {}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder, as train/pipeline.py leaves it, without the networks."""
    from blastscope.train.ensemble_checkpoint import RunHistory, RunProvenance, ValidationCell, write_record

    given = invent()
    cells = zip(given.files, given.labels, given.patients, strict=True)
    write_record(
        tmp_path / "run.json",
        RunProvenance(
            state="finished",
            created="2026-11-23T01:00:00+00:00",
            data_sha256="ab" * 32,
            split="patient",
            seed=0,
            patients=given.provenance.patients,
            training_cells=100,
            validation=tuple(ValidationCell(file=file, label=CLASSES[label], patient=name) for file, label, name in cells),
            duplicates=1,
            refused=(("x.bmp", "undecodable"),),
            weights="random: no weights at hand",
            versions={"torch": "2.13.0"},
            device="cpu",
            precision="bf16",
            seconds=60,
            notes=("backbone weights: random",),
            config=TrainConfig(),
        ),
    )
    write_record(
        tmp_path / "history.json", RunHistory(a=given.history["a"], b=given.history["b"], combined=given.history["combined"])
    )
    save_file({"probabilities": given.probabilities}, tmp_path / "validation.safetensors")
    return tmp_path


def test_a_runs_folder_gives_the_report_of_its_cells(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.train.report.writer.draw_pictures", lambda given, report: [])  # drawn above, and slow
    (run / "comparison.json").write_text(
        RecipeComparison(rows=(ComparisonRow(name="other", weighted_f1=0.5),)).model_dump_json()
    )
    folder = write_report(run)
    report = Report.model_validate_json((folder / "report.json").read_text())
    assert folder == run / "report"
    assert report.scores == assess(invent()).scores
    assert report.training.all == ("7", "80")
    assert report.kept == {"a": 4, "b": 3, "combined": 2}
    assert report.comparison is not None
    assert report.notes[0] == "backbone weights: random"


def test_a_run_that_is_not_whole_is_refused_by_the_file_that_lacks(run: Path) -> None:
    save_file({"probabilities": np.zeros((3, 3, 2), np.float32)}, run / "validation.safetensors")
    with pytest.raises(DataError, match="60 validation cells"):
        write_report(run)
    (run / "validation.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="can't be read as safetensors"):
        write_report(run)
    save_file({"probabilities": invent().probabilities}, run / "validation.safetensors")
    (run / "comparison.json").write_text('{"rows": [], "colour": 1}')
    with pytest.raises(DataError, match="colour"):
        write_report(run)
    (run / "history.json").unlink()
    with pytest.raises(DataError, match=r"history\.json"):
        write_report(run)
    text = (run / "run.json").read_text().replace('"finished"', '"running"')
    (run / "run.json").write_text(text)
    with pytest.raises(DataError, match="isn't finished"):
        write_report(run)
    assert not (run / "report").exists()
