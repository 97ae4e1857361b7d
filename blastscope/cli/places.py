"""Where real cells may be at hand."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "BLASTSCOPE_DATA"
DEFAULT = Path("..", "shared", "data")  # from the repository's root


def find_data(named: Path | None = None) -> Path | None:
    """The folder of C-NMC cells: `named`, or below the one that BLASTSCOPE_DATA names, or below ../shared/data."""
    if named is not None:
        return named
    folder = Path(os.environ.get(VARIABLE) or DEFAULT) / "cnmc"
    return folder if folder.is_dir() else None
