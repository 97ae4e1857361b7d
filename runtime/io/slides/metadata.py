"""What a file's metadata says: micrometres per pixel (OME-XML, tags of a TIFF, scanners' text), and the order of colours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from blastscope.runtime.errors import UsageError

LEAST_UM, MOST_UM = 0.005, 5.0  # what a light microscope's camera can see; 72 dots per inch is nobody's scale
SQUARE_WITHIN = 0.01
NOT_A_SCALE = "says exactly 1 micrometre a pixel, as programs write it where the scale isn't known: it isn't used"
# OME's names of units of length, in micrometres
UNITS = {
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
} | {
    "fm": 1e-9,
    "Å": 1e-4,
    "km": 1e9,
    "thou": 25.4,
    "pt": 25400.0 / 72,
    "li": 25400.0 / 12,
    "in": 25400.0,
    "ft": 304_800.0,
    "yd": 914_400.0,
}
RESOLUTION_UNITS = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}  # of TIFF's tag 296: inch, centimetre; ImageJ's millimetre, micrometre
NO_UNIT = 1
# as ImageJ writes them, whose text is ASCII; words in the singular and in lower case
WORDS = {"micron": 1.0, "micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "angstrom": 1e-4} | {
    "millimeter": 1e3,
    "millimetre": 1e3,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "meter": 1e6,
    "metre": 1e6,
    "inch": 25400.0,
    "inche": 25400.0,
}
IMAGEJ_UNITS = {**UNITS, r"\u00B5m": 1.0, r"\u03BCm": 1.0}
NUMBER = r"([0-9]{1,6}(?:[.,][0-9]{1,12})?(?:[eE][+-]?[0-9]{1,2})?)"  # a decimal comma stands where Windows wants one
NAMES = {"red": 0, "r": 0, "green": 1, "g": 1, "blue": 2, "b": 2}
COLOURS = {0xFF000000: 0, 0x00FF0000: 1, 0x0000FF00: 2}  # RGBA, without the alpha


class PixelSize(NamedTuple):
    """Micrometres per pixel where the file says something that can be, and a note on it.

    Attributes
    ----------
    pixel_um : float or None
        Micrometres per pixel; None where the file says nothing that can be.
    note : str
        What is odd in what it says; else empty.
    """

    pixel_um: float | None
    note: str


def check_pixel_um(pixel_um: object, name: str = "pixel_um") -> None:
    """Raises `UsageError` for a scale that no microscope has, and for what is no number; `name` is the argument's."""
    if not isinstance(pixel_um, Real) or isinstance(pixel_um, bool):
        raise UsageError(f"{name} is {pixel_um!r}: micrometres per pixel are a number")
    if not LEAST_UM < float(pixel_um) < MOST_UM:
        raise UsageError(f"{name} is {pixel_um}: micrometres per pixel must lie between {LEAST_UM} and {MOST_UM}")


def first_usable(*found: PixelSize | None) -> PixelSize | None:
    """The first that says a scale; else the first that says why it doesn't."""
    said = [one for one in found if one is not None]
    return next((one for one in said if one.pixel_um is not None), said[0] if said else None)


def plausible_pixel_size(across: float | None, down: float | None, origin: str) -> PixelSize | None:
    """The scale if both directions agree, else a note; None if no plausible scale of a microscope is given.

    Exactly 1.0 is what libraries write for a scale that nobody set (nd2, bioio and ome-zarr among them): a note as well.
    """
    if across is None or not math.isfinite(across):
        return None
    down = across if down is None or not math.isfinite(down) else down
    if not (LEAST_UM < across < MOST_UM and LEAST_UM < down < MOST_UM):
        return None
    if abs(across - down) > SQUARE_WITHIN * across:
        return PixelSize(None, f"{origin} says {across:g} x {down:g} micrometres a pixel: not square, so it isn't used")
    if abs(across - 1) < 1e-9 and abs(down - 1) < 1e-9:
        return PixelSize(None, f"{origin} {NOT_A_SCALE}")
    return PixelSize((across + down) / 2, f"{(across + down) / 2:.4g} micrometres a pixel by {origin}")


