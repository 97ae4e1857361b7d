"""Writes a table as CSV, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from blastscope.runtime.io.atomic import write_file


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
