"""Finding labelled cells: layouts, names, duplicates, contradictions."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import Dataset, scan_dataset


def write(path: Path, seed: int, suffix: str | None = None) -> Path:
    """A tiny image of its own at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(suffix or path.suffix, pixels)[1].tobytes())
    return path


def flat(root: Path, *, suffix: str = ".bmp") -> Path:
    """Two ALL cells of patient 57, one HEM cell of patient H3."""
    write(root / "all" / f"UID_57_1_1_all{suffix}", 1)
    write(root / "all" / f"UID_57_1_2_all{suffix}", 2)
    write(root / "hem" / f"UID_h3_4_12_hem{suffix}", 3)
    return root


def names(found: Dataset) -> list[str]:
    return [cell.path.relative_to(found.root).as_posix() for cell in found.cells]


def reasons(found: Dataset) -> dict[str, str]:
    return {path.relative_to(found.root).as_posix(): reason for path, reason in found.rejected}


def test_the_real_cells_are_all_found(cnmc: Path) -> None:
    found = scan_dataset(cnmc)
    assert not found.rejected
    assert not found.duplicates
    assert Counter(cell.label for cell in found.cells) == {"all": 4020, "hem": 1671}
    assert len({cell.patient for cell in found.cells if cell.label == "all"}) == 32
    assert len({cell.patient for cell in found.cells if cell.label == "hem"}) == 16
    assert all(cell.patient.startswith("H") == (cell.label == "hem") for cell in found.cells)
    assert names(found) == sorted(names(found))
    assert scan_dataset(cnmc.parent).sha256 == found.sha256


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".BMP", ".Png"])
def test_a_flat_folder_is_found_in_every_format(tmp_path: Path, suffix: str) -> None:
    found = scan_dataset(flat(tmp_path, suffix=suffix))
    assert [(cell.label, cell.patient, cell.image, cell.cell) for cell in found.cells] == [
        ("all", "57", "1", "1"),
        ("all", "57", "1", "2"),
        ("hem", "H3", "4", "12"),
    ]


def test_the_archive_layout_is_found_at_any_depth_in_upper_and_lower_case(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "C-NMC_training_data" / "fold_0" / "all" / "UID_57_1_1_all.bmp", 1)
    write(tmp_path / "deep" / "C-NMC_training_data" / "fold_1" / "HEM" / "uid_H3_1_1_HEM.bmp", 2)
    assert [(cell.label, cell.patient) for cell in scan_dataset(str(tmp_path)).cells] == [("all", "57"), ("hem", "H3")]


def test_lower_case_h3_is_the_same_patient(tmp_path: Path) -> None:
    write(flat(tmp_path) / "hem" / "UID_H3_5_1_hem.bmp", 4)
    assert {cell.patient for cell in scan_dataset(tmp_path).cells} == {"57", "H3"}


def test_byte_identical_duplicates_are_dropped_and_reported(tmp_path: Path) -> None:
    flat(tmp_path)
    copy = tmp_path / "fold_2" / "all" / "UID_99_9_9_all.bmp"
    copy.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "all" / "UID_57_1_2_all.bmp", copy)
    found = scan_dataset(tmp_path)
    assert found.duplicates == ((copy, tmp_path / "all" / "UID_57_1_2_all.bmp"),)
    assert len(found.cells) == 3
    copy.unlink()
    assert scan_dataset(tmp_path).sha256 == found.sha256


def test_the_same_bytes_under_both_labels_are_believed_by_neither(tmp_path: Path) -> None:
    flat(tmp_path)
    shutil.copy(tmp_path / "all" / "UID_57_1_2_all.bmp", tmp_path / "hem" / "UID_H9_1_1_hem.bmp")
    found = scan_dataset(tmp_path)
    assert set(reasons(found)) == {"all/UID_57_1_2_all.bmp", "hem/UID_H9_1_1_hem.bmp"}
    assert len(found.cells) == 2


