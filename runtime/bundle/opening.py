"""Reads a bundle from a folder, also one that is being replaced, or from a zip."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import BinaryIO, cast

from blastscope.runtime.bundle.manifest import Manifest
from blastscope.runtime.bundle.manifest_io import MANIFEST, MANIFEST_LIMIT, parse_manifest
from blastscope.runtime.bundle.reader import CHANGED, Bundle, read_folder
from blastscope.runtime.errors import BundleError, DataError, DigestMismatch
from blastscope.runtime.io.atomic import clear_abandoned, moved_aside, recover, write_folder
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.own_files import PRIVATE_FILE, PRIVATE_FOLDER, exclusive_lock, make_private_folder
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.io.temporary_file import sibling

GROWTH_LIMIT = 100  # times the zip's size; weights hardly shrink at all, and a bomb grows a thousandfold
MEMBER_LIMIT = 256  # files and folders: a bundle has at most 15 files
_PIECE = 1 << 20  # bytes that are read at a time; a longer directory of members than that is no bundle's
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ArithmeticError, ValueError)
_LOCK = "unpack.lock"  # apart from the lock of `write_folder`: this one keeps two processes from unpacking one zip twice


def read_bundle(path: Path | str, *, cache_dir: Path | None = None) -> Bundle:
    """The bundle in a folder or zip, once the size and digest of each of its files are verified.

    A zip is unpacked once, into the cache, under the digest of its bytes.

    Parameters
    ----------
    path : Path or str
        The bundle's folder, or its zip.
    cache_dir : Path, optional
        Where a zip is unpacked; by default the user's cache.

    Returns
    -------
    Bundle

    Raises
    ------
    DigestMismatch
        A file is missing or changed.
    FormatTooNew
        The bundle is in a later format than this version reads.
    BundleError
        There is no bundle, or it can't be trusted: the class of the two above.

    Examples
    --------
    >>> from blastscope import SHIPPED_BUNDLE
    >>> from blastscope.runtime.bundle import read_bundle
    >>> bundle = read_bundle(SHIPPED_BUNDLE)
    >>> bundle.manifest.classes
    ('hem', 'all')
    >>> bundle.graph("fp32").models
    'ensemble'
    """
    path = Path(path)
    if path.is_file():
        return unpack(path, cache_dir)
    for _ in range(3):
        _recover(path)
        if not path.is_dir():
            if moved_aside(path) or path.is_dir():
                continue  # a writer stood between its two renames
            raise BundleError(path, "no such folder or zip")
        before = _identity(path)
        try:
            return read_folder(path, shown=path)
        except BundleError:
            # a writer may have put the next bundle in this one's place while it was being read
            if _identity(path) == before:
                raise
    raise BundleError(path, "is being changed again and again: try once more when its writer is done")


def check_changeable(path: Path | str) -> None:
    """Checks that a folder with a manifest lies there, before the work that changes the bundle. Nothing of it is verified.

    Parameters
    ----------
    path : Path or str
        The bundle's folder.

    Raises
    ------
    BundleError
        There is none, or a zip.
    """
    path = Path(path)
    if path.is_file():
        raise BundleError(path, "not a folder: a zip can't be changed, unpack it and pack it again afterwards")
    if not (path / MANIFEST).is_file():
        read_bundle(path)  # says why not, or brings back what a broken change moved aside


def verify_again(bundle: Bundle) -> None:
    """Checks that the bundle's folder still holds the same bundle, with every digest.

    Parameters
    ----------
    bundle : Bundle
        As it was read before.

    Raises
    ------
    DigestMismatch
        Another bundle lies there, or a file was changed.
    BundleError
        The bundle is damaged or gone.
    """
    if read_bundle(bundle.path).digest != bundle.digest:
        raise DigestMismatch(bundle.path, MANIFEST, CHANGED)


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when another folder takes the name; with the time, since a freed inode's number is soon used again."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _recover(path: Path) -> None:
    try:
        recover(path)
    except OSError as error:
        raise BundleError(path, f"a broken change of it can't be undone: {error}") from error


def unpack(path: Path, cache_dir: Path | None = None) -> Bundle:
    """The verified bundle in a zip, unpacked into the cache once.

    Parameters
    ----------
    path : Path
        The zip.
    cache_dir : Path, optional
        By default the user's cache.

    Returns
    -------
    Bundle
        Its folder is in the cache.

    Raises
    ------
    BundleError
        The zip can't be read or isn't safe to unpack, or the bundle in it can't be trusted.
    """
    home = (cache_dir or default_cache_dir()) / "bundles"
    try:
        with path.open("rb") as stream, zipfile.ZipFile(cast(BinaryIO, _InPieces(stream))) as archive:
            contents = _Contents(archive, stream.seek(0, 2), path)
            stream.seek(0)
            folder = home / hashlib.file_digest(stream, "sha256").hexdigest()
            make_private_folder(home)
            with exclusive_lock(sibling(folder, _LOCK), wait=True):
                found = _cached(folder, contents) or _unpack(folder, contents)
            clear_abandoned(home, lock=_LOCK)  # of whichever zip
            return found
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        problem = f"can't be unpacked into '{home}', {reason}: name another cache folder, or unpack it where you like"
        raise BundleError(path, problem) from error
    except DataError as error:
        raise BundleError(path, f"can't be unpacked into '{home}': {error}") from error
    except _BROKEN as error:
        raise BundleError(path, f"is not a zip that can be read: {error}") from error


class _InPieces:
    """A file of which at most `_PIECE` bytes are read at a time: Python's reader takes the whole directory at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """The next bytes, all that are left where `size` is negative."""
        data = self._stream.read(size if 0 <= size <= _PIECE else _PIECE + 1)
        if len(data) > _PIECE:
            raise zipfile.BadZipFile(f"its directory is larger than {_PIECE} bytes")
        return data


