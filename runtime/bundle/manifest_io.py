"""Parses manifest.json strictly, and says what is wrong with it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blastscope.runtime.bundle.manifest import FORMAT, FORMAT_PATTERN, SINCE, Manifest, with_present_names
from blastscope.runtime.errors import BundleError, FormatTooNew
from blastscope.runtime.io.own_files import open_plain
from blastscope.runtime.io.strict_model import problems

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 8 * 1024 * 1024  # bytes; a manifest of 10,000 calibration cells has about 0.5 MB
VALUE_LIMIT = 100_000  # of the JSON, at any depth: each wrong one costs memory and time in saying so
RECORD_LIMIT = 64  # graphs, or scores: there are 12 kinds of graph
_TOLD = 200  # characters of a reason: whoever wrote the manifest chooses how long its keys and numbers are


def read_manifest_bytes(folder: Path, shown: Path) -> bytes:
    """The bytes of a folder's manifest.json.

    Parameters
    ----------
    folder : Path
        The bundle's folder.
    shown : Path
        What errors call the bundle.

    Returns
    -------
    bytes

    Raises
    ------
    BundleError
        There is no such plain file, or it is larger than 8 MiB.
    """
    try:
        stream, _ = open_plain(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(shown, f"holds no {MANIFEST}, so it is not a bundle") from error
    except OSError as error:
        raise BundleError(shown, f"holds no {MANIFEST} that can be read: {(error.strerror or str(error)).lower()}") from error
    with stream:
        data = stream.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise BundleError(shown, f"{MANIFEST} is larger than {MANIFEST_LIMIT} bytes")
    return data


def parse_manifest(data: bytes, shown: Path) -> Manifest:
    """The manifest in the bytes of a manifest.json.

    Parameters
    ----------
    data : bytes
        The file's content.
    shown : Path
        What errors call the bundle.

    Returns
    -------
    Manifest

    Raises
    ------
    FormatTooNew
        It is in a later format. This is found before any unknown key is looked at.
    BundleError
        It is no JSON, or breaks a rule of the format.
    """
    table = _strict_json(data, shown)
    _check_format(table.get("format"), shown)
    _check_extent(table, shown)
    if _version(table["format"])[1] < SINCE:
        try:
            data = json.dumps(with_present_names(table)).encode()
        except ValueError as error:
            raise BundleError(shown, f"{MANIFEST}: {error}, and the manifest says {table['format']}") from error
    try:
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        found = [_short(problem) for problem in problems(error)]
        rest = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise BundleError(shown, f"{MANIFEST}: {'; '.join(found[:3])}{rest}") from error


def _strict_json(data: bytes, shown: Path) -> dict[str, Any]:
    """`data` as one JSON object in which no key stands twice and every number is finite."""
    try:
        table = json.loads(data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BundleError(shown, f"{MANIFEST} is not JSON: {_short(str(error))}") from error
    if not isinstance(table, dict):
        raise BundleError(shown, f"{MANIFEST} is not a JSON object")
    return table


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # two readers that keep different ones of a doubled key would see two bundles behind one digest
    table = dict(pairs)
    if len(table) != len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {_short(key)!r} stands twice")
    return table


def _check_extent(table: dict[str, Any], shown: Path) -> None:
    """Refuses what would take long to refuse: a wrong value costs the model more than a right one."""
    for key in ("graphs", "scores"):
        records = table.get(key)
        if isinstance(records, list) and len(records) > RECORD_LIMIT:
            raise BundleError(shown, f"{MANIFEST}: {key}: lists {len(records)} records, at most {RECORD_LIMIT} are read")
    count = 0
    left: list[Any] = [table]
    while left and count <= VALUE_LIMIT:
        value = left.pop()
        inner = value.values() if isinstance(value, dict) else value
        count += len(inner)
        left.extend(one for one in inner if isinstance(one, dict | list))
    if count > VALUE_LIMIT:
        raise BundleError(shown, f"{MANIFEST} holds more than {VALUE_LIMIT} values")


def _short(text: str) -> str:
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}…"


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{_short(digits)} is too large for a number")
    return value


def _check_format(found: object, shown: Path) -> None:
    if not isinstance(found, str) or not re.fullmatch(FORMAT_PATTERN, found):
        raise BundleError(shown, f"{MANIFEST} names no format such as '{FORMAT}'")
    wanted, ours = _version(found), _version(FORMAT)
    if wanted > ours:
        raise FormatTooNew(shown, needed=found, supported=FORMAT)
    if wanted[0] != ours[0]:
        raise BundleError(shown, f"format {found} is no longer read, only {ours[0]}.0 to {FORMAT}: export the run again")


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)
