"""`AuditLog`: a line of JSON for each image that was answered, in files that are only appended to, chained by digests.

Each line has a number `seq`, the digest `previous` of the line before, and last its own `hash`: SHA-256 of the line up to
there, so of `previous` too, and through it of all lines before. A line that is changed, missing or put in breaks the chain, and
so does a missing file. Lines that are cut off at the end leave no trace in the rest: note the digest of the last one
elsewhere, for `blastscope audit --head`. A line is handed to the operating system before its answer is sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blastscope.runtime.errors import DataError, WriteError
from blastscope.runtime.io.own_files import exclusive_lock, make_private_folder

FIRST = "0" * 64  # what the first line has for a line before it
NAME = re.compile(r"audit-(\d{8})\.jsonl")
TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
TAIL_BYTES = len(',"hash":""}\n') + 64
APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class AuditState:
    """Where a log stands.

    Attributes
    ----------
    files, lines : int
        How many it has.
    head : str
        The digest of the last line, which stands for all of them.
    torn_bytes : int
        Of a last line that was being written when the server was killed. Its answer was not sent.
    """

    files: int
    lines: int
    head: str
    torn_bytes: int = 0


class AuditLog:
    """The log in a folder, open for appending by this process alone. `close` it, or use it as a context manager.

    Parameters
    ----------
    folder : Path
        Where the files lie, `audit-00000001.jsonl` and so on; made where it is missing.
    rotate_bytes : int
        A file that has grown to this size is followed by the next one.
    sync : bool
        Whether each line is on the disk, and not only with the operating system, before its answer is sent. Costs
        milliseconds an answer.

    Raises
    ------
    DataError
        Another process has it open, or its chain is broken.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int = 64 << 20, sync: bool = False) -> None:
        self.folder, self._rotate_bytes, self._sync = folder, rotate_bytes, sync
        self._writing = threading.Lock()
        with ExitStack() as opened:
            if not folder.is_dir():  # one that is there may be others' too: its files are private all the same
                make_private_folder(folder)
            opened.enter_context(exclusive_lock(folder / ".lock", wait=False))
            state = check_log(folder) if log_files(folder) else AuditState(0, 0, FIRST)
            self._number, self._seq, self._head = max(state.files, 1), state.lines, state.head
            path = folder / f"audit-{self._number:08d}.jsonl"
            self._size = (path.stat().st_size if path.exists() else 0) - state.torn_bytes
            if state.torn_bytes:
                os.truncate(path, self._size)
            self._file = os.open(path, APPENDING, 0o600)
            opened.callback(lambda: os.close(self._file))
            self._opened = opened.pop_all()
        self.append([{"event": "opened", "torn_bytes": state.torn_bytes}])

    @property
    def state(self) -> AuditState:
        """Where the log stands."""
        with self._writing:
            return AuditState(self._number, self._seq, self._head)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes a line for each record. When this returns the operating system has them. Raises `WriteError`."""
        with self._writing:
            seq, head, text = self._seq, self._head, b""
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            for record in records:
                seq += 1
                head, line = _line({"seq": seq, "time": time, **record, "previous": head})
                text += line
            try:
                self._write(text)
            except OSError as error:
                raise WriteError(self.folder, error) from error
            self._seq, self._head = seq, head
            if self._size >= self._rotate_bytes:
                self._rotate()

    def close(self) -> None:
        """Says in the log that it ends here, and closes it."""
        self.append([{"event": "closed"}])
        os.fsync(self._file)
        self._opened.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, text: bytes) -> None:
        left = memoryview(text)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            if self._sync:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)  # nobody gets these answers
            raise
        self._size += len(text)

    def _rotate(self) -> None:
        try:
            fresh = os.open(self.folder / f"audit-{self._number + 1:08d}.jsonl", APPENDING | os.O_EXCL, 0o600)
        except OSError:
            return  # the present file goes on until there is room
        os.fsync(self._file)
        os.close(self._file)
        self._file, self._size, self._number = fresh, 0, self._number + 1


def _line(record: Mapping[str, Any]) -> tuple[str, bytes]:
    body = json.dumps(record, allow_nan=False, separators=(",", ":"), ensure_ascii=True)[:-1].encode()
    digest = hashlib.sha256(body).hexdigest()
    return digest, body + f',"hash":"{digest}"}}\n'.encode()


def log_files(folder: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []


def check_log(folder: Path, *, head: str | None = None) -> AuditState:
    """Reads a log whole, and checks that no line is missing, changed or put in.

    Parameters
    ----------
    folder : Path
        Where its files lie.
    head : str, optional
        The digest of a line that was the last one at an earlier time: it must still be there.

    Raises
    ------
    DataError
        The first place where the chain is broken, by file and line; `head` isn't in it; there is no log.
    """
    files = log_files(folder)
    if not files:
        raise DataError(folder, "no audit log is there: a folder with audit-00000001.jsonl is wanted")
    seq, last, torn, seen = 0, FIRST, 0, head is None
    for number, path in enumerate(files, 1):
        if path.name != f"audit-{number:08d}.jsonl":
            raise DataError(folder, f"audit-{number:08d}.jsonl is missing")
        for place, line in enumerate(_lines(path), 1):
            if not line.endswith(b"\n") and number == len(files):
                torn = len(line)  # can only be the last one
                break
            seq += 1
            last = _checked(path, place, line, (seq, last))
            seen = seen or last == head
    if not seen:
        raise DataError(folder, f"no line has the digest '{head}': lines were cut off, or the log is another one")
    return AuditState(len(files), seq, last, torn)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _checked(path: Path, place: int, line: bytes, expected: tuple[int, str]) -> str:
    """The digest of a line that follows on what is expected: the number, and the digest of the line before."""
    found = TAIL.fullmatch(line[-TAIL_BYTES:])
    body = line[:-TAIL_BYTES]
    if not found or hashlib.sha256(body).hexdigest().encode() != found[1]:
        raise DataError(path, f"line {place} is damaged or was changed")
    try:
        record = json.loads(line)
        stands = record["seq"], record["previous"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"line {place} is no line of an audit log") from error
    if stands != expected:
        raise DataError(path, f"line {place} is number {stands[0]}, not {expected[0]}: lines are missing or were put in")
    return found[1].decode()