def test_every_file_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    flat(tmp_path)
    write(tmp_path / "all" / "cell_17.bmp", 10)
    write(tmp_path / "all" / "UID_57_all.bmp", 11)
    write(tmp_path / "all" / "UID_H3_8_8_hem.bmp", 12)
    write(tmp_path / "loose" / "UID_57_8_8_all.bmp", 13)
    (tmp_path / "hem" / "UID_H3_7_1_hem.bmp").write_bytes(b"")
    (tmp_path / "hem" / "UID_H3_7_2_hem.png").write_bytes(b"no image")
    (tmp_path / "hem" / "UID_H3_7_3_hem.png").write_bytes(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    (tmp_path / "hem" / "UID_H3_7_4_hem.bmp").symlink_to(tmp_path / "gone.bmp")
    found = scan_dataset(tmp_path)
    said = reasons(found)
    assert len(found.cells) == 3
    assert "UID_<patient>" in said["all/cell_17.bmp"]
    assert "UID_<patient>" in said["all/UID_57_all.bmp"]
    assert said["all/UID_H3_8_8_hem.bmp"] == "the name says hem, its folder or table all"
    assert "no folder named all or hem" in said["loose/UID_57_8_8_all.bmp"]
    assert "empty" in said["hem/UID_H3_7_1_hem.bmp"]
    assert "undecodable" in said["hem/UID_H3_7_2_hem.png"]
    assert "not-8-bit-rgb" in said["hem/UID_H3_7_3_hem.png"]
    assert "No such file" in said["hem/UID_H3_7_4_hem.bmp"]
    assert len(said) == 8


def test_what_is_no_image_is_passed_over_silently(tmp_path: Path) -> None:
    flat(tmp_path)
    for name in ("Thumbs.db", "notes.txt", "labels.csv", ".DS_Store", "._UID_57_1_1_all.bmp"):
        (tmp_path / "all" / name).write_bytes(b"x")
    write(tmp_path / ".cache" / "all" / "UID_57_3_3_all.bmp", 7)
    (tmp_path / "all" / "UID_57_6_6_all.bmp").mkdir()
    found = scan_dataset(tmp_path)
    assert not found.rejected
    assert len(found.cells) == 3


def test_links_are_followed_once(tmp_path: Path) -> None:
    flat(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "all").symlink_to(tmp_path / "real" / "all")
    (tmp_path / "linked" / "hem").symlink_to(tmp_path / "real" / "hem")
    (tmp_path / "real" / "hem" / "loop").symlink_to(tmp_path / "real")
    assert len(scan_dataset(tmp_path / "linked").cells) == 3
    found = scan_dataset(tmp_path / "real")
    assert (len(found.cells), found.duplicates) == (3, ())


def test_a_patient_with_both_labels_is_named(tmp_path: Path) -> None:
    write(flat(tmp_path) / "hem" / "UID_57_9_9_hem.bmp", 9)
    with pytest.raises(DataError, match="same patient: 57"):
        scan_dataset(tmp_path)


@pytest.mark.parametrize("label", ["all", "hem"])
def test_a_missing_class_is_named(tmp_path: Path, label: str) -> None:
    shutil.rmtree(flat(tmp_path) / label)
    with pytest.raises(DataError, match=f"class {label}"):
        scan_dataset(tmp_path)


def test_a_folder_without_cells_and_a_missing_folder_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cells of class hem and none of class all"):
        scan_dataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        scan_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="not a folder"):
        scan_dataset(write(tmp_path / "a.bmp", 1))


