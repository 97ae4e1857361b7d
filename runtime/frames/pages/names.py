"""What frames are called in pictures, pages and the names of files, so that people can tell each from all others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def printable(text: object) -> str:
    """`text` as it can be printed anywhere: the name of a file may hold bytes that are no text."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def names_of(paths: Iterable[Path | None]) -> dict[Path | None, str]:
    """The name of each frame's file; with its folders, below the one that holds all, where two files are called the same."""
    files = [path for path in dict.fromkeys(paths) if path is not None]
    unique = len({path.name.casefold() for path in files}) == len(files)
    root = None if unique else _folder_of(files)
    names: dict[Path | None, str] = {None: "frame"}
    for path in files:
        name = path.name if unique else Path(os.path.relpath(path, root)).as_posix() if root else path.as_posix()
        names[path] = printable(name)
    return names


def title_of(paths: Iterable[Path]) -> str:
    """What a page on all of `paths` is called: the one frame, or the folder that holds all and how many they are."""
    files = list(paths)
    if len(files) == 1:
        return printable(files[0].name)
    root = _folder_of(files)
    return f"{printable(root.name)}: {len(files)} frames" if root and root.name else f"{len(files)} frames"


def _folder_of(files: list[Path]) -> Path | None:
    """The deepest folder that holds all of `files`; None where they lie on several drives."""
    try:
        return Path(os.path.commonpath([path.parent.absolute() for path in files]))
    except ValueError:
        return None
