"""The cache of unpacked bundles: checked against the zip, for its user alone, and nothing left of what broke off."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from blastscope.runtime.bundle import pack, read_bundle
from blastscope.runtime.errors import BundleError
from blastscope.runtime.io.own_files import exclusive_lock


def zipped(tiny_bundle: Any, folder: Path, **fields: Any) -> Path:
    return pack(read_bundle(tiny_bundle.make(**fields)), folder / f"{fields.get('name', 'tiny')}.zip")


def test_another_bundle_in_the_cache_does_not_answer_for_the_zip(tiny_bundle: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one, other = (zipped(tiny_bundle, tmp_path, name=name) for name in ("one", "other"))
    first, second = (read_bundle(path, cache_dir=cache) for path in (one, other))
    shutil.rmtree(first.path)
    shutil.copytree(second.path, first.path)  # sound, and not what the zip holds
    again = read_bundle(one, cache_dir=cache)
    assert (again.digest, again.manifest.name) == (first.digest, "one")
    assert read_bundle(again.path).digest == first.digest


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_unpacked_bundles_are_for_their_user_alone(tiny_bundle: Any, tmp_path: Path) -> None:
    bundle = read_bundle(zipped(tiny_bundle, tmp_path), cache_dir=tmp_path / "cache")
    for path in (bundle.path.parent, bundle.path, *bundle.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_leftovers_of_a_killed_unpacking_go_at_the_next_use(tiny_bundle: Any, tmp_path: Path) -> None:
    path, home = zipped(tiny_bundle, tmp_path), tmp_path / "cache" / "bundles"
    first = read_bundle(path, cache_dir=home.parent)
    assert os.listdir(home) == [first.path.name]  # noqa: PTH208
    for digest in ("0" * 64, "1" * 64):
        (home / f".{digest}.unpack.lock").touch()
    (home / f".{'0' * 64}.new").mkdir()
    (home / f".{'0' * 64}.new" / "half").write_bytes(b"half a graph")
    (home / f".{'2' * 64}.lock").touch()
    read_bundle(path, cache_dir=home.parent)
    assert os.listdir(home) == [first.path.name]  # noqa: PTH208


def test_what_a_process_is_unpacking_is_left_alone(tiny_bundle: Any, tmp_path: Path) -> None:
    path, home = zipped(tiny_bundle, tmp_path), tmp_path / "cache" / "bundles"
    (home / f".{'0' * 64}.new").mkdir(parents=True)
    with exclusive_lock(home / f".{'0' * 64}.unpack.lock", wait=True):
        read_bundle(path, cache_dir=home.parent)
        assert (home / f".{'0' * 64}.new").is_dir()
    read_bundle(path, cache_dir=home.parent)
    assert not (home / f".{'0' * 64}.new").exists()


def test_a_zip_that_is_refused_leaves_no_lock_behind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        read_bundle(tmp_path / "none.zip", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
