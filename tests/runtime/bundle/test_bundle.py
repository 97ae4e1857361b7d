"""Reading a bundle: what it gives, and every bundle that it must refuse."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_manifest import FILES, GOLDEN, GRAPH, manifest

from blastscope.runtime import bundle as room
from blastscope.runtime.bundle import opening as unpack
from blastscope.runtime.bundle import pack, read_bundle, write_bundle
from blastscope.runtime.errors import BundleError, DigestMismatch, FormatTooNew
from blastscope.runtime.io.atomic import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "c7", manifest(), FILES).path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def test_a_bundle_gives_its_manifest_its_digest_and_its_files(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.manifest == manifest()
    assert bundle.digest == room.file_sha256(folder / "manifest.json")
    entry = bundle.graph("fp32")
    assert entry is not None
    assert bundle.file(entry).read_bytes() == FILES[GRAPH]
    assert bundle.graph("int8") is None
    assert bundle.graph("fp32", "a") is None


def test_a_bundle_keeps_its_place_when_the_working_folder_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    bundle = read_bundle("c7")
    monkeypatch.chdir("/")
    assert bundle.file(bundle.manifest.golden).read_bytes() == FILES[GOLDEN]


def test_the_public_names_of_the_room_are_pinned() -> None:
    assert room.__all__ == [
        *("FORMAT", "Bundle", "Golden", "Manifest", "describe_file", "file_sha256"),
        *("golden_bytes", "pack", "read_bundle", "read_golden", "read_signed_bundle", "sign_bundle", "signature_path"),
        *("update_bundle", "write_bundle"),
    ]


# ---- folders that were tampered with


def shorten(folder: Path) -> None:
    (folder / GRAPH).write_bytes(FILES[GRAPH][:41])


def flip_a_bit(folder: Path) -> None:
    (folder / GRAPH).write_bytes(bytes([FILES[GRAPH][0] ^ 1]) + FILES[GRAPH][1:])


def link_out(folder: Path) -> None:
    shutil.move(folder / GRAPH, folder.parent / "elsewhere")
    (folder / GRAPH).symlink_to(folder.parent / "elsewhere")


def link_a_folder_out(folder: Path) -> None:
    shutil.move(folder / "fp32", folder.parent / "elsewhere")
    (folder / "fp32").symlink_to(folder.parent / "elsewhere")


def link_the_manifest(folder: Path) -> None:
    shutil.move(folder / "manifest.json", folder.parent / "elsewhere.json")
    (folder / "manifest.json").symlink_to(folder.parent / "elsewhere.json")


def pipe(folder: Path) -> None:
    (folder / GRAPH).unlink()
    os.mkfifo(folder / GRAPH)


def folder_for_file(folder: Path) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()


def write(name: str, text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(data)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, change)


def set_path(path: str) -> Callable[[Path], None]:
    return edit(lambda table: table["golden"].update(file=path))


FOLDER_ATTACKS: dict[str, tuple[Callable[[Path], object], type[BundleError], str]] = {
    "shortened": (shorten, DigestMismatch, r"c7': fp32/ensemble\.onnx is 41 bytes, manifest says 10240$"),
    "one bit flipped": (flip_a_bit, DigestMismatch, r"fp32/ensemble\.onnx has sha256 [0-9a-f]{12}…, manifest says"),
    "a file gone": (lambda folder: (folder / GOLDEN).unlink(), DigestMismatch, "golden.safetensors is missing"),
    "a folder for a file": (folder_for_file, DigestMismatch, "ensemble.onnx is not a plain file"),
    "a pipe": (pipe, DigestMismatch, "is a link or a special file"),
    "a link out": (link_out, DigestMismatch, "is a link or a special file"),
    "a folder linked out": (link_a_folder_out, BundleError, "holds 'fp32', which the manifest doesn't list"),
    "a linked manifest": (link_the_manifest, BundleError, "holds no manifest.json"),
    "a stowaway": (write("notes.txt", "hello"), BundleError, "holds 'notes.txt', which the manifest doesn't list"),
    "a hidden stowaway": (write("fp32/.cache", "x"), BundleError, r"holds 'fp32/\.cache'"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), BundleError, "holds no manifest.json"),
    "not JSON": (write("manifest.json", "{"), BundleError, "manifest.json is not JSON"),
    "not UTF-8": (write("manifest.json", b'"\xff"'), BundleError, "is not JSON"),
    "a list": (write("manifest.json", "[]"), BundleError, "not a JSON object"),
    "nested without end": (write("manifest.json", "[" * 100_000), BundleError, "is not JSON"),
    "an endless number": (write("manifest.json", '{"format": ' + "9" * 5000 + "}"), BundleError, "is not JSON"),
    "a doubled key": (write("manifest.json", '{"format": "1.0", "format": "1.0"}'), BundleError, "'format' stands twice"),
    "not a number": (write("manifest.json", '{"format": NaN}'), BundleError, "NaN is not a JSON number"),
    "infinite": (write("manifest.json", '{"format": -Infinity}'), BundleError, "-Infinity is not a JSON number"),
    "too large": (write("manifest.json", '{"x": 1e999}'), BundleError, "1e999 is too large"),
    "enormous": (write("manifest.json", " " * (8 << 20) + "{}"), BundleError, "is larger than 8388608 bytes"),
    "an unknown key": (edit(lambda table: table.update(colour=1)), BundleError, "manifest.json: colour: "),
    "an unknown inner key": (edit(lambda table: table["crop"].update(colour=1)), BundleError, r"crop\.colour: "),
    "many unknown keys": (edit(lambda table: table.update(dict.fromkeys("vwxyz", 1))), BundleError, "and 2 more"),
    "a string for a number": (edit(lambda table: table["golden"].update(size="210")), BundleError, r"golden\.size: "),
    "a path up": (set_path("../golden.safetensors"), BundleError, r"golden\.file: "),
    "a path up inside": (set_path("fp32/../golden.safetensors"), BundleError, r"golden\.file: "),
    "an absolute path": (set_path("/etc/passwd"), BundleError, r"golden\.file: "),
    "a drive": (set_path("c:/golden"), BundleError, r"golden\.file: "),
    "a backslash": (set_path("fp32\\golden"), BundleError, r"golden\.file: "),
    "a trailing dot": (set_path("golden."), BundleError, r"golden\.file: "),
    "the manifest itself": (set_path("manifest.json"), BundleError, "two entries name the same file"),
    "a file twice": (set_path(GRAPH), BundleError, "two entries name the same file"),
    "a file in a file": (set_path(GRAPH + "/x"), BundleError, "is both a file and a folder"),
    "classes turned round": (edit(lambda table: table["classes"].reverse()), BundleError, "in this order"),
    "another tie": (edit(lambda table: table["vote"].update(tie=["hem", "a", "b", "combined"])), BundleError, "tie"),
    "no fused graph": (edit(lambda table: table["graphs"][0].update(models="a")), BundleError, "no fused graph"),
    "no format": (edit(lambda table: table.pop("format")), BundleError, "names no format such as '1.5'"),
    "a format in words": (edit(lambda table: table.update(format="new")), BundleError, "names no format"),
    "a format in other digits": (edit(lambda table: table.update(format="\u0661.\u0660")), BundleError, "names no format"),
    "an older major format": (edit(lambda table: table.update(format="0.9")), BundleError, "no longer read"),
}


@pytest.mark.parametrize("name", FOLDER_ATTACKS)
def test_a_folder_that_differs_from_its_manifest_is_refused(folder: Path, name: str) -> None:
    attack, error, text = FOLDER_ATTACKS[name]
    attack(folder)
    with pytest.raises(error, match=text) as caught:
        read_bundle(folder)
    assert caught.value.path == folder
    assert type(caught.value) is error


@pytest.mark.parametrize("needed", ["1.6", "2.0", "1.10", "10.0"])
def test_a_newer_format_is_named_before_its_unknown_keys_are_looked_at(folder: Path, needed: str) -> None:
    rewrite(folder, lambda table: table.update(format=needed, invention={"x": 1}))
    with pytest.raises(FormatTooNew, match=f"reads format {needed}$") as caught:
        read_bundle(folder)
    assert (caught.value.needed, caught.value.supported) == (needed, "1.5")


def test_what_is_not_there_or_not_a_bundle_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder or zip"):
        read_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"holds no manifest\.json, so it is not a bundle"):
        read_bundle(tmp_path)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(BundleError, match="is not a zip that can be read"):
        read_bundle(tmp_path / "file", cache_dir=tmp_path / "cache")


def test_a_bundle_may_itself_be_reached_through_a_link(folder: Path) -> None:
    link = folder.parent / "current"
    link.symlink_to(folder)
    assert read_bundle(link).digest == read_bundle(folder).digest


def test_a_file_that_is_changed_after_the_bundle_was_read_is_not_given_out(folder: Path) -> None:
    bundle = read_bundle(folder)
    entry = bundle.manifest.golden
    assert bundle.read(entry) == FILES[GOLDEN]
    for change in (b"x" * len(FILES[GOLDEN]), FILES[GOLDEN] + b"x"):
        (folder / GOLDEN).write_bytes(change)
        with pytest.raises(DigestMismatch, match=r"golden\.safetensors was changed since the bundle was read"):
            bundle.read(entry)
    (folder / GOLDEN).unlink()
    with pytest.raises(DigestMismatch, match="can't be read any more"):
        bundle.read(entry)


# ---- zips


def zipped(folder: Path, change: Callable[[zipfile.ZipFile], None], *, skip: str = "") -> Path:
    """The bundle's zip without `skip`, and what `change` adds."""
    path = folder.parent / "c7.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in ("manifest.json", GRAPH, GOLDEN):
            if file != skip:
                archive.write(folder / file, file)
        change(archive)
    return path


