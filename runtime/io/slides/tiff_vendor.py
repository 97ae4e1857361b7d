"""`tiff_vendor`: which slide scanner wrote a TIFF, and whether its tiles make a picture side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tifffile


class TiffVendor(NamedTuple):
    """A scanner's kind of TIFF."""

    name: str  # for people, with its article
    stitched: bool  # its tiles overlap, or lie in several areas: OpenSlide puts them together


BY_FLAG = {  # of tifffile
    "bif": TiffVendor("a Ventana slide (.bif)", True),
    "scn": TiffVendor("a Leica slide (.scn)", True),
    "ndpi": TiffVendor("a Hamamatsu slide (.ndpi)", False),
    "philips": TiffVendor("a Philips slide", False),
    "svs": TiffVendor("an Aperio slide (.svs)", False),
}


def tiff_vendor(tiff: tifffile.TiffFile) -> TiffVendor | None:
    """The scanner that wrote `tiff`; None of another program."""
    known = next((vendor for flag, vendor in BY_FLAG.items() if getattr(tiff, f"is_{flag}")), None)
    page = tiff.pages.first
    if known is None and page.software.startswith("MedScan"):
        overlaps = page.description.partition("OverlapsXY=")[2].partition(";")[0].split()
        return TiffVendor("a Trestle slide", any(overlap.strip("0") for overlap in overlaps))
    return known
