"""Reads a bundle from wherever it lies: a folder, one that is being replaced, or a zip."""

from __future__ import annotations

from pathlib import Path

from blastscope.runtime.bundle.manifest_io import MANIFEST
from blastscope.runtime.bundle.reader import CHANGED, Bundle, read_folder
from blastscope.runtime.bundle.unpack import unpack
from blastscope.runtime.errors import BundleError, DigestMismatch
from blastscope.runtime.io.atomic import moved_aside, recover


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
