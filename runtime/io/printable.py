"""Text of others, such as the names of files, as it can be shown: without what a terminal would obey."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from blastscope.runtime.io.atomic import write_file

# What a terminal obeys instead of showing it, what turns the direction of writing round, and bytes that are no text.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
CONTROL_BUT_LINES = re.compile(f"(?![\\n\\t]){CONTROL.pattern}")


def printable(text: object) -> str:
    """Text in one line that can be shown in any terminal: control characters, and bytes that are no text, become escapes.

    Parameters
    ----------
    text : object
        Is turned into text by `str`; the name of a file, for example.

    Returns
    -------
    str
    """
    return CONTROL.sub(_escaped, str(text))


def for_terminal(text: object) -> str:
    """Text that can be shown in any terminal, as `printable` makes it, but with its line feeds and tabs.

    Parameters
    ----------
    text : object
        Is turned into text by `str`.

    Returns
    -------
    str
    """
    return CONTROL_BUT_LINES.sub(_escaped, str(text))


def without_surrogates(text: object) -> str:
    """Text as it can be written in UTF-8: a byte that is no text becomes an escape with its number.

    Parameters
    ----------
    text : object
        Is turned into text by `str`.

    Returns
    -------
    str
    """
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"  # the latter may stand in JSON, where the former never are


def format_duration(seconds: float) -> str:
    """A time as people say it: '40 s', '3 min', '3.5 h'.

    Parameters
    ----------
    seconds : float
        At least 0.

    Returns
    -------
    str
    """
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table to a CSV file in UTF-8, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; one that stands there is replaced.
    columns : sequence of str
        Names for the first line.
    rows : iterable of sequences
        A value for each column; None gives an empty field. Bytes of a file's name that are no text are written as escapes.

    Raises
    ------
    WriteError
        The file can't be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    content = text.getvalue().encode("utf-8", "backslashreplace")
    write_file(path, lambda fresh: fresh.write_bytes(content))
