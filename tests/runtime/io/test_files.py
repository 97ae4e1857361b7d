"""Images are found in folders, and work on many files keeps their order."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.concurrency import AHEAD, ThreadPool, ordered_map
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import SkippedFiles, as_paths, find_images, left_out
from blastscope.runtime.io.slides.slide import find_frames, open_slide
from blastscope.runtime.types import Refusal


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_paths_keep_the_order_given_and_folders_are_sorted_inside(tmp_path: Path) -> None:
    touch(tmp_path, "z/b.PNG", "z/a/x.bmp", "z/a.tif", "z/notes.txt", "z/.hidden.png", "one.png", "odd.xyz")
    found = find_images([tmp_path / "odd.xyz", tmp_path / "z", tmp_path / "one.png", tmp_path / "gone.png"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["odd.xyz", "z/a/x.bmp", "z/a.tif", "z/b.PNG", "one.png", "gone.png"]


def test_a_folder_without_an_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "z/notes.txt")
    with pytest.raises(DataError, match="holds no image"):
        find_images([tmp_path / "z"])


@pytest.mark.parametrize("find", [find_images, find_frames])
def test_what_a_folder_leaves_out_is_told_by_suffix_but_foreign_files(find: Any, tmp_path: Path) -> None:
    taken = ("a.jpg", "b.jfif", "c.JPE", "d.dib")
    foreign = ("notes.txt", "README", ".hidden.avif", "cells.csv", "Thumbs.db", "report.html")
    touch(tmp_path, *taken, *foreign, "one.avif", "deep/two.AVIF", "x.jp2", "long.averylongsuffix")
    passed = SkippedFiles()
    found = find([tmp_path, tmp_path / "x.jp2"], passed=passed)
    assert [path.name for path in found] == [*taken, "x.jp2"]  # a file that is named is always taken
    assert passed.counts == {".avif": 2, ".jp2": 1, "other": 1}
    (told,) = left_out(passed)
    assert told.startswith("left out of the folders, by their suffix: 2 .avif, 1 .jp2, 1 other (name a file itself")
    assert list(left_out(SkippedFiles())) == []


@pytest.mark.parametrize("find", [find_images, find_frames])
def test_a_folder_of_other_files_alone_says_which(find: Any, tmp_path: Path) -> None:
    touch(tmp_path, "one.avif", "notes.txt", *(f"x.q{number}" for number in range(20)))
    with pytest.raises(DataError, match=r"looked for .*; it holds 1 \.avif, 1 \.q\d.*, and others$"):
        find([tmp_path])


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that can't be looked into, beside four cells. Root may look anywhere, so it is pretended."""
    for label in ("all", "hem"):
        for patient in (1, 2):
            path = tmp_path / label / f"UID_{'H' if label == 'hem' else ''}{patient}_1_1_{label}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.full((9, 9, 3), len(label) * patient + len(path.name), np.uint8))
    folder = tmp_path / "all" / "locked"
    folder.mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return folder


@pytest.mark.parametrize("find", [find_images, find_frames])
def test_a_folder_that_cannot_be_looked_into_stands_for_what_it_may_hold(find: Any, locked: Path) -> None:
    found = find([locked.parents[1]])
    assert locked in found
    assert len(found) == 5
    assert find([locked]) == [locked]
    for refusal in (read_image(locked), open_slide(locked)):
        assert isinstance(refusal, Refusal)
        assert "a folder" in refusal.detail


def test_labelled_cells_below_a_folder_that_cannot_be_read_are_told_of(locked: Path) -> None:
    found = scan_dataset(locked.parents[1])
    assert len(found.cells) == 4
    assert found.rejected == ((locked, "can't be read: Permission denied"),)


@pytest.mark.parametrize("one", ["cell.png", Path("cell.png"), b"cell.png"], ids=repr)
def test_a_single_path_is_not_taken_for_a_list_of_its_letters(one: Any) -> None:
    for take in (as_paths, find_images, find_frames):
        with pytest.raises(UsageError, match=r"'cell\.png' is one path where several are asked for: put it into a list"):
            take(one)
    assert list(as_paths(["a", Path("b")])) == [Path("a"), Path("b")]


def test_what_holds_no_paths_is_told(tmp_path: Path) -> None:
    for nothing in (None, 5):
        with pytest.raises(UsageError, match=r"paths must be iterable, not '(NoneType|int)'"):
            as_paths(nothing)  # type: ignore[arg-type]
    for none in (None, 5, b"cell.png"):
        with pytest.raises(UsageError, match="is no path"):
            list(as_paths(["cell.png", none]))  # type: ignore[list-item]
    (tmp_path / "cell.png").touch()
    with os.scandir(os.fsencode(tmp_path)) as entries:  # path-like objects of bytes
        assert list(as_paths(entries)) == [tmp_path / "cell.png"]  # type: ignore[arg-type]


def test_results_come_in_order_however_long_each_takes() -> None:
    done = [threading.Event() for _ in range(100)]

    def work(number: int) -> int:
        assert number % 2 or done[number + 1].wait(60)  # the odd ones are through before the even ones
        done[number].set()
        return number * number

    assert list(ordered_map(work, range(100), workers=4)) == [(number, number * number) for number in range(100)]


def test_no_more_items_are_read_ahead_than_the_workers_may_hold() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    results = ordered_map(lambda number: number, items(), workers=2)
    for given in range(500):
        assert next(results)[0] == given
        assert taken <= given + 2 * AHEAD + 1
    results.close()  # type: ignore[attr-defined]


@pytest.fixture
def futures(monkeypatch: pytest.MonkeyPatch) -> list[Future[Any]]:
    """Those of all jobs that any pool of threads is given."""
    submit, given = ThreadPool.submit, list[Future[Any]]()

    def remember(pool: ThreadPool, *words: Any) -> Future[Any]:
        given.append(submit(pool, *words))
        return given[-1]

    monkeypatch.setattr(ThreadPool, "submit", remember)
    return given


def test_a_result_is_given_before_the_line_is_full(futures: list[Future[Any]]) -> None:
    def items() -> Iterator[int]:
        yield 0
        futures[0].result(60)
        yield 1
        pytest.fail("the first result was there, and a third item was asked for")

    assert next(ordered_map(lambda number: number, items(), workers=2)) == (0, 0)


def test_what_a_worker_raises_is_raised_at_its_turn() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise KeyError(number)
        return number

    results = ordered_map(work, range(10), workers=2)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_leaving_early_drops_what_has_not_begun(futures: list[Future[Any]]) -> None:
    begun: list[int] = []
    gate = threading.Semaphore(1)

    def work(number: int) -> int:
        begun.append(number)
        assert gate.acquire(timeout=60)
        return number

    results = ordered_map(work, range(1000), workers=1)
    next(results)
    futures[-1].add_done_callback(lambda _: gate.release(1000))  # it is dropped last
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 2 < len(futures) <= AHEAD + 1
    assert all(future.done() for future in futures)  # nothing begins any more