class _Contents:
    """What a zip holds: the files of its manifest, once each and in the sizes that it says, before a byte is unpacked."""

    def __init__(self, archive: zipfile.ZipFile, size: int, shown: Path) -> None:
        self.archive, self.shown = archive, shown
        entries = archive.infolist()
        if len(entries) > MEMBER_LIMIT:
            raise BundleError(shown, f"holds {len(entries)} files and folders, at most {MEMBER_LIMIT} are unpacked")
        # ZipInfo.is_dir fails at a name that is empty, or begins with a zero byte
        self.members = [info for info in entries if not info.filename.endswith("/")]
        for info in self.members:
            _check_member(info, shown)
        sizes = {info.filename: info.file_size for info in self.members}
        if len(sizes) < len(self.members):
            ((twice, _),) = Counter(info.filename for info in self.members).most_common(1)
            raise BundleError(shown, f"holds '{twice}' twice")
        if MANIFEST not in sizes:
            raise BundleError(shown, f"holds no {MANIFEST} at its top, so it is not a bundle")
        if sum(sizes.values()) > GROWTH_LIMIT * size:
            raise BundleError(shown, f"would grow more than {GROWTH_LIMIT}-fold in unpacking")
        if sizes.pop(MANIFEST) > MANIFEST_LIMIT:
            raise BundleError(shown, f"{MANIFEST} is larger than {MANIFEST_LIMIT} bytes")
        buffer = io.BytesIO()
        with archive.open(MANIFEST) as source:
            shutil.copyfileobj(source, buffer, _PIECE // 4)
        self.digest = bytes_sha256(buffer.getvalue())
        _check_sizes(parse_manifest(buffer.getvalue(), shown), sizes, shown)


def _check_member(info: zipfile.ZipInfo, shown: Path) -> None:
    name = info.orig_filename
    if not name:
        raise BundleError(shown, "holds a file without a name")
    if name != info.filename or "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        raise BundleError(shown, f"holds {name!r}, a path that could leave the bundle")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BundleError(shown, f"holds '{name}', which is a link or a special file")
    if info.flag_bits & 0x1:
        raise BundleError(shown, f"holds '{name}', which is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(shown, f"holds '{name}' in a compression other than deflate")


def _check_sizes(manifest: Manifest, sizes: dict[str, int], shown: Path) -> None:
    for entry in manifest.files():
        found = sizes.pop(entry.file, None)
        if found is None:
            raise DigestMismatch(shown, entry.file, "is missing")
        if found != entry.size:
            raise DigestMismatch(shown, entry.file, f"is {found} bytes, manifest says {entry.size}")
    if sizes:
        raise BundleError(shown, f"holds '{min(sizes)}', which the manifest doesn't list")


def _cached(folder: Path, contents: _Contents) -> Bundle | None:
    """The bundle that was unpacked before; None where it is damaged, or another than that of the zip."""
    try:
        found = read_folder(folder, shown=contents.shown) if folder.is_dir() else None
    except BundleError:
        return None
    return found if found and found.digest == contents.digest else None


def _unpack(folder: Path, contents: _Contents) -> Bundle:
    write_folder(folder, lambda fresh: _extract(contents, fresh), private=True)
    found = read_folder(folder, shown=contents.shown)
    if found.digest != contents.digest:
        raise DigestMismatch(contents.shown, MANIFEST, CHANGED)
    return found


def _extract(contents: _Contents, folder: Path) -> None:
    for info in contents.members:
        target = folder
        for step in info.filename.split("/")[:-1]:
            target /= step
            target.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
        with contents.archive.open(info) as source, open(folder / info.filename, "xb", opener=_private) as sink:
            shutil.copyfileobj(source, sink, _PIECE // 4)  # zipfile stops at the declared size, which was checked above
    read_folder(folder, shown=contents.shown)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)
