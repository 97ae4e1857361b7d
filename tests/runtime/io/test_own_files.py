"""Files of a cache: read where they are this user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from blastscope.runtime.io.own_files import Unusable, make_private_folder, open_own, read_own

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX owners and modes")


def test_ones_own_file_is_read_and_no_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"12345")
    assert read_own(tmp_path / "mine", 2) == b"123"
    with open_own(tmp_path / "mine") as stream:
        assert stream.read() == b"12345"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    (tmp_path / "mine").chmod(mode)
    with pytest.raises(Unusable, match=f"may be written by others \\(mode {mode:o}\\)"):
        read_own(tmp_path / "mine", 9)


def test_links_pipes_folders_and_files_of_others_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    (tmp_path / "link").symlink_to("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "none"):
        with pytest.raises(Unusable):
            read_own(tmp_path / name, 9)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Unusable, match="belongs to user"):
        read_own(tmp_path / "mine", 9)


def test_a_private_folder_is_made_or_made_private(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "new")
    (tmp_path / "old").mkdir(mode=0o777)
    (tmp_path / "old").chmod(0o775)
    make_private_folder(tmp_path / "old")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a/new", "old")] == [0o700, 0o700]
