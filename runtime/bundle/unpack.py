"""Unpacks a zipped bundle into the user's cache, once for each zip. The zip is not trusted."""

from __future__ import annotations

import hashlib
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from blastscope.runtime.bundle.atomic import sibling, write_folder
from blastscope.runtime.bundle.bundle import Bundle, read_folder
from blastscope.runtime.bundle.parse import MANIFEST, MANIFEST_LIMIT, parse_manifest
from blastscope.runtime.errors import BundleError, DigestMismatch
from blastscope.runtime.user_cache import user_cache

GROWTH_LIMIT = 100  # times the zip's size; weights hardly shrink at all, and a bomb grows a thousandfold
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ArithmeticError, ValueError)


def unpack(path: Path, cache_dir: Path | None = None) -> Bundle:
    """The verified bundle in the zip at `path`. Raises `BundleError`."""
    home = cache_dir or user_cache()
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            folder = home / "bundles" / digest
            folder.parent.mkdir(parents=True, exist_ok=True)
            # apart from the lock of `write_folder`: this one also keeps two processes from unpacking the same zip twice
            with FileLock(sibling(folder, "unpack.lock")):
                return _cached(folder, path) or _unpack(stream, folder, path)
    except OSError as error:
        raise BundleError(path, f"can't be unpacked into '{home}': {error}") from error


def _cached(folder: Path, shown: Path) -> Bundle | None:
    try:
        return read_folder(folder, shown=shown) if folder.is_dir() else None
    except BundleError:
        return None  # damaged in the cache: unpacked anew


def _unpack(stream: BinaryIO, folder: Path, shown: Path) -> Bundle:
    size = stream.seek(0, 2)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = _check_members(archive, size, shown)
            write_folder(folder, lambda fresh: _extract(archive, members, fresh, shown))
    except _BROKEN as error:
        raise BundleError(shown, f"is not a zip that can be read: {error}") from error
    return read_folder(folder, shown=shown)


def _check_members(archive: zipfile.ZipFile, size: int, shown: Path) -> list[zipfile.ZipInfo]:
    """The zip's files, which are those of its manifest, once each and in the sizes that it says, before a byte is unpacked."""
    members = [info for info in archive.infolist() if not info.is_dir()]
    for info in members:
        _check_member(info, shown)
    names = [info.filename for info in members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BundleError(shown, f"holds '{twice}' twice")
    if MANIFEST not in names:
        raise BundleError(shown, f"holds no {MANIFEST} at its top, so it is not a bundle")
    if sum(info.file_size for info in members) > GROWTH_LIMIT * size:
        raise BundleError(shown, f"would grow more than {GROWTH_LIMIT}-fold in unpacking")
    _check_against_manifest(archive, members, shown)
    return members


def _check_member(info: zipfile.ZipInfo, shown: Path) -> None:
    name = info.orig_filename
    if name != info.filename or "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        raise BundleError(shown, f"holds {name!r}, a path that could leave the bundle")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BundleError(shown, f"holds '{name}', which is a link or a special file")
    if info.flag_bits & 0x1:
        raise BundleError(shown, f"holds '{name}', which is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(shown, f"holds '{name}' in a compression other than deflate")


def _check_against_manifest(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], shown: Path) -> None:
    sizes = {info.filename: info.file_size for info in members}
    if sizes.pop(MANIFEST) > MANIFEST_LIMIT:
        raise BundleError(shown, f"{MANIFEST} is larger than {MANIFEST_LIMIT} bytes")
    for entry in parse_manifest(archive.read(MANIFEST), shown).files():
        found = sizes.pop(entry.file, None)
        if found is None:
            raise DigestMismatch(shown, entry.file, "is missing")
        if found != entry.size:
            raise DigestMismatch(shown, entry.file, f"is {found} bytes, manifest says {entry.size}")
    if sizes:
        raise BundleError(shown, f"holds '{min(sizes)}', which the manifest doesn't list")


def _extract(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, shown: Path) -> None:
    for info in members:
        target = folder / info.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)  # zipfile stops at the declared size, which was checked above
    read_folder(folder, shown=shown)
