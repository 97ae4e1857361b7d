"""What is assumed of a frame and of the cells in it: the numbers that a site may want to change."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blastscope.runtime.record import Record


class FrameSpec(Record):
    """How white cells are found in a stained bright-field frame, and how each is shown to the networks.

    C-NMC's micrometres per pixel aren't published. So the scale of the networks is given by two assumptions: its cells are
    `target_px` across (the median of 5,250 cells) and a lymphoid cell is `lymphocyte_um` across on a smear.
    """

    pixel_um: float | None = Field(default=None, gt=0.005, lt=5)  # micrometres per pixel; None: found from the red cells
    target_px: float = Field(default=207.0, gt=8, le=1024)
    lymphocyte_um: float = Field(default=12.0, gt=4, lt=40)
    red_cell_um: float = Field(default=7.5, gt=4, lt=12)  # on a dried smear
    stain: Literal["none", "reinhard", "macenko"] = "reinhard"  # towards C-NMC's look, before the networks see a cell

    @property
    def network_um(self) -> float:
        """Micrometres per pixel of the images that the networks were trained on, as assumed here."""
        return self.lymphocyte_um / self.target_px
