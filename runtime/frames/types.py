"""The records of frames: `FrameSpecification`, `FrameParameters`, `SegmentedCell` and `FrameReport`.

The first says what is assumed of frames and cells, in numbers that a site may change. The next two are what is measured before
any network looks. A report holds all that was found in a frame, with a call or a refusal for each cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blastscope.runtime.errors import warn_deprecated
from blastscope.runtime.frames.features import CellFeatures
from blastscope.runtime.frames.mask_geometry import Contour
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, Box, ClassName, Prediction, Refusal, RefusalCode, Voter

DoubtCode = Literal["nothing-found", "many-white-cells", "scale-assumed", "scale-disputed"]
DOUBTS: tuple[DoubtCode, ...] = get_args(DoubtCode)
ScaleSource = Literal["given", "red-cells", "assumed"]
Colour = tuple[float, float, float]
GroupName = Literal["lymphoid", "myeloid", "other"]
GROUPS: tuple[GroupName, ...] = get_args(GroupName)


class Doubt(NamedTuple):
    """Why a frame's result shouldn't be trusted before somebody has looked at it.

    Attributes
    ----------
    code : str
        For programs: 'nothing-found' (though dark purple objects are there), 'many-white-cells' (as many as red ones),
        'scale-assumed' (nothing tells it), 'scale-disputed' (the file or the caller and the red cells differ).
    detail : str
        For people: one sentence, which may change from one version to the next.
    """

    code: DoubtCode
    detail: str


class CellRow(TypedDict):
    """One cell as the command line prints it.

    Keys mean what the attributes of `FrameCell` and `Prediction` of the same names do. `box` and `contour` are in pixels of the
    frame; `refusal` is a code. What a refused cell lacks is None.
    """

    box: list[int]
    contour: list[list[int]]
    label: ClassName | None
    probability: float | None
    voter: Voter | None
    refusal: RefusalCode | None
    score: float | None  # the deciding voter's probability of ALL
    detail: str | None  # of the refusal
    novelty: float | None  # distance from the training's cells; None where the bundle measures none
    set: list[ClassName] | None  # classes that can't be excluded
    group: GroupName | None  # by the detector; None where the bundle has none


class FrameRow(TypedDict):
    """One frame as the command line prints it.

    Keys mean what the attributes of `FrameReport` of the same names do. `size` is width and height in pixels, `refusal` a code.
    """

    path: str | None
    refusal: RefusalCode | None
    validated: bool
    pixel_um: float | None
    scale_source: ScaleSource | None
    counts: dict[str, int]
    groups: dict[str, int]  # cells by group: see `FrameReport.groups`
    cells: list[CellRow]
    size: list[int] | None  # width, height
    detail: str | None  # of the refusal
    notes: list[str]
    doubts: list[DoubtCode]


@dataclass(frozen=True, slots=True, eq=False)
class FrameCell:
    """A white cell with its call, or with the reason why it got none: the finder's, or the crop's.

    Attributes
    ----------
    found : SegmentedCell
        Where the cell lies.
    prediction : Prediction or None
        The call; None where the finder refused the cell.
    appearance : CellFeatures or None
        Its figures as the networks see it, by which a drift is noticed; None with the prediction.
    """

    found: SegmentedCell
    prediction: Prediction | None
    appearance: CellFeatures | None = None

    @property
    def box(self) -> Box:
        """The whole cell, in pixels of the frame, half-open."""
        return self.found.box

    @property
    def contour(self) -> NDArray[np.int32]:
        """The cell's outline, (n, 2) int32 x and y in pixels of the frame."""
        return self.found.contour

    @property
    def refusal(self) -> Refusal | None:
        """Why there is no label; None where there is one."""
        return self.found.refusal or (self.prediction.refusal if self.prediction else None)

    @property
    def label(self) -> ClassName | None:
        """The call; None with a refusal."""
        return self.prediction.label if self.prediction else None

    @property
    def probability(self) -> float | None:
        """The deciding voter's probability of the label; None with a refusal."""
        return self.prediction.probability if self.prediction else None

    @property
    def score(self) -> float | None:
        """The deciding voter's probability of ALL; None with a refusal."""
        return self.prediction.score if self.prediction else None

    @property
    def voter(self) -> Voter | None:
        """Who decided; None with a refusal."""
        return self.prediction.voter if self.prediction else None

    def row(self) -> CellRow:
        """The cell as plain JSON values."""
        prediction, refusal = self.prediction, self.refusal
        return CellRow(
            box=list(self.box),
            contour=self.contour.tolist(),
            label=self.label,
            probability=self.probability,
            voter=self.voter,
            refusal=refusal.code if refusal else None,
            score=self.score,
            detail=refusal.detail if refusal else None,
            novelty=prediction.novelty if prediction else None,
            set=list(prediction.set) if prediction and prediction.set is not None else None,
            group=self.found.group.name if self.found.group else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class FrameReport:
    """What one frame shows. `validated` is False until the site has validated the networks on frames of its own.

    With a `refusal` the frame couldn't be examined, and there are no cells. `metadata` and, in a stream, `id` are
    the caller's, passed through.

    Examples
    --------
    >>> import numpy as np
    >>> from blastscope import open_bundle
    >>> frame = np.full((480, 640, 3), 230, np.uint8)  # a stained bright-field frame in RGB; this one is empty
    >>> with open_bundle() as scope:
    ...     report = scope.examine(frame, pixel_um=0.1)
    >>> report.counts
    {'cells': 0, 'hem': 0, 'all': 0, 'refused': 0}

    Attributes
    ----------
    cells : tuple of FrameCell
        The white cells, refused ones too.
    parameters : FrameParameters or None
        Scale, stain and background; None where the frame couldn't be examined.
    refusal : Refusal or None
        Why the frame couldn't be examined.
    path : Path or None
        The file; None for an array.
    validated : bool
        Whether the site has validated the networks on frames of its own.
    metadata : mapping of str to Any
        Whatever came with the frame.
    id : int or str or None
        The frame's in its stream.
    size : (int, int) or None
        Width and height in pixels.
    notes : tuple of str
        What was read of a file that holds more, where the scale comes from, and all doubts in words.
    doubts : tuple of Doubt
        Why the frame may not have been understood.
    pixels : (H, W, 3) uint8 array or None
        The frame itself, from a stream with `keep_pixels`. It must not be written to.
    """

    cells: tuple[FrameCell, ...]
    parameters: FrameParameters | None
    refusal: Refusal | None = None
    path: Path | None = None
    validated: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: int | str | None = None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def facts(self) -> FrameParameters | None:
        """Deprecated, gone in the next version: the old name of `parameters`."""
        warn_deprecated("FrameReport.facts", "FrameReport.parameters")
        return self.parameters

    @property
    def pixel_um(self) -> float | None:
        """Micrometres a pixel, as given or as measured; None where the frame was refused."""
        return self.parameters.pixel_um if self.parameters else None

    @property
    def middle_cell(self) -> FrameCell | None:
        """The cell whose box's middle lies nearest to the frame's; None without cells."""
        width, height = self.size or (0, 0)

        def distance(cell: FrameCell) -> int:
            x0, y0, x1, y1 = cell.box
            return (x0 + x1 - width) ** 2 + (y0 + y1 - height) ** 2

        return min(self.cells, key=distance, default=None)

    @property
    def counts(self) -> dict[str, int]:
        """How many cells were found, called each class, and refused."""
        labels = [cell.label for cell in self.cells]
        called: dict[str, int] = {name: labels.count(name) for name in CLASSES}
        return {"cells": len(labels), **called, "refused": labels.count(None)}

    @property
    def doubt_codes(self) -> frozenset[DoubtCode]:
        """What kinds of doubt there are about the frame."""
        return frozenset(doubt.code for doubt in self.doubts)

    @property
    def groups(self) -> dict[str, int]:
        """The cells by group, as a differential's first line.

        Where the bundle's detector told the group of each cell: 'lymphoid', 'myeloid' and 'other'. Elsewhere by what became of
        them: 'lymphoid' those that look it and were called, 'not_lymphoid' those with a lobed or granular nucleus or pink
        cytoplasm; all others are 'not_judged': cut off, clumped, blurred, or unlike the training's cells.
        """
        names = [cell.found.group.name for cell in self.cells if cell.found.group]
        if names and len(names) == len(self.cells):
            return {name: names.count(name) for name in GROUPS}
        codes = [cell.refusal.code if cell.refusal else None for cell in self.cells]
        lymphoid, other = codes.count(None), codes.count("not-lymphoid")
        return {"lymphoid": lymphoid, "not_lymphoid": other, "not_judged": len(codes) - lymphoid - other}

    def row(self) -> FrameRow:
        """The frame as plain JSON values."""
        return FrameRow(
            path=str(self.path) if self.path else None,
            refusal=self.refusal.code if self.refusal else None,
            validated=self.validated,
            pixel_um=self.pixel_um,
            scale_source=self.parameters.scale_source if self.parameters else None,
            counts=self.counts,
            groups=self.groups,
            cells=[cell.row() for cell in self.cells],
            size=list(self.size) if self.size else None,
            detail=self.refusal.detail if self.refusal else None,
            notes=list(self.notes),
            doubts=sorted(self.doubt_codes),
        )


@dataclass(frozen=True, slots=True)
class FrameParameters:
    """What holds for a whole frame; for a slide it is measured once, on some windows, and all tiles go by it.

    Attributes
    ----------
    pixel_um : float
        Micrometres per pixel.
    scale_source : ScaleSource
        Where the scale comes from.
    background : Colour
        R, G and B of the empty background, 0 to 255.
    nuclear_axis : Colour
        Weights of the optical densities of R, G and B: a nucleus is far along, a red cell at 0.
    nucleus_threshold : float
        On the map of nuclear stain.
    cell_threshold : float
        On the map of the whole cell.
    content : (x0, y0, x1, y1)
        In pixels: all that is neither background nor black. The grid that cells are found on is centred on it.
    extent : (x0, y0, x1, y1)
        In pixels: the whole frame, of which the pixels at hand may be a tile.
    scale_note : str
        That the stated scale and the red cells differ, or that nothing gives the scale; else empty.
    """

    pixel_um: float
    scale_source: ScaleSource
    background: Colour
    nuclear_axis: Colour
    nucleus_threshold: float
    cell_threshold: float
    content: Box
    extent: Box
    scale_note: str = ""


class CellGroup(NamedTuple):
    """What kind of white cell a detector takes one for.

    Attributes
    ----------
    name : GroupName
        The group.
    probability : float
        The detector's, of this group among all groups, 0 to 1.
    """

    name: GroupName
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedCell:
    """One white cell, in pixels of the frame. A refused one counts as found, and its box stands.

    Attributes
    ----------
    box : (x0, y0, x1, y1)
        The whole cell in pixels, half-open.
    contour : ndarray of int32
        Shape (K, 2): x and y along the cell's outline.
    core : Contour
        The nucleus.
    refusal : Refusal or None
        Why the finder refuses it.
    score : float or None
        The detector's probability that it is a white cell, 0 to 1; None where it was found by its stain.
    group : CellGroup or None
        What kind of white cell the detector takes it for.
    """

    box: Box
    contour: NDArray[np.int32]
    core: Contour
    refusal: Refusal | None = None
    score: float | None = None
    group: CellGroup | None = None

    @property
    def nucleus(self) -> NDArray[np.int32]:
        """(K, 2), x and y along the outline of its nucleus; traced anew each time."""
        return self.core.outline()


class FrameSpecification(StrictModel):
    """How white cells are found in a stained bright-field frame, and how each is shown to the networks.

    C-NMC's micrometres per pixel aren't published. So the scale of the networks is given by two assumptions: its cells are
    `target_px` across (the median of 5,250 cells) and a lymphoid cell is `lymphocyte_um` across on a smear.

    Attributes
    ----------
    pixel_um : float or None
        Micrometres per pixel; None: found from the red cells.
    target_px : float
        Diameter of a lymphocyte in the images that the networks see, in pixels.
    lymphocyte_um : float
        Diameter of a lymphocyte on a dried smear, in micrometres.
    red_cell_um : float
        Diameter of a red cell on a dried smear, in micrometres.
    finder : {'auto', 'stain'}
        'auto': the bundle's detector, where it has one; 'stain': nuclei by their colour.
    stain : {'none', 'reinhard', 'macenko'}
        How the stain is moved towards C-NMC's look before the networks see a cell.
    """

    pixel_um: float | None = Field(default=None, gt=0.005, lt=5)
    target_px: float = Field(default=207.0, gt=8, le=1024)
    lymphocyte_um: float = Field(default=12.0, gt=4, lt=40)
    red_cell_um: float = Field(default=7.5, gt=4, lt=12)
    finder: Literal["auto", "stain"] = "auto"  # auto: the bundle's detector, where it has one; stain: nuclei by their colour
    stain: Literal["none", "reinhard", "macenko"] = "reinhard"  # towards C-NMC's look, before the networks see a cell

    @property
    def network_um(self) -> float:
        """Micrometres per pixel of the images that the networks were trained on, as assumed here."""
        return self.lymphocyte_um / self.target_px
