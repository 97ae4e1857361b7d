"""A bundle that is to be changed: opened, and found changeable before an hour of work goes into the change."""

from __future__ import annotations

from pathlib import Path

from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.bundle.atomic import check_place, sibling
from blastscope.runtime.errors import BundleError, DataError


def open_to_change(path: Path | str) -> Bundle:
    """The bundle in the folder `path`. Raises `BundleError`, and `DataError` where nothing can be written beside it."""
    if not Path(path).is_dir():
        raise BundleError(path, "not a folder: a zip can't be changed, unpack it and pack it again afterwards")
    opened = read_bundle(path)
    check_beside(Path(path))
    return opened


def check_beside(folder: Path) -> None:
    """Raises `DataError` where the bundle `folder` can't be written: a changed bundle grows beside it, and takes its place."""
    try:
        check_place(sibling(folder.resolve(), "trial"))
    except DataError as error:
        raise DataError(folder, error.problem) from error  # nobody knows the trial
