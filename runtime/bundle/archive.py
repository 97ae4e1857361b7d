"""Writes and packs bundles; a folder is replaced atomically, zips are reproducible.

Law: what was written or packed, read again, is the same bundle, and an interruption leaves the old one or the new one.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from blastscope.runtime.bundle.manifest import FileEntry, Manifest, describe_file
from blastscope.runtime.bundle.manifest_io import MANIFEST, parse_manifest, read_manifest_bytes
from blastscope.runtime.bundle.model_card import CARD_FILE, model_card
from blastscope.runtime.bundle.opening import read_bundle
from blastscope.runtime.bundle.reader import CHANGED, Bundle, check_listed, read_folder
from blastscope.runtime.errors import BundleError, DigestMismatch, UsageError
from blastscope.runtime.io.atomic import recover, write_file, write_folder
from blastscope.runtime.io.hashing import bytes_sha256

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can tell


def write_bundle(folder: Path | str, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """Writes a bundle to `folder`, and returns it as it is read back.

    Replaces a bundle that stands there, in one step: if anything fails, the old one stays. Any other folder with something
    in it is left alone. The model card is written anew, from the manifest, where the manifest has one.

    Parameters
    ----------
    folder : Path or str
        Where to write.
    manifest : Manifest
        What manifest.json is to say.
    files : mapping of str to Path or bytes
        For each file that the manifest lists, by its path from the bundle's root: the file to copy, or the bytes.

    Returns
    -------
    Bundle
        As read from `folder`, verified.

    Raises
    ------
    UsageError
        `files` are not those that the manifest lists, or `folder` is a file or holds something else than a bundle.
    DigestMismatch
        A source is not what the manifest says.
    DataError
        A source can't be read.
    WriteError
        The disk is full, or `folder` can't be written.
    """
    folder = Path(folder)
    if manifest.card:
        manifest, files = _with_card(manifest, files)
    listed = {entry.file for entry in manifest.files()}
    if listed != set(files):
        raise UsageError(f"bundle '{folder}': manifest and files differ in {', '.join(sorted(listed ^ set(files)))}")
    check_bundle_place(folder)
    write_folder(folder, lambda fresh: _fill(fresh, manifest, files, folder))
    return read_bundle(folder)


def _with_card(manifest: Manifest, files: Mapping[str, Path | bytes]) -> tuple[Manifest, dict[str, Path | bytes]]:
    """Both with a model card that says what the manifest says now."""
    content = model_card(manifest).encode()
    return manifest.model_copy(update={"card": describe_file(content, CARD_FILE)}), {**files, CARD_FILE: content}


def update_bundle(bundle: Bundle, manifest: Manifest, added: Mapping[str, Path | bytes]) -> Bundle:
    """Writes the bundle anew in its folder, under a new manifest, and returns it as it is read back.

    Parameters
    ----------
    bundle : Bundle
        As it was read.
    manifest : Manifest
        What manifest.json is to say. Files that it no longer lists go.
    added : mapping of str to Path or bytes
        The files that are new or change, by their path from the bundle's root. All others that `manifest` lists are kept.

    Returns
    -------
    Bundle
        As read from the folder, verified.

    Raises
    ------
    UsageError, DigestMismatch, WriteError
        As `write_bundle`.
    """
    kept = {entry.file: bundle.file(entry) for entry in bundle.manifest.files()}
    listed = {entry.file for entry in manifest.files()}
    sources: dict[str, Path | bytes] = {file: path for file, path in kept.items() if file in listed}
    return write_bundle(bundle.path, manifest, {**sources, **added})


def pack(bundle: Bundle, path: Path | str) -> Path:
    """Writes the bundle as a zip, and returns its path.

    Equal bundles give equal zips: their files are sorted, not compressed, and have fixed times.

    Parameters
    ----------
    bundle : Bundle
        As it was read.
    path : Path or str
        The zip to write; a file that stands there is replaced.

    Returns
    -------
    Path

    Raises
    ------
    DigestMismatch
        The bundle was changed since it was read.
    WriteError
        The zip can't be written.
    """
    path = Path(path)
    data = read_manifest_bytes(bundle.path, bundle.path)
    if bytes_sha256(data) != bundle.digest:
        raise DigestMismatch(bundle.path, MANIFEST, CHANGED)

    def fill(fresh: Path) -> None:
        with zipfile.ZipFile(fresh, "w") as archive:
            archive.writestr(_member(MANIFEST, len(data)), data)
            for entry in sorted(bundle.manifest.files(), key=lambda entry: entry.file):
                _add(archive, bundle, entry)

    write_file(path, fill)
    return path


def check_bundle_place(folder: Path) -> None:
    """Checks that a bundle may be written to `folder`; called before the work that makes it.

    Only a bundle, or an empty folder, is replaced, so that a mistyped path costs nobody a folder.

    Parameters
    ----------
    folder : Path
        It need not exist.

    Raises
    ------
    UsageError
        `folder` is a file, or holds something else than a bundle.
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
        why = f" ({error.problem})" if (folder / MANIFEST).exists() else ""
        raise UsageError(f"'{folder}' is not empty and not a bundle{why}: name another folder") from error


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
        raise DigestMismatch(bundle.path, entry.file, CHANGED)
