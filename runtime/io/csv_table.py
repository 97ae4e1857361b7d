"""Writes a table as CSV, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from blastscope.runtime.io.atomic import write_file


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Puts `rows` below `columns` into the file `path`, in UTF-8; None is an empty field.

    A file's name that is no text tells its bytes as escapes.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    content = text.getvalue().encode("utf-8", "backslashreplace")
    write_file(path, lambda fresh: fresh.write_bytes(content))