def from_ome(pixels: Element) -> PixelSize | None:
    """The physical size of a pixel by an OME-XML's `Pixels`."""
    across, down = (_length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY")
    return plausible_pixel_size(across, down, "OME-XML")


def _length(text: str | None, unit: str) -> float | None:
    try:
        return float(text or "nan") * UNITS[unit]
    except (ValueError, KeyError):
        return None


def from_tags(resolution: tuple[object, object], unit: int, software: str = "") -> PixelSize | None:
    """The scale by a TIFF's XResolution and YResolution (fractions as two numbers) in pixels per unit.

    Trestle's MedScan writes micrometres per pixel there, without a unit.
    """
    if unit == NO_UNIT and software.startswith("MedScan"):
        across, down = (_fraction(value) for value in resolution)
        return plausible_pixel_size(across, down, "the resolution tags")
    whole = RESOLUTION_UNITS.get(unit)
    return _from_density(resolution, whole, "the resolution tags") if whole else None


def from_imagej(description: str, resolution: tuple[object, object]) -> PixelSize | None:
    """The scale as ImageJ and Fiji keep it: the same tags, in pixels per the unit that their description names."""
    unit = re.search(r"^unit=(\S+)", description, re.MULTILINE) if description.startswith("ImageJ=") else None
    if not unit:
        return None
    whole = IMAGEJ_UNITS.get(unit[1]) or WORDS.get(unit[1].lower().removesuffix("s"))
    return _from_density(resolution, whole, "ImageJ's description") if whole else None


def _from_density(resolution: tuple[object, object], whole: float, origin: str) -> PixelSize | None:
    """The scale of so many pixels in `whole` micrometres, across and down."""
    across, down = (_fraction(value) for value in resolution)
    return plausible_pixel_size(whole / across if across else None, whole / down if down else None, origin)


def _fraction(value: object) -> float | None:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return float(value) if isinstance(value, int | float) else None


def from_text(description: str) -> PixelSize | None:
    """The scale in a slide scanner's description: 'MPP = 0.2521' of Aperio, or '0,2521' as some Windows write it."""
    found = re.search(rf"\bMPP\s*=\s*{NUMBER}", description)
    return plausible_pixel_size(float(found[1].replace(",", ".")), None, "the scanner's description") if found else None


def from_philips(description: str) -> PixelSize | None:
    """The scale in the XML of a Philips scanner: DICOM_PIXEL_SPACING of its slide, in millimetres, down and then across."""
    root = parse_xml(description) if "DICOM_PIXEL_SPACING" in description else None
    if root is None:
        return None
    images = [item for item in root.iter("DataObject") if item.get("ObjectType") == "DPScannedImage"]
    slides = [image for image in images if _attribute(image, "PIM_DP_IMAGE_TYPE") == "WSI"]
    spacing = _attribute(slides[0], "DICOM_PIXEL_SPACING") if slides else None
    numbers = [float(number.replace(",", ".")) * 1e3 for number in re.findall(NUMBER, spacing or "")]
    return plausible_pixel_size(numbers[1], numbers[0], "the scanner's description") if len(numbers) == 2 else None


def _attribute(item: Element, name: str) -> str | None:
    """The first of this name, of the item itself or of what it holds."""
    return next((one.text for one in item.iter("Attribute") if one.get("Name") == name), None)


def parse_xml(text: str) -> ElementTree.Element | None:
    """The root of an XML; None of what is none, or declares entities, which may unfold without end."""
    if "<!ENTITY" in text or "<!DOCTYPE" in text:  # neither OME-XML nor a scanner's has them
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def _named(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """The elements of this name in whatever namespace."""
    return (item for item in root.iter() if item.tag.rpartition("}")[2] == name)


def pixels_element(xml: str, number: int, size: tuple[int, int]) -> ElementTree.Element | None:
    """The `Pixels` of the image that is `number` in its file and of this width and height, or of the only one."""
    root = parse_xml(xml)
    found = [] if root is None else list(_named(root, "Pixels"))
    if len(found) == 1:
        return found[0]
    # some of the images may stand in other files
    fitting = [
        one for one in found[number : number + 1] + found if (one.get("SizeX"), one.get("SizeY")) == tuple(map(str, size))
    ]
    return fitting[0] if fitting else None


def colour_order(pixels: ElementTree.Element | None) -> tuple[int, int, int] | None:
    """Which of an image's three channels is red, which green and which blue, by their names or else by their colours."""
    channels = [] if pixels is None else list(_named(pixels, "Channel"))
    named = [NAMES.get(channel.get("Name", "").strip().lower()) for channel in channels]
    coloured = [_colour(channel.get("Color", "")) for channel in channels]
    for found in (named, coloured):
        if len(found) == 3 and set(found) == {0, 1, 2}:
            return found.index(0), found.index(1), found.index(2)
    return None


def _colour(text: str) -> int | None:
    try:
        return COLOURS.get(int(text) & 0xFFFFFF00)
    except ValueError:
        return None
