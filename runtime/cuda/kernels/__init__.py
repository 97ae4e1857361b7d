"""The crop on the GPU: CUDA kernels that give the bytes and refusals of `crop_cell`, and what is needed to launch them.

Public names: `CropPlan` says which kernels to launch over which memory, as `Launch` records with `Address` and int arguments;
`ImageRow` and `VerdictRow` are the rows of the device tables, `image_row` fills the one and `refusal_of` reads the other;
`crop_fatbin` gives the compiled kernels, verified. Nothing here imports CUDA.
"""

from __future__ import annotations

from blastscope.runtime.cuda.kernels.crop_launch_plan import (
    Address,
    CropPlan,
    ImageRow,
    Launch,
    VerdictRow,
    box_of,
    image_row,
    refusal_of,
)
from blastscope.runtime.cuda.kernels.fatbin import crop_fatbin

__all__ = ["Address", "CropPlan", "ImageRow", "Launch", "VerdictRow", "box_of", "crop_fatbin", "image_row", "refusal_of"]
