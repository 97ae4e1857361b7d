"""The cache of engines: what it gives out, what it refuses, and that one process builds what two ask for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored_engines import BARE, ENGINE, GPU, MACHINE

from blastscope.runtime.backends.tensorrt.catalog import (
    list_engines,
    pick_engine,
    remove_engine,
    remove_unusable,
)
from blastscope.runtime.backends.tensorrt.engine_store import (
    engine_lock,
    engine_path,
    find_engine,
    known_file,
    obtain_engine,
    read_engine,
    store_engine,
)
from blastscope.runtime.backends.tensorrt.key import EngineKey, engine_key
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.io.own_files import Unusable
from blastscope.runtime.io.temporary_file import temporary_file


def test_what_was_kept_is_found_under_its_key_and_under_no_other(key: EngineKey, here: EngineKey, tmp_path: Path) -> None:
    assert find_engine(tmp_path, here) is None
    path = store_engine(tmp_path, here, ENGINE)
    assert path == engine_path(tmp_path, here)
    assert find_engine(tmp_path, here) == ENGINE
    others = {"graph": "0" * 64, "version": "1.8", "precision": "int8", "models": "a", "platform": "win32-amd64", "layout": 9}
    for field, value in others.items():
        assert find_engine(tmp_path, here.model_copy(update={field: value})) is None, field
    for change in ({"driver": "581"}, {"name": "NVIDIA RTX A5000"}, {"capability": "8.9"}):
        assert find_engine(tmp_path, here.model_copy(update={"gpu": GPU.model_copy(update=change)})) is None
    assert find_engine(tmp_path, key) is None


def test_an_engine_built_ahead_serves_its_gpus_the_named_one_first(key: EngineKey, here: EngineKey, tmp_path: Path) -> None:
    store_engine(tmp_path, key.model_copy(update={"targets": ()}), b"portable")
    assert find_engine(tmp_path, here) == b"portable"
    store_engine(tmp_path, key, b"for sm86 and sm120")
    assert find_engine(tmp_path, here) == b"for sm86 and sm120"
    ada = here.model_copy(update={"gpu": GPU.model_copy(update={"capability": "8.9"})})
    assert find_engine(tmp_path, ada) == b"portable"
    store_engine(tmp_path, here, b"of this very GPU")
    assert find_engine(tmp_path, here) == b"of this very GPU"


SPOILT: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(bytes([(data := path.read_bytes())[0] ^ 1]) + data[1:]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}
FOREIGN: dict[str, Callable[[Path], object]] = {
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize(
    "how", [*SPOILT, *(pytest.param(one, marks=pytest.mark.skipif(os.name == "nt", reason="POSIX modes")) for one in FOREIGN)]
)
@pytest.mark.parametrize("which", ["engine", "sidecar", "known"])
def test_a_spoilt_or_foreign_file_is_never_given_out_and_is_replaced(
    which: str, how: str, here: EngineKey, tmp_path: Path
) -> None:
    path = store_engine(tmp_path, here, ENGINE)
    file = {
        "engine": path,
        "sidecar": path.with_suffix(".json"),
        "known": known_file(path, hashlib.sha256(ENGINE).hexdigest()),
    }[which]
    (SPOILT | FOREIGN)[how](file)
    if which == "known" and how in SPOILT and how != "gone":
        assert find_engine(tmp_path, here) == ENGINE  # its name says all, what stands in it is for people
        return
    assert find_engine(tmp_path, here) is None
    if how == "a folder":
        file.rmdir()  # nothing replaces a folder by a file
    store_engine(tmp_path, here, ENGINE[::-1])
    assert find_engine(tmp_path, here) == ENGINE[::-1]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX owners")
def test_a_file_of_another_user_is_not_given_out(here: EngineKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_engine(tmp_path, here, ENGINE)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert find_engine(tmp_path, here) is None
    with pytest.raises(Unusable, match=f"belongs to user {os.getuid()}, not to user {os.getuid() + 1}"):
        read_engine(path)


@pytest.mark.parametrize(
    ("field", "value"), [("sha256", "0" * 64), ("size", 3), ("format", "blastscope engine 2"), ("colour", "red"), ("key", {})]
)
def test_a_sidecar_that_says_otherwise_is_not_believed(field: str, value: object, here: EngineKey, tmp_path: Path) -> None:
    side = store_engine(tmp_path, here, ENGINE).with_suffix(".json")
    side.write_text(json.dumps({**json.loads(side.read_text()), field: value}))
    assert find_engine(tmp_path, here) is None


def test_a_sidecar_with_another_engines_key_is_not_believed(key: EngineKey, here: EngineKey, tmp_path: Path) -> None:
    path, other = store_engine(tmp_path, here, ENGINE), store_engine(tmp_path, key, b"other")
    path.with_suffix(".json").write_bytes(other.with_suffix(".json").read_bytes())
    with pytest.raises(Unusable, match="name is not that of its key"):
        read_engine(path)


def test_engines_can_be_written_by_their_user_alone_whatever_the_umask(here: EngineKey, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = store_engine(tmp_path, here, ENGINE)
    finally:
        os.umask(before)
    assert find_engine(tmp_path, here) == ENGINE
    if os.name != "nt":
        assert {file.stat().st_mode & 0o777 for file in (path, path.with_suffix(".json"))} == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_writer_left_is_cleared_by_the_next(here: EngineKey, tmp_path: Path) -> None:
    path = engine_path(tmp_path, here)
    path.parent.mkdir(parents=True)
    half = path.with_name(f".{path.name}.0a1b2c3d.new")
    half.write_bytes(ENGINE[:100])
    path.write_bytes(ENGINE)  # and no sidecar: killed between the two
    assert find_engine(tmp_path, here) is None
    store_engine(tmp_path, here, ENGINE)
    assert not half.exists()
    assert find_engine(tmp_path, here) == ENGINE


# ---- building once

TWICE = """
import logging
import sys
from pathlib import Path
from blastscope.runtime.backends.tensorrt.engine_store import obtain_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey
cache, graph, key = sys.argv[1:]
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
print("ready", flush=True)
sys.stdin.readline()
found = obtain_engine(Path(cache), Path(graph), EngineKey.model_validate_json(key))
print("built" if found.built else "found", len(found.data), flush=True)
"""


def test_what_a_killed_builder_left_is_cleared_where_the_engine_is_there(here: EngineKey, tmp_path: Path) -> None:
    path = store_engine(tmp_path, here, ENGINE)
    before = {*path.parent.rglob("*")}
    for name in (f".{path.name}.lock", ".other.engine.lock", f"known/.{'0' * 64}.0.new"):  # killed after its last writing
        (path.parent / name).touch()
    assert obtain_engine(tmp_path, tmp_path / "graph.onnx", here).data == ENGINE
    assert os.name == "nt" or {*path.parent.rglob("*")} == before


def test_of_two_processes_one_builds_and_the_other_waits_for_it(bundle: Bundle, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    entry = bundle.manifest.graphs[1]
    key = engine_key(entry, "tensorrt-rtx", trt.__version__, targets=("sm86",))
    command = [sys.executable, "-c", TWICE, str(tmp_path), str(bundle.file(entry)), key.model_dump_json()]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [one.stdout.readline() for one in both if one.stdout] == ["ready\n", "ready\n"]
    for one in both:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate()[0].splitlines() for one in both]
    assert sorted(lines[-1].split()[0] for lines in said) == ["built", "found"]
    assert len({lines[-1].split()[1] for lines in said}) == 1
    assert [one.returncode for one in both] == [0, 0]


def test_whoever_waits_is_told_so_and_may_give_up(
    bundle: Bundle, here: EngineKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blastscope")
    with engine_lock(engine_path(tmp_path, here), None), pytest.raises(EngineError, match="was cancelled"):
        obtain_engine(tmp_path, bundle.path, here, cancelled=lambda: bool(caplog.records))
    assert caplog.messages == [f"another process is building {here.name}: waiting for it"]


def test_a_cache_that_cannot_be_written_costs_only_the_keeping(
    bundle: Bundle, here: EngineKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.runtime.backends.tensorrt.engine_store.build_engine", lambda *_, **__: ENGINE)
    (tmp_path / "file").write_text("not a folder")
    found = obtain_engine(tmp_path / "file", bundle.path, here)
    assert (found.data, found.built) == (ENGINE, True)
    assert "the engine isn't kept" in (found.note or "")
    assert obtain_engine(tmp_path / "cache", bundle.path, here).note is None
    assert obtain_engine(tmp_path / "cache", bundle.path, here).built is False


def test_any_serving_engine_is_taken_unless_the_very_one_is_asked_for(
    bundle: Bundle, key: EngineKey, here: EngineKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.runtime.backends.tensorrt.engine_store.build_engine", lambda *_, **__: b"of this very GPU")
    ahead = store_engine(tmp_path, key, ENGINE)
    assert obtain_engine(tmp_path, bundle.path, here) == (ENGINE, ahead, False, None, False)
    exact = obtain_engine(tmp_path, bundle.path, here, exact=True)
    assert exact == (b"of this very GPU", engine_path(tmp_path, here), True, None, False)
    assert obtain_engine(tmp_path, bundle.path, here, exact=True).built is False


# ---- the list


def test_the_list_says_of_each_engine_why_it_is_what_it_is(
    bundle: Bundle, key: EngineKey, here: EngineKey, tmp_path: Path
) -> None:
    older = here.model_copy(update={"gpu": GPU.model_copy(update={"driver": "570"})})
    ada = key.model_copy(update={"targets": ("sm89",)})
    gone = here.model_copy(update={"graph": "0" * 64})
    for one in (here, older, ada, gone):
        store_engine(tmp_path, one, ENGINE)
    SPOILT["truncated"](store_engine(tmp_path, key, ENGINE))
    rows = {row.key: (row.state, row.reasons) for row in list_engines(tmp_path, MACHINE, bundle)}
    assert rows[here] == ("ready", ())
    assert rows[older] == ("stale", ("built with driver 570, here is 580.65.06",))
    assert rows[ada] == ("ahead", ("built for sm89, here is NVIDIA RTX A4000 (sm86)",))
    assert rows[gone] == ("stale", (f"its graph 000000000000… is not in bundle '{bundle.path}'",))
    assert rows[key] == ("unusable", ("it is damaged: its bytes are not those that were built",))
    bare = {row.key: row.state for row in list_engines(tmp_path, BARE)}
    assert bare == {here: "stale", older: "stale", ada: "ahead", gone: "stale", key: "unusable"}


def test_an_engine_is_picked_by_name_or_path_and_removed_with_all_of_it(
    key: EngineKey, here: EngineKey, tmp_path: Path
) -> None:
    paths = [store_engine(tmp_path, one, one.digest.encode()) for one in (key, here)]
    rows = list_engines(tmp_path, MACHINE)
    assert pick_engine(rows, here.name).path == pick_engine(rows, str(paths[1])).path == paths[1]
    assert pick_engine(rows, "ensemble-fp32-tensorrt-rtx-here").path == paths[1]
    with pytest.raises(UsageError, match="the beginning of 2 engines"):
        pick_engine(rows, "ensemble")
    for name in ("", "b-int8"):
        with pytest.raises(UsageError, match="'blastscope engines' lists them"):
            pick_engine(rows, name)
    remove_engine(pick_engine(rows, here.name))
    assert [row.key for row in list_engines(tmp_path, MACHINE)] == [key]
    assert len(list((paths[0].parent / "known").iterdir())) == 1
    assert find_engine(tmp_path, here) == key.digest.encode()  # the one built ahead


def test_sweeping_deletes_strays_and_nothing_that_is_being_written(key: EngineKey, here: EngineKey, tmp_path: Path) -> None:
    kept, gone = store_engine(tmp_path, key, ENGINE), store_engine(tmp_path, here, b"gone")
    orphans = [gone.with_suffix(".jit"), known_file(gone, "0" * 64)]
    orphans += [folder / f".{gone.name}.0123.new" for folder in (kept.parent, kept.parent / "known")]
    orphans.append(gone.with_name(f".{gone.name}.lock"))
    others = [kept.with_suffix(".jit"), known_file(kept, "1" * 64)]
    for path in (*orphans, *others):
        path.write_bytes(b"x")
    for path in orphans:
        os.utime(path, (0, 0))
    remove_engine(pick_engine(list_engines(tmp_path, MACHINE), here.name))
    with temporary_file(kept) as written:
        remove_unusable(tmp_path)
        assert written.exists() or os.name == "nt"
    assert [path for path in orphans if path.exists()] == []
    assert [path for path in others if not path.exists()] == []
    assert find_engine(tmp_path, here) == ENGINE
    remove_unusable(tmp_path / "nowhere")
