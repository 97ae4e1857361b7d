"""Writing bundles: what was written is what is read, whatever interrupts the writing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blastscope.runtime.bundle import Bundle, Manifest, describe_file, pack, read_bundle, update_bundle, write_bundle
from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.errors import BlastscopeError, BundleError, DataError, DigestMismatch, UsageError, WriteError
from blastscope.runtime.io.atomic import write_folder

Files = dict[str, bytes]
GOLDEN = "golden.safetensors"


def manifest_of(files: Files, *, name: str = "c7", config: dict[str, Any] | None = None) -> Manifest:
    """A manifest that lists `files`: the golden file, and each other as a graph of its own kind."""
    kinds = [(models, precision) for precision in ("fp32", "fp16") for models in ("ensemble", "a", "b", "combined")]
    graphs = [
        {**describe_file(files[file], file).model_dump(), "models": models, "precision": precision, "tolerances": {"f32": 1e-4}}
        for file, (models, precision) in zip(sorted(files.keys() - {GOLDEN}), kinds, strict=False)
    ]
    return Manifest.model_validate(
        {
            **{
                "name": name,
                "created": "2026-11-23T01:00:00Z",
                "backbone": "lite0",
                "crop": CropSpecification(),
                "graphs": graphs,
            },
            "golden": {**describe_file(files[GOLDEN], GOLDEN).model_dump(), "count": 1, "source": "drawn"},
            "training": {
                **{"data_sha256": None, "split": "none", "seed": 0, "config": config or {}, "versions": {}},
                "patients": {"training": [], "validation": []},
            },
        }
    )


def small(text: str) -> Files:
    return {"fp32/ensemble.onnx": f"graph {text}".encode() * 99, GOLDEN: f"golden {text}".encode()}


def write(folder: Path, text: str) -> Bundle:
    return write_bundle(folder, manifest_of(small(text), name=text), small(text))


def contents(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir() if path.suffix != ".zip")


graph_names = st.from_regex(r"\A[a-z0-9]{1,3}(/[a-z0-9][a-z0-9_]{0,2}){1,2}\.onnx\Z")
files_of_a_bundle = st.dictionaries(graph_names, st.binary(max_size=64), min_size=1, max_size=5).flatmap(
    lambda graphs: st.binary(max_size=32).map(lambda golden: {**graphs, GOLDEN: golden})
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
configs = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
laws = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@laws
@given(files_of_a_bundle, configs)
def test_pack_then_open_gives_the_same_bundle(tmp_path: Path, files: Files, config: dict[str, Any]) -> None:
    manifest = manifest_of(files, config=config)
    written = write_bundle(tmp_path / "c7", manifest, files)
    again = read_bundle(pack(written, tmp_path / "c7.zip"), cache_dir=tmp_path / "cache")
    assert (again.manifest, again.digest) == (written.manifest, written.digest) == (manifest, read_bundle(written.path).digest)
    assert contents(again.path) == contents(written.path)
    assert {**files, "manifest.json": manifest.json_bytes()} == contents(written.path)
    assert beside(written.path) == ["c7", "cache"]


@settings(deadline=None, max_examples=50)
@given(files_of_a_bundle, configs)
def test_a_manifest_is_the_same_after_a_round_trip(files: Files, config: dict[str, Any]) -> None:
    manifest = manifest_of(files, config=config)
    again = Manifest.model_validate_json(manifest.json_bytes(), strict=True)
    assert again == manifest
    assert again.json_bytes() == manifest.json_bytes()


def test_equal_bundles_give_equal_zips_and_unequal_ones_do_not(tmp_path: Path) -> None:
    zips = [pack(write(tmp_path / name, text), tmp_path / f"{name}.zip") for name, text in [("x", "1"), ("y", "1"), ("z", "2")]]
    os.utime(tmp_path / "x" / GOLDEN, (0, 0))
    zips.append(pack(read_bundle(tmp_path / "x"), tmp_path / "again.zip"))
    one, two, three, again = (path.read_bytes() for path in zips)
    assert one == two == again
    assert one != three
    with zipfile.ZipFile(zips[0]) as archive:
        assert archive.namelist() == ["manifest.json", "fp32/ensemble.onnx", GOLDEN]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_bundle_that_changed_since_it_was_read_is_not_packed(tmp_path: Path) -> None:
    bundle = write(tmp_path / "c7", "1")
    bundle.file(bundle.manifest.golden).write_bytes(b"golden 2")
    with pytest.raises(DigestMismatch, match="was changed since the bundle was read"):
        pack(bundle, tmp_path / "c7.zip")
    write(tmp_path / "c7", "3")
    with pytest.raises(DigestMismatch, match=r"manifest\.json was changed"):
        pack(bundle, tmp_path / "c7.zip")
    assert beside(bundle.path) == ["c7"]


def test_a_bundle_replaces_a_bundle_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    first = write(tmp_path / "c7", "1")
    second = write(tmp_path / "c7", "2")
    assert first.digest != second.digest
    assert contents(tmp_path / "c7").keys() == {*small("2"), "manifest.json"}
    assert beside(first.path) == ["c7"]


def test_graphs_come_and_go_with_the_manifest(tmp_path: Path) -> None:
    first = write(tmp_path / "c7", "1")
    files = {**small("1"), "int8/ensemble.onnx": b"int8"}
    second = update_bundle(first, manifest_of(files), {"int8/ensemble.onnx": b"int8"})
    assert contents(second.path) == {**files, "manifest.json": manifest_of(files).json_bytes()}
    third = update_bundle(second, first.manifest, {})
    assert third.digest == first.digest
    assert contents(third.path).keys() == {*small("1"), "manifest.json"}
    (tmp_path / "new").write_bytes(b"golden 5")
    fourth = update_bundle(third, manifest_of({**small("1"), GOLDEN: b"golden 5"}), {GOLDEN: tmp_path / "new"})
    assert contents(fourth.path)[GOLDEN] == b"golden 5"


def test_files_and_manifest_must_name_the_same(tmp_path: Path) -> None:
    files = small("1")
    with pytest.raises(UsageError, match=r"differ in extra\.onnx"):
        write_bundle(tmp_path / "c7", manifest_of(files), {**files, "extra.onnx": b""})
    with pytest.raises(UsageError, match=r"differ in golden\.safetensors"):
        write_bundle(tmp_path / "c7", manifest_of(files), {"fp32/ensemble.onnx": b""})
    with pytest.raises(DigestMismatch, match=r"golden\.safetensors is 2 bytes, manifest says 8"):
        write_bundle(tmp_path / "c7", manifest_of(files), {**files, GOLDEN: b"no"})
    assert beside(tmp_path / "c7") == []


def test_a_manifest_that_was_changed_past_its_checks_is_not_written(tmp_path: Path) -> None:
    write(tmp_path / "c7", "1")
    unchecked = manifest_of(small("2")).model_copy(update={"classes": ("all", "hem")})
    with pytest.raises(BundleError, match="in this order"):
        write_bundle(tmp_path / "c7", unchecked, small("2"))
    assert read_bundle(tmp_path / "c7").manifest.name == "1"


@pytest.mark.parametrize("inside", ["photo.png", "manifest.json"])
def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, inside: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / inside).write_text("{}")
    with pytest.raises(UsageError, match="is not empty and not a bundle"):
        write(tmp_path / "photos", "1")
    assert contents(tmp_path / "photos") == {inside: b"{}"}


def test_a_bundle_that_someone_put_notes_into_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "c7", "1")
    (tmp_path / "c7" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 'notes\.txt'"):
        write(tmp_path / "c7", "2")
    assert (tmp_path / "c7" / "notes.txt").read_text() == "mine"


def test_an_empty_folder_or_a_damaged_bundle_is_replaced_but_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "file", "1")
    (tmp_path / "c7").mkdir()
    bundle = write(tmp_path / "c7", "1")
    bundle.file(bundle.manifest.golden).unlink()
    assert write(tmp_path / "c7", "2").manifest.name == "2"


def test_a_link_to_a_bundle_still_points_at_it_after_a_change(tmp_path: Path) -> None:
    write(tmp_path / "c7", "1")
    (tmp_path / "current").symlink_to("c7")
    write(tmp_path / "current", "2")
    assert (tmp_path / "current").is_symlink()
    assert read_bundle(tmp_path / "c7").manifest.name == "2"


def test_a_full_disk_is_told_with_the_place_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(tmp_path / "c7", "old")
    pack(bundle, tmp_path / "c7.zip")
    before = (contents(tmp_path / "c7"), (tmp_path / "c7.zip").read_bytes())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for work, place in (
            (lambda: write(tmp_path / "c7", "new"), "c7"),
            (lambda: pack(bundle, tmp_path / "c7.zip"), "c7.zip"),
        ):
            with pytest.raises(WriteError, match="can't be written, no space left on device: make room") as caught:
                work()
            assert (caught.value.path, caught.value.errno) == (tmp_path / place, errno.ENOSPC)
    assert (contents(tmp_path / "c7"), (tmp_path / "c7.zip").read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c7", "c7.zip"]


def test_a_missing_source_is_not_called_an_unwritable_place(tmp_path: Path) -> None:
    files: dict[str, Path | bytes] = {**small("1"), GOLDEN: tmp_path / "none"}
    with pytest.raises(DataError, match=r"none': can't be read, no such file") as caught:
        write_bundle(tmp_path / "c7", manifest_of(small("1")), files)
    assert not isinstance(caught.value, WriteError)


# ---- interruptions

STEPS = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")


class Interrupted(BaseException):
    """Not an Exception, so that no handler takes it for an everyday failure."""


@contextmanager
def breaking_at(step: int, monkeypatch: pytest.MonkeyPatch, *, for_good: bool) -> Iterator[list[int]]:
    """Raises at the `step`th of the calls that change the disk; `for_good`: and at every later one, as a dead process would."""
    count = [0]

    def broken(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == step or (for_good and count[0] > step):
                raise Interrupted
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, broken(getattr(os, name)))
        yield count


@pytest.mark.parametrize("for_good", [False, True], ids=["an exception", "a death"])
def test_a_write_broken_off_at_any_step_leaves_the_old_or_the_new_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_good: bool
) -> None:
    outcomes = []
    for step in range(1, 100):
        folder = tmp_path / str(step) / "c7"
        write(folder, "old")
        with breaking_at(step, monkeypatch, for_good=for_good) as count, suppress(Interrupted):
            write(folder, "new")
        if count[0] < step:
            break
        found = read_bundle(folder).manifest.name
        outcomes.append(found)
        assert contents(folder) == {**small(found), "manifest.json": manifest_of(small(found), name=found).json_bytes()}
        assert write(folder, "next").manifest.name == "next"
        assert beside(folder) == ["c7"]
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes, reverse=True)  # old, old, ... new, new: it turns once
    assert set(outcomes) == {"old", "new"}


def test_a_first_write_broken_off_at_any_step_leaves_nothing_or_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 100):
        folder = tmp_path / str(step) / "c7"
        with breaking_at(step, monkeypatch, for_good=True) as count, suppress(Interrupted):
            write(folder, "new")
        if count[0] < step:
            break
        if folder.exists():
            assert read_bundle(folder).manifest.name == "new"
        else:
            with pytest.raises(BundleError, match="no such folder or zip"):
                read_bundle(folder)
        assert write(folder, "next").manifest.name == "next"
        assert beside(folder) == ["c7"]
    assert step > 10


def test_a_zip_broken_off_at_any_step_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = write(tmp_path / "old", "old"), write(tmp_path / "new", "new")
    wanted = {pack(bundle, tmp_path / "wanted.zip").read_bytes() for bundle in (old, new)}
    for step in range(1, 100):
        path = pack(old, tmp_path / str(step) / "c7.zip")
        with breaking_at(step, monkeypatch, for_good=False) as count, suppress(Interrupted):
            pack(new, path)
        if count[0] < step:
            break
        assert path.read_bytes() in wanted
        assert os.listdir(path.parent) == ["c7.zip"]  # noqa: PTH208
    assert step > 3


WRITER = """
    import sys
    from pathlib import Path
    from blastscope.runtime.bundle import read_bundle, write_bundle

    target, *sources = map(Path, sys.argv[1:])
    bundles = [read_bundle(source) for source in sources]
    print("ready", flush=True)
    while True:
        for bundle in bundles:
            files = {entry.file: bundle.file(entry) for entry in bundle.manifest.files()}
            write_bundle(target, bundle.manifest, files)
