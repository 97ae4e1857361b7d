"""`CropSpecification`: the parameters of the crop, as a bundle stores them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from blastscope.runtime.io.strict_model import StrictModel


class CropSpecification(StrictModel):
    """How the image of one cell on black becomes a square crop. The defaults are the paper's (section 2.2).

    Attributes
    ----------
    side_px : int
        Side of the crop in pixels, 8 to 2048.
    scale : {'fit', 'keep'}
        'fit' stretches the cell's box to the side, so the cell's size is lost. 'keep' cuts a window of `window_px` pixels
        around the middle of the box, so a large blast stays larger than a normal lymphocyte.
    window_px : int or None
        Side of that window in pixels of the image, 8 to 4096. Given with 'keep', and only with it.
    erosion_px : int
        By how many pixels the cell's mask is eroded before its largest part is looked for, 0 to 16.
    grow_back : bool
        True: the box is grown by `erosion_px` again. False: the box of the eroded mask, as the paper says literally.
    min_box_px, max_box_px : int
        Smallest and largest side of a cell's box; others are refused as 'too-small' and 'too-large'. The cells of C-NMC have
        157 to 284 px.
    max_background : int
        The brightest gray, 0 to 254, that counts as black around a cell.
    """

    side_px: int = Field(default=299, ge=8, le=2048)
    scale: Literal["fit", "keep"] = "fit"
    window_px: int | None = Field(default=None, ge=8, le=4096)
    erosion_px: int = Field(default=1, ge=0, le=16)
    grow_back: bool = True  # False: the paper's literal reading, the box of the eroded mask
    min_box_px: int = Field(default=24, ge=1)  # C-NMC's smallest cell is 157 px wide
    max_box_px: int = Field(default=1024, ge=8)  # and its largest 284 px
    max_background: int = Field(default=24, ge=0, le=254)  # brightest gray that still counts as black around a cell

    @model_validator(mode="after")
    def _window_goes_with_keep(self) -> Self:
        if (self.scale == "keep") != (self.window_px is not None):
            raise ValueError("window_px goes with scale = 'keep', and only with it")
        return self
