"""Colours, wording and names in pictures and pages.

The colours suit red-green colour blindness. A frame is shown by the shortest name that tells it from all others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from blastscope.runtime.frames.types import FrameCell
from blastscope.runtime.io.printable import printable
from blastscope.runtime.types import Prediction

Kind = Literal["all", "hem", "refused"]
PAPER, INK, FAINT = "#ffffff", "#1b1f24", "#5b6570"
CAUTION = (
    "For research use, not a medical device. Calls on whole frames are outside what was validated: "
    "the shipped networks were trained on the single cells of C-NMC."
)
VALIDATED = "For research use, not a medical device. Calls on frames were validated by this site, on frames of its own."


class CallStyle(NamedTuple):
    """How a kind of cell is drawn.

    Attributes
    ----------
    name : str
        As pages and pictures write it.
    colour : str
        `#rrggbb`: Okabe and Ito's vermilion and blue, and ink.
    dashed : bool
        Whether its outline is.
    """

    name: str
    colour: str
    dashed: bool


CALL_STYLES: dict[Kind, CallStyle] = {
    "all": CallStyle("ALL", "#d55e00", False),
    "hem": CallStyle("HEM", "#0072b2", False),
    "refused": CallStyle("refused", "#1b1f24", True),
}


def style_of(cell: FrameCell | Prediction) -> Kind:
    """The style of a cell: ALL, HEM or refused."""
    return cell.label or "refused"


def caution(*, validated: bool) -> str:
    """The caution that stands on every picture and page."""
    return VALIDATED if validated else CAUTION


def rgb(colour: str) -> tuple[int, int, int]:
    """The R, G and B of a colour `#rrggbb`."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def words_of(cell: FrameCell | Prediction) -> str:
    """The call with its probability, or the reason why there is none."""
    return cell.refusal.code if cell.refusal else f"{CALL_STYLES[style_of(cell)].name} {cell.probability:.2f}"


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
