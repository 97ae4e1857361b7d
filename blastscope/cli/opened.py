"""The bundle that a verb was given, and a handle on it: what opening it took, and passed over, is told on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blastscope.cli.road import say

if TYPE_CHECKING:
    from blastscope.runtime.bundle import Bundle
    from blastscope.runtime.scope import Scope


def bundle_at(path: Path | None) -> Bundle:
    """The bundle at `path`, verified; without one the shipped bundle."""
    from blastscope import SHIPPED_BUNDLE
    from blastscope.runtime.bundle import read_bundle

    return read_bundle(path or SHIPPED_BUNDLE)


@contextmanager
def opened(bundle: Path | None, **words: Any) -> Iterator[Scope]:
    """The handle on `bundle`, with the words of `open_bundle`."""
    from blastscope.runtime.scope import open_bundle

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of a damaged file stands in the refusal
    with open_bundle(bundle, **words, tell=say) as scope:
        for note in scope.notes:
            say(note)
        yield scope
