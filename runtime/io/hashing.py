"""sha256 in hex: how a file is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def bytes_sha256(data: bytes) -> str:
    """The SHA-256 of bytes, as 64 digits in hex.

    Parameters
    ----------
    data : bytes
        Any bytes.

    Returns
    -------
    str
    """
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file, as 64 digits in hex. The file is read in pieces, since it may be larger than the free memory.

    Parameters
    ----------
    path : Path or str
        The file.

    Returns
    -------
    str

    Raises
    ------
    OSError
        The file can't be read.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
