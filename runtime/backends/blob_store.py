"""The cache of compiled CPU engines, by a digest of everything that can change one.

An engine decides what answers. So only this user's own files are read, and each is sealed with the digest that it is kept
under: a sound engine under another one's name is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.atomic import clear_abandoned_files, write_file
from blastscope.runtime.io.cpu_info import cpu_identity
from blastscope.runtime.io.own_files import Unusable, make_private_folder, open_own

LAYOUT = "8"  # of what the backends make of a graph: raise it when they make something else
_DIGEST_BYTES = 32  # bytes of sha256 at an engine file's end
_UNUSED_DAYS = 90


def engine_digest(facts: Mapping[str, str]) -> str:
    """The digest of `facts` and of the machine."""
    machine = {"layout": LAYOUT, "platform": f"{sys.platform} {platform.machine()}", "cpu": cpu_identity()}
    return hashlib.sha256(json.dumps({**machine, **facts}, sort_keys=True).encode()).hexdigest()


def engine_file(cache_dir: Path, digest: str) -> Path:
    """Where the engine of that digest is kept."""
    return cache_dir / "engines" / f"{digest}.engine"


class CachedEngine(NamedTuple):
    """An engine from the cache.

    Attributes
    ----------
    data : (N,) uint8 array
        The engine's bytes, mapped from its file: writing into them doesn't change the file.
    content_sha256 : bytes
        Their SHA-256, 32 bytes.
    """

    data: NDArray[np.uint8]
    content_sha256: bytes


def read_blob(path: Path) -> CachedEngine | None:
    """The engine kept at `path`; None where there is none, where it is damaged or where others could have written it."""
    try:
        with open_own(path) as stream:
            data = np.asarray(np.memmap(stream, np.uint8, "c"))
        os.utime(path)
    except (Unusable, OSError, ValueError):  # ValueError: an empty file
        return None
    body, expected = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:].tobytes()
    digest = _sealing(path)
    digest.update(body.data)
    return CachedEngine(body, expected) if len(data) > _DIGEST_BYTES and digest.digest() == expected else None


def _sealing(path: Path) -> hashlib._Hash:
    return hashlib.sha256(path.stem.encode())


def write_blob(path: Path, *pieces: bytes | memoryview) -> str | None:
    """Keeps `pieces` in a row at `path`, sealed with a digest of the name and of them. Gives the reason where it can't."""

    def fill(fresh: Path) -> None:
        digest = _sealing(path)
        with fresh.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
                digest.update(piece)
            stream.write(digest.digest())

    try:
        make_private_folder(path.parent)
        write_file(path, fill, private=True)
        delete_stale_engines(path.parent)
    except OSError as error:
        return f"'{path.parent}' can't be written ({error.strerror or error})"
    return None


def delete_stale_engines(folder: Path) -> None:
    """Deletes engines that nobody has opened for months: of libraries and bundles that are gone. And killed writers' files."""
    clear_abandoned_files(folder)
    now = time.time()
    ages = {"*.engine": _UNUSED_DAYS, "*.proof": _UNUSED_DAYS, "*.safetensors": _UNUSED_DAYS}
    for path, days in [(path, days) for pattern, days in ages.items() for path in folder.glob(pattern)]:
        try:
            if path.stat().st_mtime < now - days * 86400:
                path.unlink()
        except OSError:
            continue  # another process was faster
