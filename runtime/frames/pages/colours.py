"""One colour and one line for each kind of cell, in every picture and page: also for who can't tell red from green."""

from __future__ import annotations

from typing import Literal, NamedTuple

from blastscope.runtime.frames.report import FrameCell, FrameReport

Kind = Literal["all", "hem", "refused"]


class Look(NamedTuple):
    """How a kind of cell is drawn."""

    name: str
    colour: str  # Okabe and Ito's vermilion and blue, and ink
    dashed: bool


LOOKS: dict[Kind, Look] = {
    "all": Look("ALL", "#d55e00", False),
    "hem": Look("HEM", "#0072b2", False),
    "refused": Look("refused", "#1b1f24", True),
}
PAPER, INK, FAINT = "#ffffff", "#1b1f24", "#5b6570"
CAUTION = (
    "For research use, not a medical device. Calls on whole frames are outside what was validated: "
    "the shipped networks were trained on the single cells of C-NMC."
)
VALIDATED = "For research use, not a medical device. Calls on frames were validated by this site, on frames of its own."


def kind_of(cell: FrameCell) -> Kind:
    """ALL, HEM or refused."""
    return cell.label or "refused"


def caution(*, validated: bool) -> str:
    """What stands on every picture and page."""
    return VALIDATED if validated else CAUTION


def without_scale(report: FrameReport) -> bool:
    """Whether cells were looked at on a scale that nobody knows."""
    return bool(report.cells) and report.facts is not None and report.facts.scale_source == "assumed"


def doubts(count: int) -> list[str]:
    """What is to be said where `count` frames are `without_scale`."""
    told = "so it is only assumed: give the micrometres per pixel, or trust no call there"
    return [f"too few red cells show the scale of {count} of the frames with white cells, {told}"] if count else []


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def words_of(cell: FrameCell) -> str:
    """The call with its probability, or the reason why there is none."""
    if cell.refusal:
        return cell.refusal.code
    assert cell.prediction is not None
    return f"{LOOKS[kind_of(cell)].name} {cell.prediction.probability:.2f}"
