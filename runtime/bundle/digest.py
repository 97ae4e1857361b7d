"""sha256 in hex: how a file is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from blastscope.runtime.bundle.manifest import FileEntry


def bytes_sha256(data: bytes) -> str:
    """The digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """The digest of the file's bytes, read in pieces: a graph may be larger than the memory that is free."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_file(source: Path | bytes, file: str) -> FileEntry:
    """What a manifest says of `source` when it stands at `file` in the bundle."""
    if isinstance(source, bytes):
        return FileEntry(file=file, sha256=bytes_sha256(source), size=len(source))
    return FileEntry(file=file, sha256=file_sha256(source), size=source.stat().st_size)
