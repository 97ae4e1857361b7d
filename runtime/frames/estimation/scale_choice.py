"""`choose_scale`: which of the scales that are said or measured holds for a frame.

The caller's word stands. A file's is checked against the red cells of the frame: programs write scales that nobody set, the
camera's own pixel, a printer's resolution, or those of another objective.
"""

from __future__ import annotations

from typing import NamedTuple

from blastscope.runtime.frames.estimation.pixel_size import RedCells
from blastscope.runtime.frames.types import ScaleSource

ASSUMED_UM = 0.1  # micrometres a pixel where nothing tells: a 100x objective and a common camera
# Further apart than this factor, one of two scales is wrong. Over the frames of BCCD and of TXL-PBC's first half, at 0.3 to 1.6
# of their size, the red cells' scale was never off by more than 1.2; patients' red cells differ by another 1.15. The next
# objective is 1.5 times away (40x and 60x).
AGREE_WITHIN = 1.4
# Red cells overrule a file where so many whole circles meet. Of those frames 99 % show more; of 22 of Raabin's 90 frames whose
# violet red cells were measured wrongly, 17 show less.
ENOUGH_CIRCLES = 0.6


class Scale(NamedTuple):
    """The scale of a frame."""

    pixel_um: float
    source: ScaleSource
    note: str = ""  # where what is said and what is measured differ


def choose_scale(given_um: float | None, stated_um: float | None, red_cells: RedCells | None, red_cell_um: float) -> Scale:
    """The scale that holds for a frame.

    Parameters
    ----------
    given_um
        Micrometres per pixel by the caller's word. It stands, with a note where red cells differ.
    stated_um
        The same as the frame's file says it. It stands where red cells agree within `AGREE_WITHIN`, and where too few of them
        are seen. Otherwise the red cells' scale is taken, with a note.
    red_cells
        Those that were measured in the frame.
    red_cell_um
        How large a red cell is taken to be.
    """
    said = given_um or stated_um
    measured = round(red_cell_um / red_cells.diameter_px, 5) if red_cells else None
    if said is None:
        return Scale(measured, "red-cells") if measured else Scale(ASSUMED_UM, "assumed")
    if red_cells is None or measured is None or max(said / measured, measured / said) <= AGREE_WITHIN:
        return Scale(said, "given")
    found = f"the red cells say {measured:.4g}"
    if given_um:
        return Scale(said, "given", f"{said:.4g} micrometres a pixel were given, {found}: check the scale")
    if red_cells.circles < ENOUGH_CIRCLES:
        return Scale(said, "given", f"the file says {said:.4g} micrometres a pixel, {found}, but few are seen: check the scale")
    taken = "the red cells' scale is taken; give pixel_um to settle it"
    return Scale(measured, "red-cells", f"the file says {said:.4g} micrometres a pixel, {found}: {taken}")
