"""The index of neighbours: what comes back of it, and every rule of its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from blastscope import SHIPPED_BUNDLE
from blastscope.runtime.bundle import Bundle, describe_file, read_bundle, update_bundle
from blastscope.runtime.bundle import neighbour_index as module
from blastscope.runtime.bundle.neighbour_index import INDEX_FILE, NeighbourIndex, index_bytes, index_entry, read_index
from blastscope.runtime.errors import BundleError, DigestMismatch

Arrays = dict[str, NDArray[Any]]


def small_index() -> NeighbourIndex:
    """Four cells of three people, one of them with two ids, and one feature that is 0 everywhere."""
    features = np.random.default_rng(0).normal(size=(4, 288)).astype(np.float32)
    features[:, 7] = 0
    files = ("UID_51_1_1_all.bmp", "UID_75_1_1_all.bmp", "UID_H10_1_1_hem.bmp", "zwölf.png")
    return NeighbourIndex(features, ("all", "all", "hem", "hem"), files, ("51", "75", "H10", "H22"), ("51", "51", "H3", "H22"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, with the small index in the place of its own."""
    place = tmp_path_factory.mktemp("bundle") / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, place)
    write(place, index_bytes(small_index()))
    return place


def write(folder: Path, content: bytes) -> Bundle:
    """Puts an index of four cells into the bundle, as its manifest would list it."""
    bundle = read_bundle(folder)
    graph = bundle.graph("fp32")
    assert graph is not None
    entry = index_entry(small_index(), content, graph.sha256)
    return update_bundle(bundle, bundle.manifest.model_copy(update={"neighbours": entry}), {INDEX_FILE: content})


def test_an_index_comes_back_as_it_was_but_for_rounding(folder: Path) -> None:
    wanted, found = small_index(), read_index(read_bundle(folder))
    assert found is not None
    assert (found.labels, found.files) == (wanted.labels, wanted.files)
    assert (found.patients, found.people) == (wanted.patients, wanted.people)
    half_step = np.abs(wanted.features).max(axis=0) / 127 / 2
    assert (np.abs(found.features - wanted.features) <= half_step * 1.001).all()
    entry = read_bundle(folder).manifest.neighbours
    assert entry is not None
    assert (entry.cells, entry.people, entry.features) == (4, 3, 288)


def test_the_same_index_gives_the_same_bytes() -> None:
    assert index_bytes(small_index()) == index_bytes(small_index())


def test_a_bundle_without_an_index_has_none(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert read_index(Bundle(folder, bundle.manifest.model_copy(update={"neighbours": None}), bundle.digest)) is None


Spoil = Callable[[Arrays], object]
BROKEN: dict[str, tuple[Spoil, str]] = {
    "an array too many": (lambda one: one.update(pictures=np.zeros(4, np.uint8)), "holds .*pictures"),
    "no scales": (lambda one: one.pop("scales"), "holds features"),
    "features of floats": (lambda one: one.update(features=one["features"].astype(np.float32)), "features are float32"),
    "a cell too few": (lambda one: one.update(features=one["features"][:3].copy()), r"manifest says int8 \(4, 288\)"),
    "a feature too few": (lambda one: one.update(features=one["features"][:, :9].copy()), "manifest says int8"),
    "a scale of 0": (lambda one: one["scales"].__setitem__(3, 0), "scales are not numbers above 0"),
    "a scale that is no number": (lambda one: one["scales"].__setitem__(3, np.nan), "scales are not numbers above 0"),
    "a scale without end": (lambda one: one["scales"].__setitem__(3, 3e38), "not finite numbers"),
    "another label": (lambda one: one["labels"].__setitem__(0, 2), "labels are not 0 or 1"),
    "a name too few": (lambda one: one.update(files=one["files"][:19].copy()), "files are 1 texts"),
    "a name without an end": (lambda one: one.update(files=np.append(one["files"], np.uint8(65))), "files are 4 texts"),
    "no UTF-8": (lambda one: one["files"].__setitem__(0, 0xFF), "codec can't decode"),
    "names of another type": (lambda one: one.update(files=one["files"].astype(np.int32)), "files are int32"),
    "another person": (lambda one: one["people"].__setitem__(0, ord("6")), "cells of 4 people, manifest says 3"),
    "a stranger": (lambda one: one["patients"].__setitem__(0, ord("9")), "a cell of patient '91', who isn't in the training"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_index_that_breaks_a_rule_is_refused(kind: str, folder: Path) -> None:
    spoil, why = BROKEN[kind]
    arrays = {name: array.copy() for name, array in load(index_bytes(small_index())).items()}
    spoil(arrays)
    with pytest.raises(BundleError, match=rf"{INDEX_FILE}: .*{why}") as caught:
        read_index(write(folder, save(arrays)))
    assert type(caught.value) is BundleError


def test_what_is_no_safetensors_file_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match=INDEX_FILE):
        read_index(write(folder, b"features"))


def test_an_index_that_is_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(folder, index_bytes(small_index()))
    monkeypatch.setattr(module, "LARGEST_INDEX", 100)
    monkeypatch.setattr(Bundle, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BundleError, match="at most 100 are read"):
        read_index(bundle)


def test_an_index_that_changes_after_opening_is_told(folder: Path) -> None:
    bundle = write(folder, index_bytes(small_index()))
    content = bytearray((folder / INDEX_FILE).read_bytes())
    content[-1] ^= 1
    (folder / INDEX_FILE).write_bytes(content)
    with pytest.raises(DigestMismatch, match=INDEX_FILE):
        read_index(bundle)
    with pytest.raises(DigestMismatch, match=INDEX_FILE):
        read_bundle(folder)


def test_the_shipped_index_is_of_every_person_of_the_training() -> None:
    bundle = read_bundle(SHIPPED_BUNDLE)
    index, entry = read_index(bundle), bundle.manifest.neighbours
    assert index is not None
    assert entry is not None
    assert entry == describe_like(bundle, entry)
    assert set(index.patients) == set(bundle.manifest.training.patients.training)
    assert len(index.files) == 5691
    assert entry.people == 35
    assert entry.size < 2_000_000
    by_patient = dict(zip(index.patients, index.people, strict=True))
    assert by_patient["75"] == by_patient["78"] == by_patient["51"] != by_patient["52"]
    labels = {(patient.startswith("H"), label) for patient, label in zip(index.patients, index.labels, strict=True)}
    assert labels == {(True, "hem"), (False, "all")}


def describe_like(bundle: Bundle, entry: module.NeighboursEntry) -> module.NeighboursEntry:
    """The entry as the file on disk gives it."""
    return entry.model_copy(update=describe_file(bundle.file(entry), INDEX_FILE).model_dump())


def test_an_index_is_whole() -> None:
    index = small_index()
    with pytest.raises(ValueError, match="3 labels for 4 cells"):
        NeighbourIndex(index.features, index.labels[:3], index.files, index.patients, index.people)
    with pytest.raises(ValueError, match="not float32"):
        NeighbourIndex(index.features.astype(np.float64), index.labels, index.files, index.patients, index.people)  # type: ignore[arg-type]
