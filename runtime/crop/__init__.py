"""The crop of section 2.2, specified in integers, so that every implementation gives the same bytes.

Public names: `CropSpec` says what a crop is, `crop_cell` makes one, `Crop` holds its pixels and box.
"""

from __future__ import annotations

from blastscope.runtime.crop.reference import Crop, crop_cell
from blastscope.runtime.crop.specification import CropSpec

__all__ = ["Crop", "CropSpec", "crop_cell"]
