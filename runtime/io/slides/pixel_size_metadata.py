"""Micrometres per pixel as a file says it: OME-XML, resolution tags of a TIFF, or what scanners and ImageJ write as text."""

from __future__ import annotations

import math
import re
from typing import NamedTuple
from xml.etree import ElementTree

LEAST_UM, MOST_UM = 0.005, 5.0  # what a light microscope's camera can see; 72 dots per inch is nobody's scale
SQUARE_WITHIN = 0.01
# OME's names of units of length, in micrometres
UNITS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micrometer": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4}
UNIT_PER_INCH, UNIT_PER_CM = 2, 3
# as ImageJ writes them, whose text is ASCII
IMAGEJ_UNITS = {**UNITS, r"\u00B5m": 1.0, "micron": 1.0, "microns": 1.0, "inch": 25400.0}


class PixelSize(NamedTuple):
    """Micrometres per pixel where the file says something that can be, and a note on it."""

    pixel_um: float | None
    note: str


def checked(across: float | None, down: float | None, origin: str) -> PixelSize | None:
    """The scale where both directions agree, a note where they don't; None where nothing is said that a microscope can be."""
    if across is None or not math.isfinite(across):
        return None
    down = across if down is None or not math.isfinite(down) else down
    if not (LEAST_UM < across < MOST_UM and LEAST_UM < down < MOST_UM):
        return None
    if abs(across - down) > SQUARE_WITHIN * across:
        return PixelSize(None, f"{origin} says {across:g} x {down:g} micrometres a pixel: not square, so it isn't used")
    return PixelSize((across + down) / 2, f"{(across + down) / 2:.4g} micrometres a pixel by {origin}")


def from_ome(xml: str) -> PixelSize | None:
    """The physical size of a pixel of the first image in an OME-XML."""
    if "<!ENTITY" in xml or "<!DOCTYPE" in xml:  # OME-XML has neither, and an entity may unfold without end
        return None
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return None
    pixels = next((item for item in root.iter() if item.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    across, down = (_length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY")
    return checked(across, down, "OME-XML")


def _length(text: str | None, unit: str) -> float | None:
    try:
        return float(text or "nan") * UNITS[unit]
    except (ValueError, KeyError):
        return None


def from_tags(resolution: tuple[object, object], unit: int) -> PixelSize | None:
    """The scale by a TIFF's XResolution and YResolution (fractions as two numbers) in pixels per inch or centimetre."""
    whole = {UNIT_PER_INCH: 25400.0, UNIT_PER_CM: 10000.0}.get(unit)
    if whole is None:
        return None
    return _from_density(resolution, whole, "the resolution tags")


def from_imagej(description: str, resolution: tuple[object, object]) -> PixelSize | None:
    """The scale as ImageJ and Fiji keep it: the same tags, in pixels per the unit that their description names."""
    unit = re.search(r"^unit=(\S+)", description, re.MULTILINE) if description.startswith("ImageJ=") else None
    whole = IMAGEJ_UNITS.get(unit[1]) if unit else None
    return _from_density(resolution, whole, "ImageJ's description") if whole else None


def _from_density(resolution: tuple[object, object], whole: float, origin: str) -> PixelSize | None:
    """The scale of so many pixels in `whole` micrometres, across and down."""
    across, down = (_fraction(value) for value in resolution)
    return checked(whole / across if across else None, whole / down if down else None, origin)


def _fraction(value: object) -> float | None:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return float(value) if isinstance(value, int | float) else None


def from_text(description: str) -> PixelSize | None:
    """The scale in a slide scanner's description: 'MPP = 0.2521' of Aperio."""
    found = re.search(r"\bMPP\s*=\s*([0-9.]{1,12})", description)
    try:
        return checked(float(found[1]), None, "the scanner's description") if found else None
    except ValueError:
        return None
