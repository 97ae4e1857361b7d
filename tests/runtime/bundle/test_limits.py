"""Bundles that would take long to refuse, or would fill the memory: they are refused by what they hold, counted."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from blastscope.runtime.bundle import read_bundle, reader
from blastscope.runtime.bundle.manifest_io import RECORD_LIMIT, VALUE_LIMIT, _no_key_twice, parse_manifest
from blastscope.runtime.bundle.opening import MEMBER_LIMIT
from blastscope.runtime.errors import BundleError

SHOWN = Path("c7")


class Key(str):
    """A key that counts how often keys are compared."""

    compared = 0
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, other)  # type: ignore[arg-type]


def test_a_doubled_key_is_found_without_comparing_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Key, "compared", 0)
    pairs: list[tuple[str, Any]] = [(Key(f"k{number}"), 0) for number in [*range(2000), 1999]]
    with pytest.raises(ValueError, match="'k1999' stands twice"):
        _no_key_twice(pairs)
    assert Key.compared < 5 * len(pairs)


def refused(**keys: Any) -> str:
    with pytest.raises(BundleError) as caught:
        parse_manifest(json.dumps({"format": "1.1", **keys}).encode(), SHOWN)
    return caught.value.problem


def test_more_values_than_a_manifest_has_are_not_looked_at_one_by_one() -> None:
    assert "holds more than 100000 values" in refused(training={"config": {"x": [0] * VALUE_LIMIT}})
    assert "holds more than" in refused(**{f"k{number}": 0 for number in range(VALUE_LIMIT)})
    assert "field required" in refused(training={"config": {"x": [0] * (VALUE_LIMIT - 10)}}, colour=1)


@pytest.mark.parametrize("key", ["graphs", "scores"])
def test_more_records_than_a_bundle_has_are_refused_by_their_number(key: str) -> None:
    assert f"{key}: lists {RECORD_LIMIT + 1} records, at most {RECORD_LIMIT}" in refused(**{key: [{}] * (RECORD_LIMIT + 1)})
    assert "lists" not in refused(**{key: [{}] * RECORD_LIMIT})


@pytest.mark.parametrize("data", [b'{"%s": 1, "%s": 2}', b'{"x": 1%se9999}', b'{"format": "1.1", "%s": 1}'])
def test_what_is_told_of_a_manifest_is_short_however_long_its_words_are(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(data.replace(b"%s", b"1" * 100_000), SHOWN)
    assert len(str(caught.value)) < 5000


def test_folders_in_one_another_without_end_are_refused(tiny_bundle: Any) -> None:
    path = tiny_bundle.make()
    (path / "/".join("a" * 300)).mkdir(parents=True)
    with pytest.raises(BundleError, match=r"holds 'a/a/.*', which the manifest doesn't list"):
        read_bundle(path)


def test_a_file_larger_than_any_graph_is_not_hashed(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_bundle.make()
    monkeypatch.setattr(reader, "FILE_LIMIT", 1000)
    with pytest.raises(BundleError, match=r" is \d+ bytes by the manifest, at most 1000 are read"):
        read_bundle(path)


def test_a_zip_of_too_many_members_is_refused_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(MEMBER_LIMIT + 1):
            archive.writestr(f"{number}", b"")
    with pytest.raises(BundleError, match="holds 257 files and folders, at most 256"):
        read_bundle(path, cache_dir=tmp_path / "cache")


def test_a_zip_with_an_endless_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "endless.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(200):
            archive.writestr(zipfile.ZipInfo(f"{number:03}" + "x" * 6000), b"")
    with pytest.raises(BundleError, match="its directory is larger than 1048576 bytes"):
        read_bundle(path, cache_dir=tmp_path / "cache")