def test_the_digest_knows_content_and_label_but_not_the_place(tmp_path: Path) -> None:
    first = scan_dataset(flat(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "fold_0")
    assert scan_dataset(tmp_path / "two").sha256 == first.sha256
    write(tmp_path / "two" / "fold_0" / "hem" / "UID_H3_4_13_hem.bmp", 8)
    assert scan_dataset(tmp_path / "two").sha256 != first.sha256


def preliminary(root: Path) -> Path:
    """The preliminary test set as the archive ships it, beside the final one, whose files have the same names."""
    write(root / "C-NMC_test_prelim_phase_data" / "1.bmp", 21)
    write(root / "C-NMC_test_prelim_phase_data" / "2.bmp", 22)
    write(root / "C-NMC_test_final_phase_data" / "1.bmp", 23)
    table = "Patient_ID,new_names,labels\nUID_58_29_1_all.bmp,1.bmp,1\nUID_h14_3_2_hem.bmp,2.bmp,0\n"
    (root / "C-NMC_test_prelim_phase_data_labels.csv").write_text(table)
    return root


def test_the_preliminary_test_set_is_labelled_by_its_table(tmp_path: Path) -> None:
    root = preliminary(tmp_path)
    found = scan_dataset(root)
    assert [(cell.label, cell.patient, cell.path.name) for cell in found.cells] == [
        ("all", "58", "1.bmp"),
        ("hem", "H14", "2.bmp"),
    ]
    assert list(reasons(found)) == ["C-NMC_test_final_phase_data/1.bmp"]
    assert scan_dataset(root / "C-NMC_test_prelim_phase_data").sha256 == found.sha256


def test_the_test_set_beside_training_data_is_left_out(tmp_path: Path) -> None:
    flat(preliminary(tmp_path) / "C-NMC_training_data" / "fold_0")
    found = scan_dataset(tmp_path)
    assert {cell.patient for cell in found.cells} == {"57", "H3"}
    assert len(found.rejected) == 3


@pytest.mark.parametrize("suffix", [".png", ".BMP", ".tif"])
def test_the_table_serves_a_test_set_that_was_saved_anew(tmp_path: Path, suffix: str) -> None:
    root = preliminary(tmp_path)
    for path in (root / "C-NMC_test_prelim_phase_data").iterdir():
        path.rename(path.with_name(f"{path.stem}{suffix}"))
    assert [(cell.label, cell.patient) for cell in scan_dataset(root).cells] == [("all", "58"), ("hem", "H14")]


@pytest.mark.parametrize("name", ["ALL", "hem", "all/mine", "Hem/all"])
def test_the_test_set_may_lie_below_a_folder_named_after_a_class(tmp_path: Path, name: str) -> None:
    root = preliminary(tmp_path / name)
    wanted = [("all", "58"), ("hem", "H14")]
    for place in (tmp_path, root, root / "C-NMC_test_prelim_phase_data"):
        assert [(cell.label, cell.patient) for cell in scan_dataset(place).cells] == wanted


def test_files_and_rows_of_the_table_without_each_other_are_told(tmp_path: Path) -> None:
    root = preliminary(tmp_path)
    write(root / "C-NMC_test_prelim_phase_data" / "7.bmp", 27)
    with (root / "C-NMC_test_prelim_phase_data_labels.csv").open("a") as table:
        table.write("UID_58_29_2_all.bmp,3.bmp,1\nUID_58_29_3_all.bmp,4.bmp,1\n")
    found = reasons(scan_dataset(root))
    assert found["."] == "lacks 2 of the 4 files in 'C-NMC_test_prelim_phase_data_labels.csv', the first is '3'"
    assert "'C-NMC_test_prelim_phase_data_labels.csv' has no row for it" in found["C-NMC_test_prelim_phase_data/7.bmp"]


def test_the_table_labels_no_file_of_the_final_test_set(tmp_path: Path) -> None:
    root = preliminary(tmp_path)
    shutil.rmtree(root / "C-NMC_test_prelim_phase_data")
    with pytest.raises(DataError, match=r"lacks 2 of the 2 files in 'C-NMC_test_prelim_phase_data_labels\.csv'"):
        scan_dataset(root)
    with pytest.raises(DataError, match="no cells of class") as caught:
        scan_dataset(root / "C-NMC_test_final_phase_data")
    assert "labels.csv" not in str(caught.value)


@pytest.mark.parametrize("label", ["-1", "2", "", "all"])
def test_a_label_in_the_table_other_than_0_and_1_is_refused(tmp_path: Path, label: str) -> None:
    (preliminary(tmp_path) / "C-NMC_test_prelim_phase_data_labels.csv").write_text(
        f"Patient_ID,new_names,labels\nUID_58_29_1_all.bmp,1.bmp,{label}\n"
    )
    with pytest.raises(DataError, match="0 or 1"):
        scan_dataset(tmp_path)


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    (preliminary(tmp_path) / "C-NMC_test_prelim_phase_data_labels.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="Patient_ID, new_names, labels"):
        scan_dataset(tmp_path)


def test_ids_that_share_bytes_are_one_person_over_other_ids(tmp_path: Path) -> None:
    for number, patient in enumerate((101, 102, 103, 104)):
        write(tmp_path / "all" / f"UID_{patient}_1_1_all.bmp", number)
    write(tmp_path / "hem" / "UID_H90_1_1_hem.bmp", 9)
    # 103 has a cell of 102, and 101 has another one of 103
    shutil.copy(tmp_path / "all" / "UID_102_1_1_all.bmp", tmp_path / "all" / "UID_103_2_1_all.bmp")
    write(tmp_path / "all" / "UID_103_3_1_all.bmp", 33)
    shutil.copy(tmp_path / "all" / "UID_103_3_1_all.bmp", tmp_path / "all" / "UID_101_2_1_all.bmp")
    found = scan_dataset(tmp_path)
    people = {cell.patient: cell.person for cell in found.cells}
    assert people == {"101": "101", "102": "101", "103": "101", "104": "104", "H90": "H90"}


def test_ids_of_one_person_are_joined_without_their_copies(tmp_path: Path) -> None:
    for number, patient in enumerate(("51", "75", "78", "20", "21", "17", "16", "1", "15", "43", "44", "57")):
        write(tmp_path / "all" / f"UID_{patient}_1_1_all.bmp", number)
    for number, patient in enumerate(("H2", "H4", "H5", "h6", "H7", "H3", "H10", "H14", "H24", "H12"), 20):
        write(tmp_path / "hem" / f"UID_{patient}_1_1_hem.bmp", number)
    people: dict[str, set[str]] = {}
    for cell in scan_dataset(tmp_path).cells:
        people.setdefault(cell.person, set()).add(cell.patient)
    assert sorted(map(sorted, people.values())) == [
        ["1", "15", "16", "17", "20", "21"], ["43", "44"], ["51", "75", "78"], ["57"],
        ["H10", "H3"], ["H12"], ["H14", "H24"], ["H2", "H4", "H5", "H6", "H7"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("H7_1_1_hem", "H2_2_1_hem"),
        ("H14_23_5_hem", "H24_30_3_hem"),
        ("43_4_1_all", "44_23_1_all"),
        ("15_25_3_all", "1_7_2_all"),
        ("17_30_2_all", "1_4_1_all"),
        ("17_28_1_all", "20_32_1_all"),
        ("16_38_1_all", "20_15_1_all"),
    ],
)
def test_ids_that_hold_the_same_cell_cut_out_anew_are_one_person(cnmc: Path, one: str, other: str) -> None:
    """The masks of one cell nearly agree, and its fine gray levels correlate, as those of two cells don't."""
    names = [next(cnmc.rglob(f"UID_{name}.webp")) for name in (one, other)]
    images = [cv2.imread(str(name), cv2.IMREAD_COLOR) for name in names]
    boxes = [cv2.boundingRect(image.max(axis=2)) for image in images]
    cells = [
        cv2.resize(image[y : y + h, x : x + w], (40, 40), interpolation=cv2.INTER_AREA)
        for image, (x, y, w, h) in zip(images, boxes, strict=True)
    ]
    masks = [cell.max(axis=2) > 2 for cell in cells]
    assert (masks[0] & masks[1]).sum() > 0.95 * (masks[0] | masks[1]).sum()
    inner = cv2.erode((masks[0] & masks[1]).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    gray = [cv2.cvtColor(cell, cv2.COLOR_BGR2GRAY).astype(np.float32) for cell in cells]
    fine = [(each - cv2.GaussianBlur(each, (0, 0), 3))[inner] for each in gray]
    assert np.corrcoef(fine)[0, 1] > 0.6
    people = {cell.path: cell.person for cell in scan_dataset(cnmc).cells}
    assert people[names[0]] == people[names[1]]


@settings(deadline=None, max_examples=15)
@given(st.sets(st.tuples(st.integers(101, 107), st.integers(101, 107)), max_size=6))
def test_ids_are_one_person_where_a_chain_of_shared_cells_joins_them(shared: set[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for patient in range(101, 108):
            write(root / "all" / f"UID_{patient}_1_1_all.bmp", patient)
        write(root / "hem" / "UID_H90_1_1_hem.bmp", 9)
        for number, (one, other) in enumerate(sorted(shared), 2):
            first = write(root / "all" / f"UID_{one}_{number}_1_all.bmp", 1000 + number)
            shutil.copy(first, root / "all" / f"UID_{other}_{number}_2_all.bmp")
        found = scan_dataset(root)
    _, parts = connected_components(
        csr_array((np.ones(len(shared)), ([a - 101 for a, _ in shared], [b - 101 for _, b in shared])), shape=(7, 7)),
        directed=False,
    )
    people = [found.people[str(patient)] for patient in range(101, 108)]
    assert all((people[i] == people[j]) == (parts[i] == parts[j]) for i in range(7) for j in range(7))
    assert all(cell.person == found.people[cell.patient] for cell in found.cells)


def test_an_id_of_which_only_copies_are_here_keeps_its_person(tmp_path: Path) -> None:
    write(tmp_path / "all" / "UID_101_1_1_all.bmp", 1)
    shutil.copy(tmp_path / "all" / "UID_101_1_1_all.bmp", tmp_path / "all" / "UID_102_1_1_all.bmp")
    write(tmp_path / "hem" / "UID_H90_1_1_hem.bmp", 2)
    found = scan_dataset(tmp_path)
    assert {cell.patient for cell in found.cells} == {"101", "H90"}
    assert found.people_of(["102"]) == {"101"}


def test_the_list_and_shared_bytes_join_over_each_other(tmp_path: Path) -> None:
    write(tmp_path / "all" / "UID_75_1_1_all.bmp", 1)
    shutil.copy(tmp_path / "all" / "UID_75_1_1_all.bmp", tmp_path / "all" / "UID_3_1_1_all.bmp")
    write(tmp_path / "hem" / "UID_H90_1_1_hem.bmp", 2)
    found = scan_dataset(tmp_path)
    # 78 has no cell here, and is 75 by the list
    assert found.people_of(["3", "51", "75", "78"]) == {"3"}


def test_the_same_bytes_under_both_labels_join_nobody(tmp_path: Path) -> None:
    flat(tmp_path)
    write(tmp_path / "all" / "UID_101_1_1_all.bmp", 50)
    shutil.copy(tmp_path / "all" / "UID_101_1_1_all.bmp", tmp_path / "hem" / "UID_H91_1_1_hem.bmp")
    found = scan_dataset(tmp_path)
    assert (found.people["101"], found.people["H91"]) == ("101", "H91")
