"""Labelled cells that are like a cell: the same as an oracle finds, by features that are kept for this user alone."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from few_cells import copy_few_cells
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.neighbors import NearestNeighbors

import blastscope
from blastscope.runtime.backends.openvino.features import feature_tensor_name, open_features
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.errors import Closed, DataError, EngineError, UsageError
from blastscope.runtime.evaluation import labelled_cells
from blastscope.runtime.evaluation.labelled_cells import list_labelled_cells
from blastscope.runtime.evaluation.site_cells import _not_asked
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.inference import archive_features, neighbours
from blastscope.runtime.inference.neighbours import ArchiveCell, LabelledArchive
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import Scope
from blastscope.runtime.types import Precision

if TYPE_CHECKING:
    from conftest import TinyBundle


@pytest.fixture(scope="module")
def folder(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_few_cells(cnmc, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def scope(cache: Path) -> Iterator[Scope]:
    with blastscope.open_bundle(precision="fp32", execution="f32", workload="throughput", cache_dir=cache) as opened:
        yield opened


@pytest.fixture(scope="module")
def archive(scope: Scope, folder: Path) -> Iterator[LabelledArchive]:
    with scope.open_archive(folder) as opened:
        yield opened


def opened_at(scope: Scope, place: Path, cache_dir: Path | None) -> LabelledArchive:
    """The archive of a folder, its features kept in another folder than the scope's, or nowhere."""
    return archive_features.open_archive(scope.bundle, list_labelled_cells(place, threads=1), cache_dir=cache_dir, threads=1)


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "archives").glob("*.safetensors"))


def test_a_cell_of_the_archive_is_its_own_nearest(archive: LabelledArchive) -> None:
    for cell in archive.cells[::10]:
        first, second = archive.nearest(cell.image, 2)
        assert first.cell == cell
        assert first.distance < 1e-4 < 0.3 < second.distance


def test_the_nearest_are_those_that_scikit_learn_finds(archive: LabelledArchive) -> None:
    features = archive.features.astype(np.float64)
    oracle = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(features)
    wanted, places = oracle.kneighbors(features[::13])
    for row, far, near in zip(range(0, len(features), 13), wanted, places, strict=True):
        found = archive.nearest(archive.cells[row].image, 6)
        assert [one.cell for one in found] == [archive.cells[place] for place in near]
        assert [one.distance for one in found] == pytest.approx(far / np.sqrt(features.shape[1]), abs=1e-3)


def test_labels_of_other_people_agree_with_calls_more_than_chance(archive: LabelledArchive, scope: Scope) -> None:
    """The nearest among people whom a cell isn't from: they are ALL far more often where it is, or is called, ALL."""
    labelled = np.array([cell.label == "all" for cell in archive.cells])
    people = np.array([cell.person for cell in archive.cells])
    shares = np.empty(len(labelled))
    for row, features in enumerate(archive.features):
        apart = np.where(people == people[row], np.inf, neighbours.distances(archive.features, features))
        shares[row] = labelled[np.argsort(apart)[:5]].mean()
    calls = [call.label for _, call in scope.classify_files([cell.path for cell in archive.cells if cell.path])]
    called = np.array([call is not None for call in calls])
    for malignant, kept in ((labelled, called | True), (np.array([call == "all" for call in calls]), called)):
        own, share = malignant[kept], shares[kept]
        assert share[own].mean() - share[~own].mean() > 0.2  # by chance 0, within 0.1: with all 5,691 cells it is 0.53
        chance = np.where(own, labelled.mean(), 1 - labelled.mean()).mean()
        assert np.where(own, share, 1 - share).mean() > chance + 0.05