def add(name: str, data: bytes | str = b"x", *, mode: int = 0, method: int = zipfile.ZIP_STORED) -> Any:
    def change(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, data, compress_type=method)

    return change


def doubled(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(GOLDEN, FILES[GOLDEN])


ZIP_ATTACKS: dict[str, tuple[Callable[[zipfile.ZipFile], None], str, str]] = {
    "slip": (add("../evil"), "", r"holds '\.\./evil', a path that could leave"),
    "absolute": (add("/tmp/evil"), "", "a path that could leave"),
    "drive": (add("C:/evil"), "", "a path that could leave"),
    "stowaway": (add("notes.txt"), "", "holds 'notes.txt', which the manifest doesn't list"),
    "doubled": (doubled, "", "holds 'golden.safetensors' twice"),
    "link": (add(GOLDEN, "/etc/passwd", mode=stat.S_IFLNK | 0o777), GOLDEN, "a link or a special file"),
    "missing": (lambda _: None, GOLDEN, "golden.safetensors is missing"),
    "shortened": (add(GOLDEN, b"x" * 41), GOLDEN, "golden.safetensors is 41 bytes, manifest says 210"),
    "changed": (add(GOLDEN, b"x" * 210), GOLDEN, "golden.safetensors has sha256"),
    "bomb": (add(GOLDEN, bytes(50_000_000), method=zipfile.ZIP_DEFLATED), GOLDEN, "grow more than 100-fold"),
    "other compression": (add(GOLDEN, FILES[GOLDEN], method=zipfile.ZIP_LZMA), GOLDEN, "other than deflate"),
    "no manifest": (lambda _: None, "manifest.json", "holds no manifest.json at its top"),
    "one folder down": (add("c7/manifest.json", "{}"), "manifest.json", "holds no manifest.json at its top"),
}


@pytest.mark.parametrize("name", ZIP_ATTACKS)
def test_a_hostile_zip_is_refused_and_leaves_nothing_behind(folder: Path, name: str) -> None:
    change, skip, text = ZIP_ATTACKS[name]
    path = zipped(folder, change, skip=skip)
    cache = folder.parent / "cache"
    with pytest.raises(BundleError, match=text) as caught:
        read_bundle(path, cache_dir=cache)
    assert caught.value.path == path
    assert not [found for found in cache.rglob("*") if found != cache / "bundles"]
    assert not (folder.parent / "evil").exists()


def test_a_name_cut_off_by_a_zero_byte_is_refused(folder: Path) -> None:
    path = zipped(folder, add("golden.safetensorsXevil"))
    path.write_bytes(path.read_bytes().replace(b"safetensorsXevil", b"safetensors\0evil"))
    with pytest.raises(BundleError, match=r"\\x00evil', a path that could leave"):
        read_bundle(path, cache_dir=folder.parent / "cache")


def test_a_name_that_is_empty_or_begins_with_a_zero_byte_is_refused(folder: Path) -> None:
    path = zipped(folder, add("Xevil"))
    path.write_bytes(path.read_bytes().replace(b"Xevil", b"\0evil"))
    with pytest.raises(BundleError, match=r"holds '\\x00evil', a path that could leave"):
        read_bundle(path, cache_dir=folder.parent / "cache")

    def nameless(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("any")
        info.filename = ""
        with archive.open(info, "w") as stream:
            stream.write(b"evil")

    with pytest.raises(BundleError, match="holds a file without a name"):
        read_bundle(zipped(folder, nameless), cache_dir=folder.parent / "cache")


def test_a_zip_that_someone_else_deflated_is_the_same_bundle(folder: Path) -> None:
    path = Path(shutil.make_archive(str(folder.parent / "theirs"), "zip", folder))  # deflated, with entries for folders
    assert "fp32/" in zipfile.ZipFile(path).namelist()
    assert read_bundle(path, cache_dir=folder.parent / "cache").digest == read_bundle(folder).digest


def test_a_damaged_zip_is_a_bundle_error_whichever_byte_is_hit(folder: Path) -> None:
    path = pack(read_bundle(folder), folder.parent / "c7.zip")
    data, digest = path.read_bytes(), read_bundle(folder).digest
    rng = np.random.default_rng(0)
    ends = [*range(30), *range(len(data) - 300, len(data))]  # a header, and the directory at the end
    for place in [*ends[::3], *rng.integers(0, len(data), 20)]:
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with contextlib.suppress(BundleError):  # and no other error
            assert read_bundle(path, cache_dir=folder.parent / "cache").digest == digest  # a byte that means nothing, a date


def test_a_zip_cut_off_anywhere_is_a_bundle_error(folder: Path) -> None:
    path = pack(read_bundle(folder), folder.parent / "c7.zip")
    data = path.read_bytes()
    for length in (0, 1, 30, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(BundleError):
            read_bundle(path, cache_dir=folder.parent / "cache")


def test_a_zip_is_unpacked_once_and_again_when_the_cache_was_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = pack(read_bundle(folder), folder.parent / "c7.zip"), folder.parent / "cache"
    first = read_bundle(path, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(unpack, "write_folder", lambda *_, **__: pytest.fail("unpacked again"))
        assert read_bundle(path, cache_dir=cache) == first
    flip_a_bit(first.path)
    (first.path / "stowaway").write_text("x")
    assert read_bundle(path, cache_dir=cache) == first
    assert (first.path / GRAPH).read_bytes() == FILES[GRAPH]


def test_many_readers_of_one_zip_unpack_it_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = pack(read_bundle(folder), folder.parent / "c7.zip"), folder.parent / "cache"
    unpacked: list[object] = []

    def counted(place: Path, *args: Any, **options: Any) -> None:
        unpacked.append(place)
        write_folder(place, *args, **options)

    monkeypatch.setattr(unpack, "write_folder", counted)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: read_bundle(path, cache_dir=cache), range(6)))
    assert found == [found[0]] * 6
    assert len(unpacked) == 1


def test_a_cache_that_cannot_be_written_is_said_to_be_so(folder: Path) -> None:
    path = pack(read_bundle(folder), folder.parent / "c7.zip")
    (folder.parent / "cache").write_bytes(b"a file, not a folder")
    with pytest.raises(BundleError, match="can't be unpacked into"):
        read_bundle(path, cache_dir=folder.parent / "cache")


def test_a_zip_lands_in_the_users_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "home"))
    path = pack(read_bundle(folder), folder.parent / "c7.zip")
    if os.name == "posix":
        assert read_bundle(path).path == folder.parent / "home/blastscope/bundles" / room.file_sha256(path)
