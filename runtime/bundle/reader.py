"""Reads a bundle's folder: no `Bundle` exists whose files differ from its manifest."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blastscope.runtime.bundle.manifest import FileEntry, GraphEntry, GraphModels, Manifest
from blastscope.runtime.bundle.manifest_io import MANIFEST, parse_manifest, read_manifest_bytes
from blastscope.runtime.errors import BundleError, DigestMismatch
from blastscope.runtime.io.concurrency import ThreadPool
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.own_files import open_plain
from blastscope.runtime.types import Precision

CHANGED = "was changed since the bundle was read: open it anew"
FILE_LIMIT = 2**31 - 1  # bytes: what one protobuf message can have
_NOT_PLAIN = (errno.EINVAL, errno.ELOOP)
_DEPTH = 100  # folders in one another: a path has 200 letters
_LARGE = 64 * 2**20  # bytes: a twentieth of a second of hashing


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were, when it was read, exactly those of its manifest.

    Files may be changed or replaced at any time after that. Take what you use from `read`, which verifies it again.

    Attributes
    ----------
    path : Path
        The folder, absolute.
    manifest : Manifest
        What manifest.json says.
    digest : str
        SHA-256, in hex, of manifest.json, and through it of every file.
    """

    path: Path  # absolute
    manifest: Manifest
    digest: str  # sha256 of manifest.json, and through it of every file

    def file(self, entry: FileEntry) -> Path:
        """The path of one of the bundle's files.

        Parameters
        ----------
        entry : FileEntry
            One of `manifest.files()`.

        Returns
        -------
        Path
            Absolute. What lies there may have changed since the bundle was read: see `read`.
        """
        return self.path / entry.file

    def read(self, entry: FileEntry) -> bytes:
        """The bytes of one of the bundle's files, verified again.

        Parameters
        ----------
        entry : FileEntry
            One of `manifest.files()`.

        Returns
        -------
        bytes

        Raises
        ------
        DigestMismatch
            The file was changed since the bundle was read, or can't be read any more.
        """
        try:
            stream, _ = open_plain(self.file(entry))
            with stream:
                data = stream.read(entry.size + 1)
        except OSError as error:
            raise DigestMismatch(self.path, entry.file, f"can't be read any more: {error.strerror or error}") from error
        if bytes_sha256(data) != entry.sha256:
            raise DigestMismatch(self.path, entry.file, CHANGED)
        return data

    def graph(self, precision: Precision, models: GraphModels = "ensemble") -> GraphEntry | None:
        """The entry of a graph, if the bundle has one.

        Parameters
        ----------
        precision : {'fp32', 'fp16', 'int8'}
            Number type of the graph's file.
        models : {'ensemble', 'a', 'b', 'combined'}
            All voters in one graph, or one voter alone.

        Returns
        -------
        GraphEntry or None
        """
        return self.manifest.graph(precision, models)


def read_folder(folder: Path, *, shown: Path) -> Bundle:
    """The verified bundle in `folder`, read once; `read_bundle` is the function to call from outside.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    shown : Path
        What errors call the bundle.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        It holds no bundle, or one whose files differ from its manifest.
    """
    try:
        data = read_manifest_bytes(folder, shown)
        manifest = parse_manifest(data, shown)
        check_listed(folder, manifest, shown)
        _verify_all(folder, manifest.files(), shown)
    except OSError as error:
        raise BundleError(shown, f"can't be read: {error}") from error
    return Bundle(folder.absolute(), manifest, bytes_sha256(data))


def check_listed(folder: Path, manifest: Manifest, shown: Path) -> None:
    """Checks that the folder holds no file that the manifest doesn't list, and no links.

    Other files would travel with the bundle under a digest that says nothing of them.

    Parameters
    ----------
    folder : Path
        The bundle's folder.
    manifest : Manifest
        Its manifest.
    shown : Path
        What errors call the bundle.

    Raises
    ------
    BundleError
        There is such a file.
    DigestMismatch
        A listed file is a link or a special file.
    """
    listed = {MANIFEST, *(entry.file for entry in manifest.files())}
    for file, is_plain in _walk(folder):
        if file not in listed:
            raise BundleError(shown, f"holds '{file}', which the manifest doesn't list")
        if not is_plain:
            raise DigestMismatch(shown, file, "is a link or a special file, not a plain file")


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Everything below `folder` but the folders, with whether it is a plain file. Links are never followed."""
    with os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False) and prefix.count("/") < _DEPTH:
                yield from _walk(Path(item.path), f"{prefix}{item.name}/")
            else:
                yield prefix + item.name, item.is_file(follow_symlinks=False)


def _verify_all(folder: Path, entries: Sequence[FileEntry], shown: Path) -> None:
    """Several files at a time where they are large: hashing is most of what opening a large bundle costs before its network."""
    workers = min(usable_threads(), len(entries)) if sum(entry.size for entry in entries) > _LARGE else 1
    if workers == 1:
        for entry in entries:
            _verify(folder, entry, shown)
        return
    with ThreadPool(workers, "blastscope-verify") as pool:
        pool.map(lambda entry: _verify(folder, entry, shown), entries)


def _verify(folder: Path, entry: FileEntry, shown: Path) -> None:
    if entry.size > FILE_LIMIT:
        raise BundleError(shown, f"{entry.file} is {entry.size} bytes by the manifest, at most {FILE_LIMIT} are read")
    try:
        stream, found = open_plain(folder / entry.file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DigestMismatch(shown, entry.file, "is missing") from error
    except OSError as error:
        if error.errno not in _NOT_PLAIN:
            raise
        raise DigestMismatch(shown, entry.file, "is not a plain file") from error
    with stream:
        if found.st_size != entry.size:
            raise DigestMismatch(shown, entry.file, f"is {found.st_size} bytes, manifest says {entry.size}")
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != entry.sha256:
        raise DigestMismatch(shown, entry.file, f"has sha256 {digest[:12]}…, manifest says {entry.sha256[:12]}…")
