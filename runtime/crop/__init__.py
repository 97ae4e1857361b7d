"""The crop of section 2.2, specified in integers, so that every implementation gives the same bytes.

Public names: `CropSpecification` says what a crop is, `crop_cell` makes one, `Crop` holds its pixels and box.
"""

from __future__ import annotations

from blastscope.runtime.crop.reference import Crop, crop_cell
from blastscope.runtime.crop.specification import CropSpecification

__all__ = ["Crop", "CropSpecification", "crop_cell"]
