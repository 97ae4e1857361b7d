"""Writes, packs and unpacks bundles; a folder is replaced atomically, zips are reproducible.

Law: what was written or packed, read again, is the same bundle, and an interruption leaves the old one or the new one.

Unpacks a zipped bundle into the user's cache, once for each zip. The zip is not trusted.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from blastscope.runtime.bundle.manifest import FileEntry, Manifest
from blastscope.runtime.bundle.manifest_io import MANIFEST, MANIFEST_LIMIT, parse_manifest, read_manifest_bytes
from blastscope.runtime.bundle.reader import Bundle, check_listed, read_bundle, read_folder
from blastscope.runtime.errors import BundleError, DigestMismatch, UsageError
from blastscope.runtime.io.atomic import recover, sibling, write_file, write_folder
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.paths import default_cache_dir

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can tell


def write_bundle(folder: Path | str, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """The bundle in `folder`, made of `manifest` and `files`: for each file that the manifest lists, its source or its bytes.

    Replaces a bundle that stands there, and refuses to replace any other folder with something in it. Raises `UsageError`, and
    `DigestMismatch` where a source is not what the manifest says; the old bundle is then still in its place.
    """
    folder = Path(folder)
    listed = {entry.file for entry in manifest.files()}
    if listed != set(files):
        raise UsageError(f"bundle '{folder}': manifest and files differ in {', '.join(sorted(listed ^ set(files)))}")
    check_bundle_place(folder)
    write_folder(folder, lambda fresh: _fill(fresh, manifest, files, folder))
    return read_bundle(folder)


def update_bundle(bundle: Bundle, manifest: Manifest, added: Mapping[str, Path | bytes]) -> Bundle:
    """The bundle in the same folder under a new `manifest`: files in `added` come or change, files no longer listed go."""
    kept = {entry.file: bundle.file(entry) for entry in bundle.manifest.files()}
    listed = {entry.file for entry in manifest.files()}
    sources: dict[str, Path | bytes] = {file: path for file, path in kept.items() if file in listed}
    return write_bundle(bundle.path, manifest, {**sources, **added})


def pack(bundle: Bundle, path: Path | str) -> Path:
    """Writes the zip of `bundle` to `path`: sorted, stored, with fixed times, so that equal bundles give equal zips."""
    path = Path(path)
    data = read_manifest_bytes(bundle.path, bundle.path)
    if bytes_sha256(data) != bundle.digest:
        raise DigestMismatch(bundle.path, MANIFEST, "was changed since the bundle was read")

    def fill(fresh: Path) -> None:
        with zipfile.ZipFile(fresh, "x") as archive:
            archive.writestr(_member(MANIFEST, len(data)), data)
            for entry in sorted(bundle.manifest.files(), key=lambda entry: entry.file):
                _add(archive, bundle, entry)

    write_file(path, fill)
    return path


def check_bundle_place(folder: Path) -> None:
    """Raises `UsageError` unless a bundle may be written to `folder`; for those who have long work to do before they write.

    Nothing but a bundle, or an empty folder, is replaced: whoever mistypes a path must not lose the folder there.
    """
    recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is a file: name a folder")
    if not any(folder.iterdir()):
        return
    try:
        check_listed(folder, parse_manifest(read_manifest_bytes(folder, folder), folder), folder)
    except BundleError as error:
        raise UsageError(f"'{folder}' is not empty and not a bundle ({error.problem}): name another folder") from error


def _fill(fresh: Path, manifest: Manifest, files: Mapping[str, Path | bytes], shown: Path) -> None:
    for file, source in files.items():
        target = fresh / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)
    (fresh / MANIFEST).write_bytes(manifest.json_bytes())
    read_folder(fresh, shown=shown)  # what goes into place has been read once


def _member(file: str, size: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(file, _LONG_AGO)
    member.create_system = 3  # the same on Windows
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    member.file_size = size
    return member


def _add(archive: zipfile.ZipFile, bundle: Bundle, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    with bundle.file(entry).open("rb") as source, archive.open(_member(entry.file, entry.size), "w") as sink:
        while piece := source.read(1 << 20):
            digest.update(piece)
            sink.write(piece)
    if digest.hexdigest() != entry.sha256:
        raise DigestMismatch(bundle.path, entry.file, "was changed since the bundle was read")


GROWTH_LIMIT = 100  # times the zip's size; weights hardly shrink at all, and a bomb grows a thousandfold
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ArithmeticError, ValueError)


def unpack(path: Path, cache_dir: Path | None = None) -> Bundle:
    """The verified bundle in the zip at `path`. Raises `BundleError`."""
    home = cache_dir or default_cache_dir()
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
