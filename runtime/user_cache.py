"""Where a user's cache lies."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def user_cache() -> Path:
    """Where engines, measurements and unpacked bundles are kept unless the caller says otherwise."""
    return Path(platformdirs.user_cache_dir("blastscope", appauthor=False))
