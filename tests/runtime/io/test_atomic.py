"""Files that are written whole or not at all, and what is said where they can't be."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from blastscope.runtime.errors import DataError, WriteError
from blastscope.runtime.io.atomic import check_place, write_file


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
