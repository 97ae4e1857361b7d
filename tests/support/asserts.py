"""What a pipeline sees, against the host's own crop and the tiny network's arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import BatchResult
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell


def is_right(result: BatchResult, images: Sequence[NDArray[np.uint8]], tiny: Any, spec: CropSpecification) -> None:
    """Asserts that each image got its own box and answer, or its refusal."""
    assert len(result.found) == len(images)
    for image, found, answer in zip(images, result.found, result.answers, strict=True):
        crop = crop_cell(image, spec)
        if isinstance(crop, Crop):
            assert found == crop.box
            np.testing.assert_allclose(answer, tiny.expected(crop.pixels[None])[0], atol=2e-6)
        else:
            assert found == crop
