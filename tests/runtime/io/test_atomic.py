"""Files that are written whole or not at all, and what is said where they can't be."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blastscope.runtime.errors import DataError, WriteError
from blastscope.runtime.io.atomic import _is_open_end, check_place, write_content, write_file, write_folder


def test_a_place_is_tried_and_nothing_is_left_there(tmp_path: Path) -> None:
    check_place(tmp_path / "new" / "cells.csv")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "kept.csv").write_text("old")
    check_place(tmp_path / "kept.csv")
    assert (tmp_path / "kept.csv").read_text() == "old"


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"'.*file/cells.csv': can't be written, .*: name another place"):
        check_place(tmp_path / "file" / "cells.csv")
    with pytest.raises(DataError, match="is a folder: name a file"):
        check_place(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "cells.csv"
    os.mkfifo(pipe)
    link = tmp_path / "link.csv"
    link.symlink_to(pipe)
    for place in (pipe, link):
        check_place(place)  # which doesn't wait for a reader
        with ThreadPoolExecutor(1) as reader:
            got = reader.submit(pipe.read_bytes)
            write_content(place, "path,number\n")
            assert got.result() == b"path,number\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.csv", "link.csv"]


@pytest.mark.skipif(not Path(os.devnull).is_char_device(), reason="this system has no such device")
def test_a_device_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "nothing.csv"  # nothing under /dev is ever named to a function that might replace it
    link.symlink_to(os.devnull)
    assert _is_open_end(link)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no such sockets")
def test_a_socket_is_no_place_for_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # its path may be long
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("end")
        with pytest.raises(DataError, match="is neither a file nor a pipe: name another place"):
            check_place(Path("end"))


def test_a_full_disk_leaves_the_old_file_and_names_the_one_that_was_wanted(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it: without a name

    wanted = tmp_path / "cells.csv"
    wanted.write_text("old")
    with pytest.raises(WriteError, match=r"cells.csv': can't be written, no space left on device: make room") as raised:
        write_file(wanted, fill)
    assert (raised.value.path, raised.value.errno, raised.value.filename) == (wanted, errno.ENOSPC, str(wanted))
    assert isinstance(raised.value, OSError)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("cells.csv", "old")]


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_a_folder_that_cannot_be_written_is_replaced_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "c7"
    modes: list[int] = []
    (folder / "fp32").mkdir(parents=True)
    (folder / "fp32" / "old").write_bytes(b"")
    for path in (folder / "fp32", folder):
        path.chmod(0o555)
    delete = shutil.rmtree

    def rmtree(path: Path) -> None:  # root may delete out of any folder
        modes.extend(one.stat().st_mode & 0o700 for one in (path, path / "fp32"))
        delete(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    write_folder(folder, lambda fresh: (fresh / "new").write_bytes(b""))
    assert modes == [0o700, 0o700]
    assert [path.name for path in tmp_path.iterdir()] == ["c7"]
    assert [path.name for path in folder.iterdir()] == ["new"]
