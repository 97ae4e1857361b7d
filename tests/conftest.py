"""What every test may use: the real cells, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# no deadline: a law that holds on a busy machine is a law; no example folder in the tree
settings.register_profile("house", deadline=None, database=None, print_blob=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with `cnmc/` and `bccd/`: BLASTSCOPE_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("BLASTSCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cnmc").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"'{folder}' holds no cnmc/: CI must run on the real cells")
        pytest.skip(f"real cells are not at hand: no cnmc/ in '{folder}' (set BLASTSCOPE_DATA)")
    return folder


@pytest.fixture(scope="session")
def cnmc(shared_data: Path) -> Path:
    """The C-NMC cells in the archive's own folders, fold_0 and fold_1."""
    return shared_data / "cnmc" / "C-NMC_training_data"