def test_features_are_kept_for_this_user_and_not_made_twice(
    scope: Scope, archive: LabelledArchive, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = kept(cache)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert load_file(file)["features"].shape == archive.features.shape
    monkeypatch.setattr(archive_features, "_features_of", lambda *_: pytest.fail("a feature was made anew"))
    with scope.open_archive(folder) as again:
        assert np.array_equal(again.features, archive.features)
        assert again.cells == archive.cells


def test_an_archive_that_grows_is_read_only_where_it_is_new(
    scope: Scope, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "few"
    for label in ("all", "hem"):
        shutil.copytree(folder / label, few / label, ignore=lambda place, names: sorted(names)[5:])
    with scope.open_archive(few) as before:
        assert len(before.cells) == 10
    late = next(file for file in sorted((folder / "hem").iterdir())[5:])
    shutil.copyfile(late, few / "hem" / late.name)
    made: list[str] = []
    original = archive_features._features_of

    def count(network: neighbours.FeatureNetwork, cell: ArchiveCell) -> object:
        made.append(cell.file)
        return original(network, cell)

    monkeypatch.setattr(archive_features, "_features_of", count)
    with scope.open_archive(few) as after:
        assert len(after.cells) == 11
        assert after.nearest(late, 1)[0].cell.file == late.name
    assert made == [late.name]


def spoil(file: Path, kind: str) -> None:
    arrays = load_file(file)
    if kind == "half":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "writable":
        file.chmod(0o666)
    elif kind == "no number":
        arrays["features"][3, 3] = np.nan
        save_file(arrays, file)
    elif kind == "shape":
        arrays["sha256"] = arrays["sha256"][:-1].copy()
        save_file(arrays, file)


@pytest.mark.parametrize("kind", ["half", "writable", "no number", "shape"])
def test_kept_features_that_are_unsound_are_made_anew(kind: str, scope: Scope, folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for label in ("all", "hem"):
        shutil.copytree(folder / label, few / label, ignore=lambda place, names: sorted(names)[2:])
    with opened_at(scope, few, tmp_path / "own") as first:
        features = first.features
    (file,) = kept(tmp_path / "own")
    spoil(file, kind)
    with opened_at(scope, few, tmp_path / "own") as again:
        assert np.abs(again.features - features).max() < 1e-4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert np.isfinite(load_file(file)["features"]).all()


def test_cells_that_cant_be_compared_are_told_and_left_out(scope: Scope, folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for label in ("all", "hem"):
        shutil.copytree(folder / label, few / label, ignore=lambda place, names: sorted(names)[2:])
    black = few / "hem" / "UID_H99_1_1_hem.png"
    Image.new("RGB", (300, 300)).save(black)
    with opened_at(scope, few, None) as opened:
        assert len(opened.cells) == 4
        ((path, reason),) = opened.left_out
        assert path == black
        assert "nothing is brighter" in reason


def test_a_cell_that_changes_while_it_is_read_is_left_out(
    scope: Scope, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "few"
    for label in ("all", "hem"):
        shutil.copytree(folder / label, few / label, ignore=lambda place, names: sorted(names)[2:])
    scanned = scan_dataset(few)
    victim, other = scanned.cells[0].path, scanned.cells[1].path
    shutil.copyfile(other, victim)
    monkeypatch.setattr(labelled_cells, "scan_dataset", lambda _: scanned)
    with opened_at(scope, few, None) as opened:
        assert opened.left_out == ((victim, archive_features.CHANGED),)


def test_what_shows_no_cell_has_no_neighbours(archive: LabelledArchive, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be compared, it is refused: nothing is brighter"):
        archive.nearest(np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(UsageError, match="it is refused: can't be read"):
        archive.nearest(tmp_path / "gone.png")
    for count, problem in ((0, "at least 1 is needed"), (1.5, "it must be a whole number")):
        with pytest.raises(UsageError, match=f"count is {count}: {problem}"):
            archive.nearest(blastscope.synthetic_cell(seed=1), count)  # type: ignore[arg-type]
    assert len(archive.nearest(blastscope.synthetic_cell(seed=1), 10_000)) == len(archive.cells)


def test_a_closed_archive_says_so(scope: Scope, folder: Path) -> None:
    archive = scope.open_archive(folder)
    archive.close()
    archive.close()
    with pytest.raises(Closed):
        archive.nearest(blastscope.synthetic_cell(seed=1))


def test_a_bundle_without_novelty_has_nothing_to_compare_by(tiny_bundle: TinyBundle, folder: Path) -> None:
    made = tiny_bundle.make("fp32")
    with blastscope.open_bundle(made, device="cpu") as scope, pytest.raises(UsageError, match="measures no novelty"):
        scope.open_archive(folder)


def test_a_graph_without_features_is_told(tiny_bundle: TinyBundle) -> None:
    with pytest.raises(EngineError, match="measures no novelty"):
        feature_tensor_name(tiny_bundle.graph(), Path("tiny.onnx"))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graphs_of_other_precisions_give_like_features(precision: Precision, scope: Scope, archive: LabelledArchive) -> None:
    """A bundle may lack the fp32 graph."""
    entry, crop = scope.bundle.graph(precision), scope.bundle.manifest.crop
    assert entry is not None
    engine = open_features(scope.bundle.file(entry), entry.sha256, EngineOptions(workload="throughput", threads=1, crop=crop))
    found = []
    for cell in archive.cells[::30]:
        assert cell.path is not None
        cut = crop_cell(read_image(cell.path), crop)
        assert isinstance(cut, Crop)
        found.append(engine.lanes[0].infer(cut.pixels[None])[0])
    engine.close()
    wanted = archive.features[::30]
    apart = np.sqrt(np.square(np.array(found) - wanted).mean(axis=1))
    between = np.sqrt(np.square(wanted[1:] - wanted[:-1]).mean(axis=1))
    assert apart.max() < 0.5 * between.min()


def test_a_folder_without_cells_is_told(scope: Scope, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no labelled cell can be used .*path,label"):
        scope.open_archive(tmp_path)
    with pytest.raises(DataError, match="no such folder or table"):
        scope.open_archive(tmp_path / "gone")


# ---- where labelled cells may lie


def few_of(folder: Path, count: int) -> list[Path]:
    return [path for label in ("all", "hem") for path in sorted((folder / label).iterdir())[:count]]


def test_a_folder_of_all_and_hem_takes_images_of_any_names(scope: Scope, folder: Path, tmp_path: Path) -> None:
    for number, path in enumerate(few_of(folder, 2)):
        place = tmp_path / path.parent.name / f"cell {number}.webp"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
    shutil.copyfile(path, tmp_path / "hem" / "again.webp")
    shutil.copyfile(path, tmp_path / "loose.webp")
    (tmp_path / "all" / "broken.png").write_bytes(b"no image")
    listing = list_labelled_cells(tmp_path, threads=1)
    assert [(cell.file, cell.label, cell.patient) for cell in listing.cells] == [
        ("cell 0.webp", "all", ""),
        ("cell 1.webp", "all", ""),
        ("again.webp", "hem", ""),
        ("cell 2.webp", "hem", ""),
    ]
    assert {path.name for path, _ in listing.left_out} == {"loose.webp", "broken.png"}
    with opened_at(scope, tmp_path, None) as opened:
        assert neighbours.in_words(opened.nearest(few_of(folder, 1)[0], 4)) == "2 ALL and 2 HEM"


def test_a_table_names_files_labels_and_patients(folder: Path, tmp_path: Path) -> None:
    one, two, three, four = few_of(folder, 2)
    shutil.copyfile(one, tmp_path / "own.webp")
    table = tmp_path / "labels.csv"
    table.write_text(f"File,Label,Patient\nown.webp,ALL,75\n{two},all,\n{three},hem,p 3\n{four},hem,p 4\n", "utf-8")
    cells = list_labelled_cells(table, threads=1).cells
    by_name = two.name.split("_")[1]
    assert [(cell.label, cell.patient) for cell in cells] == [("all", "75"), ("all", by_name), ("hem", "p 3"), ("hem", "p 4")]
    assert cells[0].person == "75"  # a number of the site's own: none of C-NMC's people with several ids
    table.write_text("path,label\nown.webp,all\nown.webp,blast\ngone.webp,hem\n", "utf-8")
    with pytest.raises(DataError, match=r"line 3: the label is 'blast'.*; line 4: there is no file 'gone\.webp'"):
        list_labelled_cells(table, threads=1)
    table.write_text("path;label\nown.webp;all\n", "utf-8")
    with pytest.raises(DataError, match=r"no column path, label .*parted by ';'"):
        list_labelled_cells(table, threads=1)


def test_the_same_bytes_under_both_labels_are_left_out(folder: Path, tmp_path: Path) -> None:
    one, two = few_of(folder, 1)
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\n{one},all\n{one},hem\n{two},hem\n", "utf-8")
    listing = list_labelled_cells(table, threads=1)
    assert [cell.path for cell in listing.cells] == [two]
    assert {reason for _, reason in listing.left_out} == {"the same bytes stand under both labels"}


def test_labels_of_frames_give_their_cells(scope: Scope, shared_data: Path, tmp_path: Path) -> None:
    """The cell that a table of frames names is its own nearest, cut out as `examine` does."""
    frame = tmp_path / "frame.jpg"
    shutil.copyfile(shared_data / "bccd" / "JPEGImages" / "BloodImage_00010.jpg", frame)
    boxes = [cell.box for cell in Examiner(_not_asked, FrameSpecification()).examine(read_image(frame)).cells]  # type: ignore[arg-type]
    rows = "".join(f"frame.jpg,{','.join(map(str, box))},hem,p 1\n" for box in boxes)
    (tmp_path / "labels.csv").write_text(f"path,x0,y0,x1,y1,label,patient\n{rows}", "utf-8")
    with opened_at(scope, tmp_path / "labels.csv", None) as opened:
        assert {cell.box for cell in opened.cells} <= set(boxes)
        cell = opened.cells[0]
        (first,) = opened.nearest(cell.image, 1)
    assert (first.cell.path, first.cell.patient, first.cell.file) == (frame, "p 1", "frame.jpg")
    assert first.distance < 1e-4
    assert first.row()["box"] == list(cell.box or ())
