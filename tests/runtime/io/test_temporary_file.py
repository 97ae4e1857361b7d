"""Temporary files: one for each writer, and none left of those that were killed."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from blastscope.runtime.io import temporary_file as temporary_file_module
from blastscope.runtime.io.atomic import clear_abandoned_files, write_content, write_file, write_folder
from blastscope.runtime.io.own_files import exclusive_lock
from blastscope.runtime.io.temporary_file import clear_temporary_files, sibling, temporary_file

posix = pytest.mark.skipif(os.name == "nt", reason="locks and signals of POSIX")
WRITER = """
    import sys
    from pathlib import Path
    from blastscope.runtime.io.atomic import write_file

    def fill(path):
        path.write_bytes(b"half of it")
        print("writing", flush=True)
        sys.stdin.read()

    write_file(Path(sys.argv[1]), fill)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill_a_writer(path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()


@posix
def test_what_killed_writers_left_goes_at_the_next_writing(tmp_path: Path) -> None:
    path = tmp_path / "c7.zip"
    for _ in range(3):
        kill_a_writer(path)
    assert names(tmp_path) == [".c7.zip.0.new"]  # each cleared what the one before it had left
    write_content(path, "whole")
    assert names(tmp_path) == ["c7.zip"]


@posix
def test_what_two_killed_writers_left_goes_at_the_next_writing(tmp_path: Path) -> None:
    path = tmp_path / "c7.zip"
    with temporary_file(path):  # a writer that is at it while another is killed
        kill_a_writer(path)
    assert names(tmp_path) == [".c7.zip.1.new"]
    sibling(path, "0.new").write_bytes(b"of the first one")
    write_content(path, "whole")
    assert names(tmp_path) == ["c7.zip"]


@posix
def test_a_cache_is_cleared_of_what_killed_processes_left_under_any_name(tmp_path: Path) -> None:
    kill_a_writer(tmp_path / "features-a")
    kill_a_writer(tmp_path / "choice-a")
    left = (".features-a.0.new", ".features-b.17-0.new", ".features-c.lock", ".choice-a.0.new", ".choice-b.lock")
    for name in left:
        (tmp_path / name).touch()
    with temporary_file(tmp_path / "features-d"), exclusive_lock(tmp_path / ".features-e.lock", wait=True):
        clear_abandoned_files(tmp_path, prefix="features-")
        assert names(tmp_path) == [".choice-a.0.new", ".choice-b.lock", ".features-d.0.new", ".features-e.lock"]
    clear_abandoned_files(tmp_path)
    assert names(tmp_path) == []
    clear_abandoned_files(tmp_path / "nowhere")


@posix
def test_without_locks_what_is_old_was_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(temporary_file_module.fcntl, "flock", none)
    for name, age_s in ((".a.0.new", 7200), (".b.0.new", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    clear_temporary_files(tmp_path)
    assert names(tmp_path) == [".b.0.new"]


def test_writers_at_the_same_time_have_files_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "c7.zip"
    with temporary_file(path) as one, temporary_file(path) as two:
        assert one != two
        one.write_bytes(b"one")
        two.write_bytes(b"two")
        write_content(path, "three")
        assert (one.read_bytes(), two.read_bytes(), path.read_bytes()) == (b"one", b"two", b"three")
    assert names(tmp_path) == ["c7.zip"]


def test_many_writers_never_mix_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "c7.zip"
    contents = [bytes([number]) * 5000 for number in range(8)]

    def work(content: bytes) -> None:
        for _ in range(20):
            write_content(path, content)
            assert path.read_bytes() in contents

    threads = [threading.Thread(target=work, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["c7.zip"]


@posix
def test_a_link_in_a_temporary_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    sibling(tmp_path / "c7.zip", "0.new").symlink_to(tmp_path / "mine")
    write_content(tmp_path / "c7.zip", "whole")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "c7.zip").read_text() == "whole"


@posix
def test_a_private_file_is_private_from_its_first_byte_on(tmp_path: Path) -> None:
    modes: list[int] = []

    def fill(path: Path) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        path.write_bytes(b"x")

    write_file(tmp_path / "mine", fill, private=True)
    modes.append(stat.S_IMODE((tmp_path / "mine").stat().st_mode))
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "\u00e4" * 125 + ".html"])
def test_a_name_as_long_as_can_be_is_written_and_nothing_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert len(os.fsencode(name)) == 255
    for content in ("first", "second"):
        write_content(path, content)
        assert path.read_text(encoding="utf-8") == content
    write_folder(tmp_path / "y" / name, lambda fresh: write_content(fresh / name, "third"))
    assert (tmp_path / "y" / name / name).read_text(encoding="utf-8") == "third"
    assert set(names(tmp_path)) == {name, "y"}
    assert names(tmp_path / "y") == [name]
    assert sibling(path, "new") != sibling(path.with_name(f"{name[:-5]}z.csv"), "new")
