"""A site's labels, which found cell is which labelled one, and the figures, held against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.detection import Outcome, call_metrics, counts_by_class, detection_metrics, match_boxes
from blastscope.runtime.evaluation.labels import LabelledCell, read_labels
from blastscope.runtime.frames.mask_geometry import iou
from blastscope.runtime.types import Box

HEAD = "path,x0,y0,x1,y1,label"
BOXES = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), *[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2)


def table(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def some_outcomes(count: int = 300, seed: int = 5) -> list[Outcome]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, count)
    score = np.round(np.clip(0.5 + 0.25 * (2 * truth - 1) + random.normal(0, 0.3, count), 0, 1), 2)  # with ties
    units = random.integers(0, 12, count)
    cells = zip(units.tolist(), truth.tolist(), score.tolist(), strict=True)
    called = [Outcome(f"p{unit}", label, True, int(value >= 0.5), value, None) for unit, label, value in cells]
    missed = [Outcome("p1", 1, False, None, None, None)] * 7
    refused = [Outcome("p2", 0, True, None, None, "clumped")] * 9
    false = [Outcome("p3", None, True, 1, 0.9, None)] * 5
    return [*called, *missed, *refused, *false]


def test_the_figures_are_scikit_learns() -> None:
    outcomes = some_outcomes()
    judged = [one for one in outcomes if one.truth is not None and one.call is not None]
    truth, call, score = ([getattr(one, name) for one in judged] for name in ("truth", "call", "score"))
    figures = call_metrics(outcomes)
    assert figures is not None
    assert figures.cells == 300
    assert figures.sensitivity.value == pytest.approx(recall_score(truth, call))
    assert figures.specificity.value == pytest.approx(recall_score(truth, call, pos_label=0))
    assert figures.accuracy.value == pytest.approx(accuracy_score(truth, call))
    assert figures.weighted_f1.value == pytest.approx(f1_score(truth, call, average="weighted"))
    assert figures.auroc.value == pytest.approx(roc_auc_score(truth, score))
    for name in ("sensitivity", "specificity", "accuracy", "weighted_f1", "auroc"):
        figure = getattr(figures, name)
        assert figure.low < figure.value < figure.high


def test_an_interval_is_that_of_a_plain_bootstrap_over_units() -> None:
    outcomes = some_outcomes()[:300]
    figures = call_metrics(outcomes)
    assert figures is not None
    groups = [[one for one in outcomes if one.unit == unit] for unit in sorted({one.unit for one in outcomes})]
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        taken = [one for number in random.integers(0, len(groups), len(groups)) for one in groups[number]]
        drawn.append(np.mean([one.call for one in taken if one.truth == 1]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (figures.sensitivity.low, figures.sensitivity.high) == pytest.approx((low, high), abs=0.015)


def test_missed_refused_and_false_cells_are_counted_and_not_scored() -> None:
    outcomes = some_outcomes()
    found, (hem, malignant) = detection_metrics(outcomes), counts_by_class(outcomes)
    assert found is not None
    assert (found.labelled, found.found, found.false) == (316, 309, 5)
    assert found.recall.value == pytest.approx(309 / 316)
    assert found.precision.value == pytest.approx(309 / 314)
    assert (hem.refused, hem.missed, malignant.refused, malignant.missed) == (9, 0, 0, 7)
    assert hem.called_hem + hem.called_all + malignant.called_hem + malignant.called_all == 300
    assert detection_metrics(outcomes[-5:]) is None
    assert call_metrics([one for one in outcomes if one.truth == 1]) is None


@given(st.lists(BOXES, max_size=6), st.lists(BOXES, max_size=6))
def test_each_box_is_matched_at_most_once_and_only_where_it_overlaps(labelled: list[Box], found: list[Box]) -> None:
    pairs = match_boxes(labelled, found)
    assert len(set(pairs.values())) == len(pairs)
    overlaps = iou(labelled, found)
    assert all(overlaps[one, other] >= 0.5 for one, other in pairs.items())
    left = [one for one in range(len(labelled)) if one not in pairs]
    free = [other for other in range(len(found)) if other not in pairs.values()]
    assert not any(overlaps[one, other] >= 0.5 for one in left for other in free)


def test_the_better_overlap_wins() -> None:
    assert match_boxes([(0, 0, 10, 10), (2, 0, 12, 10)], [(1, 0, 11, 10), (2, 0, 12, 10)]) == {0: 0, 1: 1}
    assert iou([(0, 0, 10, 10)], [(5, 0, 15, 10)])[0, 0] == pytest.approx(1 / 3)
    assert match_boxes([], [(0, 0, 1, 1)]) == match_boxes([(0, 0, 1, 1)], []) == {}


def test_a_table_names_frames_from_its_own_folder_and_from_those_named(tmp_path: Path) -> None:
    frames = [tmp_path / "data" / name for name in ("a.png", "b.png", "c.png")]
    labels = read_labels(
        table(tmp_path, "a.png,1,2,30,40,ALL", "data/b.png,,,,,", "a.png,50.4,2,80,40,hem"), frames, [tmp_path / "data"]
    )
    assert dict(labels.cells) == {
        frames[0]: (LabelledCell((1, 2, 30, 40), "all"), LabelledCell((50, 2, 80, 40), "hem")),
        frames[1]: (),
    }
    assert labels.unlabelled == (frames[2],)
    assert labels.patients is None


def test_patients_are_taken_where_they_are_named(tmp_path: Path) -> None:
    frames = [tmp_path / "a.png", tmp_path / "b.png"]
    labels = read_labels(table(tmp_path, "a.png,1,2,3,4,all,P1", "b.png,,,,,,P2", head=f"{HEAD},patient"), frames)
    assert labels.patients == {frames[0]: "P1", frames[1]: "P2"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("z.png,1,2,3,4,all", "line 2: 'z.png' is none of the frames"),
        ("a.png,1,2,3,4,blast", "the label is 'blast', it must be one of hem, all"),
        ("a.png,1,2,x,4,all", "must be numbers"),
        ("a.png,1,2,1,4,all", "has no inside"),
        ("a.png,-3,2,1,4,all", "outside of the frame"),
        ("a.png,1,2,nan,4,all", "must be numbers"),
        ("a\0.png,1,2,3,4,all", "is none of the frames"),
        ("a.png,1,2,3,4,all,5", "line 2: 7 values for 6 columns: is there a comma in one of them"),
        ("a.png,,,,,\n\na.png,1,2,3,4,all\na.png,1,2,3,4,hem", "line 5: the same box stands on line 4"),
        ("a.png,10,2,41,20,all", "line 2: the box 10, 2, 41, 20 lies outside of '.*a.png', which has 40 x 30 pixels"),
        ("a.png,10,2,40,31,all", "lies outside of"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, problem: str) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=problem.replace("(", r"\(")):
        read_labels(table(tmp_path, row), [tmp_path / "a.png"])


def test_all_wrong_rows_are_named_at_once_and_of_many_the_first(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    rows = ["a.png,1,2,3,4,blast", "a.png,1,2,30,20,hem", "z.png,,,,,"]
    with pytest.raises(
        DataError, match=r"line 2: the label .*; line 4: 'z.png' is none of the frames .* below the table's own$"
    ):
        read_labels(table(tmp_path, *rows), [tmp_path / "a.png"])
    with pytest.raises(DataError, match=r"line 4: .* and 5 more$") as error:
        read_labels(table(tmp_path, *rows[:1] * 8), [tmp_path / "a.png"])
    assert "line 5" not in str(error.value)


def test_a_table_as_spreadsheets_save_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes('\ufeffPath, X0, Y0, X1, Y1, Label\r\n\r\n"a.png", 1, 2, 40, 30, ALL\r\na.png\r\n'.encode())
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    labels = read_labels(path, [tmp_path / "a.png"])
    assert dict(labels.cells) == {tmp_path / "a.png": (LabelledCell((1, 2, 40, 30), "all"),)}  # to the very edge


def test_a_wrong_table_is_named(tmp_path: Path) -> None:
    frames = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(DataError, match="no column x0, y0, x1, y1, label"):
        read_labels(table(tmp_path, "a.png", head="path"), frames)
    with pytest.raises(DataError, match=r"no column path.* its columns are parted by ';', save it with commas"):
        read_labels(table(tmp_path, "a.png;1;2;3;4;all", head=HEAD.replace(",", ";")), frames)
    (tmp_path / "latin.csv").write_bytes(f"{HEAD}\nF\u00e4rbung.png,1,2,3,4,all\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2: is no UTF-8 text: save the table as 'CSV UTF-8'"):
        read_labels(tmp_path / "latin.csv", frames)
    with pytest.raises(DataError, match="holds no row"):
        read_labels(table(tmp_path), frames)
    with pytest.raises(DataError, match="is of patient 'P1' and of 'P2'"):
        read_labels(table(tmp_path, "a.png,,,,,,P1", "a.png,,,,,,P2", head=f"{HEAD},patient"), frames)
    with pytest.raises(DataError, match="none for"):
        read_labels(table(tmp_path, "a.png,,,,,,P1", "b.png,,,,,,", head=f"{HEAD},patient"), frames)
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "none.csv", frames)
