"""What a microscope's program says of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blastscope.runtime.errors import UsageError


def told_um(metadata: Mapping[str, Any], key: str) -> float | None:
    """The scale that a frame's metadata says under `key`: a program's own words, which may be text. Raises `UsageError`."""
    told = metadata.get(key)
    try:
        return None if told is None else float(told)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a frame's metadata says that {key} is {told!r}: micrometres per pixel are a number") from error
