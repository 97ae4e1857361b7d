"""Opens the bundle that a verb names; the session's notes go to stderr.

Where real cells may be at hand.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blastscope.runtime.bundle import Bundle
    from blastscope.runtime.session import Scope


def bundle_at(path: Path | None, require_signature: Sequence[str] | None = None) -> Bundle:
    """The bundle at `path`, verified, its signature too where one is required; without a path the shipped bundle."""
    from blastscope import SHIPPED_BUNDLE
    from blastscope.runtime.bundle import read_bundle, read_signed_bundle

    path = path or SHIPPED_BUNDLE
    return read_signed_bundle(path, require_signature) if require_signature else read_bundle(path)


@contextmanager
def opened(bundle: Path | None, **words: Any) -> Iterator[Scope]:
    """The handle on `bundle`, with the words of `open_bundle`."""
    from blastscope.runtime.session import open_bundle

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of a damaged file stands in the refusal
    with open_bundle(bundle, **words) as scope:
        yield scope


VARIABLE = "BLASTSCOPE_DATA"
DEFAULT = Path("..", "shared", "data")  # from the repository's root


def find_data(named: Path | None = None) -> Path | None:
    """The folder of C-NMC cells: `named`, or below the one that BLASTSCOPE_DATA names, or below ../shared/data."""
    if named is not None:
        return named
    folder = Path(os.environ.get(VARIABLE) or DEFAULT) / "cnmc"
    return folder if folder.is_dir() else None
