"""Fixtures for the tests of napari."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.io.image import read_image


@pytest.fixture(scope="module")
def frame(shared_data: Path) -> NDArray[np.uint8]:
    """Two real fields of view side by side, so that there are some white cells."""
    names = (shared_data / "bccd" / "train.txt").read_text().split()[:2]
    images = [read_image(shared_data / "bccd" / "JPEGImages" / f"{name}.jpg") for name in names]
    return np.concatenate([image for image in images if isinstance(image, np.ndarray)], axis=1)


@pytest.fixture
def viewer() -> Any:
    from napari.components import ViewerModel

    return ViewerModel()