"""


@contextmanager
def writing(target: Path, *sources: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes the sources' bundles to `target`, one after the other, until it is killed."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(target), *map(str, sources)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_writer_killed_at_any_moment_leaves_a_whole_bundle(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, name)
    target = tmp_path / "there" / "c7"
    write(target, "one")
    for turn in range(4):
        with writing(target, tmp_path / "two", tmp_path / "one") as process:
            threading.Event().wait(0.01 + 0.019 * turn)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert read_bundle(target).manifest.name in ("one", "two")
    assert write(target, "three").manifest.name == "three"
    assert beside(target) == ["c7"]


def test_writers_wait_for_each_other_though_the_lock_is_deleted_after_each(tmp_path: Path) -> None:
    at_it: list[int] = []
    most: list[int] = []

    def fill(fresh: Path) -> None:
        at_it.append(1)
        (fresh / "file").write_text("whole")
        threading.Event().wait(0.005)
        most.append(len(at_it))
        at_it.pop()

    def work() -> None:
        for _ in range(5):
            write_folder(tmp_path / "c7", fill)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert [path.name for path in tmp_path.iterdir()] == ["c7"]


def test_a_reader_beside_a_writer_sees_a_whole_bundle_or_says_it_changes(tmp_path: Path) -> None:
    digests = {write(tmp_path / name, name).digest for name in ("one", "two")}
    target = tmp_path / "there" / "c7"
    write(target, "one")
    seen = []
    with writing(target, tmp_path / "two", tmp_path / "one"):
        for _ in range(60):
            try:
                seen.append(read_bundle(target).digest)
            except BlastscopeError as error:
                assert "is being changed again and again" in str(error)  # noqa: PT017
    assert set(seen) <= digests
    assert len(seen) > 30
